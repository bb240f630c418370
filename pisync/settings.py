"""Every setting, read from the environment (prefix `PISYNC_`) here and nowhere else.

A program loads its own class: the settings that all programs have in common, and those that it alone has. One
of them that is wrong, or that contradicts another, stops the program with a message that names it; a fault in
another program's settings does not. A variable that no program has stops every program.
"""

import ipaddress
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pisync import limits, urls
from pisync.domain import topics
from pisync.domain.recipients import is_mail_address
from pisync.errors import ConfigurationError
from pisync.mqtt.address import MqttAddress
from pisync.smtp_address import SmtpAddress
from pisync.stores.mongodb.address import check_mongodb_url
from pisync.stores.redis.address import check_redis_url

PREFIX: Final = "PISYNC_"


def _topic_level(name: str) -> str:
    if not topics.is_device_id(name):
        raise ValueError(
            "must be 1 to 64 of letters, digits, '.', '_' and '-', beginning with a letter or digit"
        )
    return name


ProgramId = Annotated[str, AfterValidator(_topic_level)]
"""The id of one bridge or one api replica, which may stand in topics as a device's does."""


class CommonSettings(BaseSettings):
    """What all programs have in common: the connections and the logs."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    mqtt_url: str = Field(
        "mqtt://127.0.0.1:1883",
        description="Broker, `mqtt://` or `mqtts://user:password@host:port`.",
        repr=False,
    )
    mqtt_ca_file: Path | None = Field(
        None, description="CA certificates (PEM) for `mqtts://`; without it, the system's."
    )
    mongodb_url: str = Field(
        "mongodb://127.0.0.1:27017/pisync",
        description="MongoDB connection string with the database's name.",
        repr=False,
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", description="Redis, `redis://` or `rediss://`.", repr=False
    )
    log_format: Literal["console", "json"] = Field("console", description="Shape of log lines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged."
    )

    @field_validator("mqtt_url")
    @classmethod
    def _broker_url(cls, url: str) -> str:
        MqttAddress(url)
        return url

    @field_validator("mongodb_url")
    @classmethod
    def _mongodb(cls, url: str) -> str:
        check_mongodb_url(url)
        return url

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, url: str) -> str:
        check_redis_url(url)
        return url

    @model_validator(mode="after")
    def _ca_file_is_usable(self) -> Self:
        if self.mqtt_ca_file is not None:
            if not MqttAddress(self.mqtt_url).tls:
                raise ValueError(
                    "MQTT_CA_FILE is set, but MQTT_URL is mqtt://, which is not encrypted; use mqtts://"
                )
            if not self.mqtt_ca_file.is_file():
                raise ValueError(f"MQTT_CA_FILE: there is no file {self.mqtt_ca_file}")
        return self

    @property
    def mqtt(self) -> MqttAddress:
        """The broker's address."""
        return MqttAddress(self.mqtt_url)


class BridgeSettings(CommonSettings):
    """The settings of `pisync bridge`."""

    bridge_id: ProgramId = Field(
        "bridge-0",
        description="Stable name of one bridge; with an `@` before it its MQTT client id, and so its session"
        " in the broker.",
    )
    batch_messages_max: int = Field(
        limits.BATCH_MESSAGES_MAX,
        ge=1,
        le=10_000,
        description="Messages in one batch, at most; each may hold up to 500 events.",
    )
    batches_inflight_max: int = Field(
        limits.BATCHES_INFLIGHT_MAX, ge=1, le=64, description="Batches under way at once, at most."
    )
    linger_ms: float = Field(
        limits.LINGER_MS,
        ge=0,
        le=1000,
        description="How long a message may wait for others to make its batch larger, in milliseconds; the"
        " first after a while, and one in a batch that is full, waits for none.",
    )
    inflight_messages_max: int = Field(
        limits.INFLIGHT_MESSAGES_MAX,
        ge=1,
        le=1_000_000,
        description="Unacknowledged messages held in memory; beyond it the socket is not read.",
    )
    inflight_bytes_max: int = Field(
        limits.INFLIGHT_BYTES_MAX,
        ge=1,
        description="Bytes of unacknowledged messages held in memory; beyond it the socket is not read.",
    )
    dead_letter_days: int | None = Field(
        None,
        ge=1,
        le=20_000,
        description="Days after which a dead letter that did not come again is deleted; without it, never.",
    )
    drain_timeout_s: float = Field(
        limits.DRAIN_TIMEOUT_S,
        gt=0,
        le=600,
        description="How long a stopping bridge may take to finish what is in flight, in seconds.",
    )
    metrics_host: str = Field(
        "127.0.0.1",
        description="Address the bridge serves its metrics on; everybody who reaches it can read them.",
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port on which the bridge serves `/metrics`, `/healthz` and `/livez`; without it, it does"
        " not.",
    )

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        if self.inflight_messages_max < self.batches_inflight_max:
            raise ValueError(
                "INFLIGHT_MESSAGES_MAX is smaller than BATCHES_INFLIGHT_MAX: no batch could fill"
            )
        if self.inflight_bytes_max < limits.BRIDGE_PACKET_BYTES_MAX:
            raise ValueError(
                f"INFLIGHT_BYTES_MAX must hold at least one message of {limits.BRIDGE_PACKET_BYTES_MAX} bytes"
            )
        return self


