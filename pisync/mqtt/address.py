"""Where the broker is."""

from pisync import urls


class MqttAddress:
    """Where and as whom to connect to the broker, from an `mqtt://` or `mqtts://` URL."""

    def __init__(self, url: str) -> None:
        """Parse the URL.

        Raises:
            ValueError: the URL is not one of a broker; the text does not quote it.
        """
        parts = urls.parse(url, schemes=("mqtt", "mqtts"))
        if not parts.hosts:
            raise ValueError("names no host")
        if len(parts.hosts) > 1:
            raise ValueError("names more than one host")
        if parts.path:
            raise ValueError("takes no path")
        urls.check_options(parts, taken={}, refused={})
        self.tls = parts.scheme == "mqtts"
        self.host = parts.hosts[0].name
        self.port = parts.hosts[0].port or (8883 if self.tls else 1883)
        self.username, self.password = parts.username, parts.password
        if self.password is not None and not self.username:
            raise ValueError("has a password, but no user name")

    def __str__(self) -> str:
        """The URL without its credentials, for logs."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"
