"""Where a broker is, and as whom to connect to it; a URL may name several that share the devices."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from pisync import urls


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientCertificate:
    """The files, as PEM, of a certificate that a client shows, and of its key."""

    certificate: Path
    key: Path


class MqttAddress:
    """Where and as whom to connect to a broker, from an `mqtt://` or `mqtts://` URL."""

    def __init__(self, url: str, *, shows: ClientCertificate | None = None, place: int | None = None) -> None:
        """Parse the URL.

        Args:
            url: the broker's.
            shows: the certificate to show to a broker that asks for one.
            place: which of the URL's hosts, from 0; None: it is to have one only.

        Raises:
            ValueError: the URL is not one of a broker; the text does not quote it.
        """
        parts = urls.parse(url, schemes=("mqtt", "mqtts"))
        if not parts.hosts:
            raise ValueError("names no host")
        if place is None and len(parts.hosts) > 1:
            raise ValueError("names more than one host")
        if parts.path:
            raise ValueError("takes no path")
        urls.check_options(parts, taken={}, refused={})
        self.tls = parts.scheme == "mqtts"
        self.shows = shows
        host = parts.hosts[place or 0]
        self.host = host.name
        self.port = host.port or (8883 if self.tls else 1883)
        self.username, self.password = parts.username, parts.password
        if self.password is not None and not self.username:
            raise ValueError("has a password, but no user name")

    def __str__(self) -> str:
        """The URL without its credentials, for logs."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


def every_address(url: str, *, shows: ClientCertificate | None = None) -> tuple[MqttAddress, ...]:
    """Each of the brokers that a URL names, in its order; user name, password and TLS are the same for all.

    Raises:
        ValueError: the URL is not one of brokers, or names one twice; the text does not quote it.
    """
    if "://" in url.partition("://")[2]:
        raise ValueError("has :// more than once: the scheme stands before the first host, for all of them")
    count = len(urls.parse(url, schemes=("mqtt", "mqtts")).hosts)
    found = tuple(MqttAddress(url, shows=shows, place=place) for place in range(max(1, count)))
    # Two clients of one id at one broker would end each other's connections for ever.
    if len({(_one_spelling(each.host), each.port) for each in found}) < len(found):
        raise ValueError("names a broker twice")
    return found


def _one_spelling(host: str) -> str:
    """The same text for a host however it is spelt."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower().removesuffix(".")
