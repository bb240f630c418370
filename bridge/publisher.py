"""What the bridge's parts need in order to publish; the MQTT session is one."""

from typing import Protocol


class Publisher(Protocol):
    """Sends messages over whichever connection there is."""

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        correlation_data: bytes | None = None,
        expiry_s: int | None = None,
        retain: bool = False,
    ) -> None:
        """Send a message if there is a connection."""
