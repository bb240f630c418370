"""Mosquitto with TLS and access control, that may lose its list of devices."""

from pathlib import Path

from local_stack.broker_credentials import BrokerCredentials
from local_stack.secure_broker import SecureMosquittoServer


class AccessBroker(SecureMosquittoServer):
    """Lets no device in at first."""

    def __init__(self, directory: Path, *, port: int | None = None, log: Path | None = None) -> None:
        """Describe the broker; its credentials are in its directory."""
        super().__init__(directory, BrokerCredentials(directory / "credentials"), port=port, log=log)

    def lose_list(self) -> None:
        """Know the programs' accounts alone; for a broker that does not run."""
        self.write_state()
