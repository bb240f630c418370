"""The mail server's address: what a `smtp://` or `smtps://` URL says."""

import ipaddress
from typing import Final

from pisync import urls

_PORTS: Final = {"smtp": 587, "smtps": 465}
_STARTTLS: Final = "starttls"


class SmtpAddress:
    """The parts of a URL that sending mail needs.

    `tls` is from the first byte on; `starttls` before anything is said that is secret.
    """

    def __init__(self, url: str) -> None:
        """Take the URL apart.

        Raises:
            ValueError: it is not one, or would send a password that everybody can read; it is not quoted.
        """
        parts = urls.parse(url, schemes=_PORTS)
        if len(parts.hosts) != 1 or parts.path:
            raise ValueError("must name one host, and no path")
        self.host = parts.hosts[0].name
        self.port = parts.hosts[0].port or _PORTS[parts.scheme]
        self.username, self.password = parts.username, parts.password
        self.tls = parts.scheme == "smtps"
        taken = {} if self.tls else {_STARTTLS: urls.one_of("required", "off")}
        urls.check_options(parts, taken=taken, refused={})
        self.starttls = not self.tls and dict(parts.options).get(_STARTTLS) != "off"
        if (self.username is None) != (self.password is None):
            raise ValueError("must have both a user name and a password, or neither")
        if self.password is not None and not (self.tls or self.starttls or _is_here(self.host)):
            raise ValueError("would send its password without encryption: leave starttls=off out")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