class ApiSettings(CommonSettings):
    """The settings of `pisync api`."""

    http_host: str = Field(
        "127.0.0.1", description="Address the api listens on. Beyond loopback it wants `PISYNC_API_KEYS`."
    )
    demo: bool = Field(
        False, description="Every page says that the fleet is made up; `pisync up --demo` sets it."
    )
    http_port: int = Field(8080, ge=0, le=65535, description="Port the api listens on.")
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Keys that open the api, separated by commas, each at least 16 characters;"
        " sent as `Authorization: Bearer KEY`, by browsers as the password of HTTP Basic.",
    )
    allow_anonymous: bool = Field(
        False,
        description="Serve beyond loopback without keys, because something in front of the api guards it.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Names that `Host` may have beside those of loopback, separated by commas; `*` for any."
        " Without it, an api that listens beyond loopback takes every name.",
    )
    root_path: str = Field(
        "",
        description="Path under which a proxy serves the api, such as `/pisync`;"
        " the proxy may cut it off or not.",
    )
    trusted_proxies: Annotated[tuple[IPvAnyNetwork, ...], NoDecode] = Field(
        (),
        description="Addresses and networks of proxies, separated by commas."
        " Their `X-Forwarded-Prefix` is believed: the path that they have cut off.",
    )
    api_id: ProgramId = Field(
        default_factory=lambda: f"api-{secrets.token_hex(4)}",
        description="Name of one api replica in its receipts topic; made up at start when absent.",
    )
    receipt_timeout_s: float = Field(
        limits.RECEIPT_TIMEOUT_S,
        gt=0,
        le=60,
        description="How long a POST waits for the bridge's receipt, in seconds.",
    )
    metrics_host: str = Field(
        "127.0.0.1",
        description="Address the api serves its metrics on, beside its own; everybody who reaches it can read"
        " them.",
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port on which the api serves `/metrics`, `/healthz` and `/livez`; without it, it does"
        " not.",
    )

    @field_validator("api_keys", "allowed_hosts", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part for part in (part.strip() for part in value.split(",")) if part)
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _names_only(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name != "*" and not (re.fullmatch(r"[A-Za-z0-9._-]+", name) or _is_address(name)):
                raise ValueError("must be names or addresses, without a port: pisync.example.org")
        return names

    @field_validator("root_path")
    @classmethod
    def _path_of_its_own(cls, path: str) -> str:
        path = path.rstrip("/")
        if path and not re.fullmatch(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+", path):
            raise ValueError("must be a path such as /pisync")
        if path.split("/")[1:2] and path.split("/")[1] in {"api", "docs"}:
            raise ValueError(f"begins as the api's own paths do: nobody could tell {path} from them")
        return path

    @field_validator("api_keys")
    @classmethod
    def _long_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(key.get_secret_value()) < 16 for key in keys):
            raise ValueError("each key needs at least 16 characters")
        return keys

    @model_validator(mode="after")
    def _guarded_beyond_loopback(self) -> Self:
        if not (is_loopback(self.http_host) or self.api_keys or self.allow_anonymous):
            raise ValueError(
                f"HTTP_HOST {self.http_host} is reachable from other machines and API_KEYS is empty:"
                " set API_KEYS,"
                " or ALLOW_ANONYMOUS=true where something in front of the api guards it"
            )
        return self


class WorkerSettings(CommonSettings):
    """The settings of `pisync worker`."""

    retention_days: int | None = Field(
        None,
        ge=limits.RETENTION_DAYS_MIN,
        le=limits.RETENTION_DAYS_MAX,
        description="For how many days after their receipt events are kept; without it, for ever.",
    )
    smtp_url: str = Field(
        "",
        description="Mail server, `smtp://user:password@host:587` with STARTTLS (`?starttls=off` without) or"
        " `smtps://`; without it no mail is sent.",
        repr=False,
    )
    smtp_from: str = Field("", description="Mail address that mail comes from; needed with a mail server.")
    public_url: str = Field(
        "",
        description="URL under which operators reach the pages, such as `https://pisync.example.org`;"
        " notifications link to them.",
    )

    metrics_host: str = Field(
        "127.0.0.1",
        description="Address the worker serves its metrics on; everybody who reaches it can read them.",
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port on which the worker serves `/metrics`, `/healthz` and `/livez`; without it, it does"
        " not.",
    )

    @field_validator("smtp_url")
    @classmethod
    def _mail_server(cls, url: str) -> str:
        if url:
            SmtpAddress(url)
        return url

    @field_validator("public_url")
    @classmethod
    def _pages(cls, url: str) -> str:
        if url:
            parts = urls.parse(url, schemes=("http", "https"))
            if len(parts.hosts) != 1 or parts.username is not None or parts.options:
                raise ValueError("must name one host, and have no user name and no options")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _mail_has_a_sender(self) -> Self:
        if self.smtp_url and not is_mail_address(self.smtp_from):
            raise ValueError("SMTP_FROM must be one mail address, such as pisync@example.org, with SMTP_URL")
        return self


PROGRAMS: Final[Mapping[str, type[CommonSettings]]] = {
    "bridge": BridgeSettings,
    "api": ApiSettings,
    "worker": WorkerSettings,
}
"""The programs that have settings of their own, by their command."""

AnySettings = TypeVar("AnySettings", bound=CommonSettings)


def variables(*classes: type[CommonSettings]) -> frozenset[str]:
    """The environment variables of these classes; of all programs without an argument."""
    return frozenset(
        f"{PREFIX}{name.upper()}"
        for settings in classes or (CommonSettings, *PROGRAMS.values())
        for name in settings.model_fields
    )


def load(settings: type[AnySettings], **overrides: object) -> AnySettings:
    """A program's settings from the environment, with what options of the same names override.

    Raises:
        ConfigurationError: one of them is wrong, or no program has a setting of a name that is in the
            environment; the message has a line for each fault, and names the option where one was given.
    """
    known = variables()
    ours = sorted(name for name in os.environ if name.startswith(PREFIX))
    injected = [name for name in ours if _SERVICE_LINK.match(os.environ[name])]
    if injected:
        raise ConfigurationError(_about_service_links(injected))
    strays = [name for name in ours if name not in known]
    if strays:
        raise ConfigurationError(
            "\n".join(f"{name}: there is no such setting; see docs/operations.md" for name in strays)
        )
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = []
        for fault in error.errors(include_url=False, include_input=False):
            name = "".join(f"{PREFIX}{str(part).upper()}" for part in fault["loc"][:1])
            message = fault["msg"].removeprefix("Value error, ")
            line = f"{name}: {message}" if name else f"{PREFIX}{message}"
            for option in given:
                line = re.sub(rf"\b({PREFIX})?{option.upper()}\b", f"--{option.replace('_', '-')}", line)
            lines.append(line)
        raise ConfigurationError("\n".join(lines)) from None


# What Kubernetes puts into `<SERVICE>_PORT` for every service that it finds in the pod's namespace.
_SERVICE_LINK: Final = re.compile(r"(tcp|udp|sctp)://", re.IGNORECASE)


def _about_service_links(names: Sequence[str]) -> str:
    """What the variables are from; a service has several, such as `…_PORT` and `…_PORT_80_TCP`."""
    services = {re.sub(r"_PORT(_[0-9]+_[A-Z]+)?$", "", name).lower().replace("_", "-") for name in names}
    return (
        f"{', '.join(names)}: not a setting, but a service link: Kubernetes sets such variables in every pod"
        f" for the service named {' or '.join(sorted(services))}. Set enableServiceLinks: false in the pod's"
        " spec, or give the service a name that does not begin with pisync"
    )


def child_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment for a child, with the given settings in place of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return inherited | {f"{PREFIX}{name.upper()}": value for name, value in settings.items()}


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on this address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
