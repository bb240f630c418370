"""Where the broker is."""

from urllib.parse import unquote, urlsplit


class MqttAddress:
    """Where and as whom to connect to the broker, from an `mqtt://` or `mqtts://` URL."""

    def __init__(self, url: str) -> None:
        """Parse the URL.

        Raises:
            ValueError: the URL is not one of a broker.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"mqtt", "mqtts"}:
            raise ValueError("must begin with mqtt:// or mqtts://")
        if not parts.hostname:
            raise ValueError("names no host")
        if parts.path not in {"", "/"} or parts.query or parts.fragment:
            raise ValueError("takes no path, query or fragment")
        self.tls = parts.scheme == "mqtts"
        self.host = parts.hostname
        self.port = parts.port or (8883 if self.tls else 1883)
        self.username = None if parts.username is None else unquote(parts.username)
        self.password = None if parts.password is None else unquote(parts.password)
        if self.password is not None and not self.username:
            raise ValueError("has a password, but no user name")

    def __str__(self) -> str:
        """The URL without its credentials, for logs."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"
