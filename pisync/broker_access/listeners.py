"""The part of mosquitto.conf that says who is let in where: dynsec, and the listeners with TLS.

Devices and programs have listeners of their own, because a device's client id is its name, and a program has
several connections under several client ids. A device that reached the programs' listener would still need
the password of an account.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Listeners:
    """Where the broker listens, by what it is known, and whom it trusts.

    `authority` and `revoked` are of the authority that signs certificates of devices and programs. Without
    `passwords_port` there is no listener for devices that have a password and no certificate.
    """

    plugin: Path
    state: Path
    certificate: Path
    key: Path
    authority: Path
    revoked: Path
    devices_port: int = 8883
    passwords_port: int | None = None
    programs_port: int = 8885
    host: str = ""
    programs_host: str = ""


def configuration(listeners: Listeners) -> str:
    """The lines for mosquitto.conf, which has `mosquitto/limits.conf` and no other listener beside them."""
    parts = [_GUARD.format(plugin=listeners.plugin, state=listeners.state)]
    certified = _TLS.format(certificate=listeners.certificate, key=listeners.key) + _CERTIFIED.format(
        authority=listeners.authority, revoked=listeners.revoked
    )
    parts += [_DEVICES.format(address=_address(listeners.devices_port, listeners.host)), certified, _IDENTITY]
    if listeners.passwords_port is not None:
        parts.append(_PASSWORDS.format(address=_address(listeners.passwords_port, listeners.host)))
        parts.append(_TLS.format(certificate=listeners.certificate, key=listeners.key))
    parts += [_PROGRAMS.format(address=_address(listeners.programs_port, listeners.programs_host)), certified]
    return "".join(parts)


def _address(port: int, host: str) -> str:
    return f"{port} {host}" if host else f"{port}"


_GUARD = """\
# Made by PiSync: who is let in, and where. dynsec alone decides what they may; an acl_file beside it would
# let those whom it does not know subscribe to anything.
allow_anonymous false
plugin {plugin}
plugin_opt_config_file {state}
"""
_TLS = """\
certfile {certificate}
keyfile {key}
tls_version tlsv1.2
"""
_CERTIFIED = """\
cafile {authority}
crlfile {revoked}
require_certificate true
"""
_DEVICES = """
# Devices: the common name of its certificate is a device's user name and its client id, whatever it says.
listener {address}
"""
_IDENTITY = """\
use_identity_as_username true
use_username_as_clientid true
"""
_PASSWORDS = """
# Devices that have a password: the user name is the client id.
listener {address}
use_username_as_clientid true
"""
_PROGRAMS = """
# Bridges, the api, workers and tools: a certificate, and the name and password of an account.
listener {address}
"""
