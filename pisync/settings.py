"""Every setting, read from the environment (prefix `PISYNC_`) here and nowhere else.

A program loads its own class: the settings that all programs have in common, and those that it alone has. One
of them that is wrong, or that contradicts another, stops the program with a message that names it; a fault in
another program's settings does not. A variable that no program has stops every program. A setting that
holds a secret (one that is not shown: `repr=False`, or of a type that hides it) may come from a file:
`PISYNC_…_FILE`.
"""

import ipaddress
import os
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, Self, TypeVar

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

from pisync import limits, secret_files, urls
from pisync.domain import topics
from pisync.domain.access import Role, read_name, read_roles
from pisync.domain.recipients import is_mail_address
from pisync.errors import ConfigurationError
from pisync.mqtt.address import ClientCertificate, MqttAddress, every_address
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


def _pages(url: str) -> str:
    if url:
        parts = urls.parse(url, schemes=("http", "https"))
        if len(parts.hosts) != 1 or parts.username is not None or parts.options:
            raise ValueError("must name one host, and have no user name and no options")
    return url.rstrip("/")


PublicUrl = Annotated[str, AfterValidator(_pages)]
"""A URL under which browsers reach the pages; empty: nobody said."""


_PUBLIC_URL: Final = (
    "URL under which operators reach the pages, such as `https://pisync.example.org`; notifications link to"
    " them, and an identity provider sends browsers back there."
)


class CommonSettings(BaseSettings):
    """What all programs have in common: the connections and the logs."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    mqtt_url: str = Field(
        "mqtt://127.0.0.1:1883",
        description="Broker, `mqtt://` or `mqtts://user:password@host:port`; several that share the devices,"
        " `mqtt://host1,host2`, for the api, the worker and, its own first, a bridge.",
        repr=False,
    )
    mqtt_ca_file: Path | None = Field(
        None, description="CA certificates (PEM) for `mqtts://`; without it, the system's."
    )
    mqtt_cert_file: Path | None = Field(
        None, description="Certificate (PEM) to show to the broker, for `mqtts://`; with `MQTT_KEY_FILE`."
    )
    mqtt_key_file: Path | None = Field(
        None, description="Key (PEM, without a passphrase) of the certificate in `MQTT_CERT_FILE`."
    )
    mongodb_url: str = Field(
        "mongodb://127.0.0.1:27017/pisync",
        description="MongoDB connection string with the database's name.",
        repr=False,
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="Redis, `redis://` or `rediss://`; where it is several processes, `redis+sentinel://` or"
        " `redis+cluster://`.",
        repr=False,
    )
    log_format: Literal["console", "json"] = Field("console", description="Shape of log lines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged."
    )

    @field_validator("mqtt_url")
    @classmethod
    def _broker_url(cls, url: str) -> str:
        every_address(url)
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
    def _tls_files_are_usable(self) -> Self:
        files = {"CA": self.mqtt_ca_file, "CERT": self.mqtt_cert_file, "KEY": self.mqtt_key_file}
        for name, file in files.items():
            if file is None:
                continue
            if not every_address(self.mqtt_url)[0].tls:
                raise ValueError(
                    f"MQTT_{name}_FILE is set, but MQTT_URL is mqtt://, which is not encrypted; use mqtts://"
                )
            if not file.is_file():
                raise ValueError(f"MQTT_{name}_FILE: there is no file {file}")
        if (self.mqtt_cert_file is None) != (self.mqtt_key_file is None):
            raise ValueError("MQTT_CERT_FILE and MQTT_KEY_FILE are set together, or neither")
        return self

    @property
    def mqtt(self) -> MqttAddress:
        """The address of the only broker, with the certificate that is shown to it.

        Raises:
            ConfigurationError: there are several.
        """
        brokers = self.brokers
        if len(brokers) > 1:
            raise ConfigurationError(f"{PREFIX}MQTT_URL: names more than one broker, and this is about one")
        return brokers[0]

    @property
    def brokers(self) -> tuple[MqttAddress, ...]:
        """The address of each broker; the certificate that is shown is the same for all."""
        return every_address(self.mqtt_url, shows=self._shows)

    @property
    def _shows(self) -> ClientCertificate | None:
        if self.mqtt_cert_file is None or self.mqtt_key_file is None:
            return None
        return ClientCertificate(certificate=self.mqtt_cert_file, key=self.mqtt_key_file)


class BridgeSettings(CommonSettings):
    """The settings of `pisync bridge`."""

    bridge_id: ProgramId = Field(
        "bridge-0",
        description="Stable name of one bridge; with an `@` before it its MQTT client id, and so its session"
        " in the broker.",
    )
    shared_subscription: str = Field(
        f"$share/{topics.BRIDGE_GROUP}",
        pattern=r"^\$(share|queue)/[A-Za-z0-9._-]{1,64}$",
        description="What stands before the topics that bridges subscribe to: `$share/GROUP`, the same for"
        " all of a broker; `$queue/NAME` for a message queue of EMQX.",
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
    device_events_burst: int = Field(
        limits.DEVICE_EVENTS_BURST,
        ge=limits.MESSAGE_EVENTS_MAX,
        description="Events that one device may send at once; what exceeds it goes to the quarantine.",
    )
    device_bytes_burst: int = Field(
        limits.DEVICE_BYTES_BURST,
        ge=limits.BRIDGE_PACKET_BYTES_MAX,
        description="Bytes that one device may send at once. Half of these and half of the events are as much"
        " as all of either.",
    )
    device_refill_s: float = Field(
        limits.DEVICE_REFILL_S,
        gt=0,
        le=86_400,
        description="Within how many seconds a device may send as much again.",
    )
    unknown_devices: Literal["taken", "quarantined", "refused"] = Field(
        "taken",
        description="What becomes of messages of devices that are not in the directory: they are `taken` in;"
        " `quarantined` as dead letters, which can be replayed; or `refused`, so that the device keeps them.",
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

    @property
    def mqtt(self) -> MqttAddress:
        """The address of the bridge's own broker, the first."""
        return self.brokers[0]

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
        "127.0.0.1",
        description="Address the api listens on. Beyond loopback it wants a key: `pisync keys create`, or"
        " `PISYNC_API_KEYS`.",
    )
    demo: bool = Field(
        False, description="Every page says that the fleet is made up; `pisync up --demo` sets it."
    )
    http_port: int = Field(8080, ge=0, le=65535, description="Port the api listens on.")
    api_workers: int = Field(
        1,
        ge=1,
        le=limits.API_PROCESSES_MAX,
        description="Processes that serve at this port; each holds the fleet in memory, and has the limits of"
        " a replica for itself.",
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Keys that open the api, separated by commas, each `KEY` (an admin's) or `NAME:ROLE:KEY`"
        " with a role of `read`, `ingest`, `operate`, `admin`, and of at least 16 characters; sent as"
        " `Authorization: Bearer KEY`, by browsers as the password of HTTP Basic. `pisync keys create` makes"
        " better ones.",
    )
    key_requests_per_s: float = Field(
        limits.KEY_REQUESTS_PER_S,
        ge=1,
        description="Requests a second of one key, on average, and of one address while the api asks for no"
        " key; ten seconds' worth of them may come at once. What exceeds it is answered 429.",
    )
    address_requests_per_s: float = Field(
        limits.ADDRESS_REQUESTS_PER_S,
        ge=1,
        description="The same, of one address that should send a key and sends none.",
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
        " Their `X-Forwarded-Prefix` is believed, the path that they have cut off, and their"
        " `X-Forwarded-For`, the address that a request comes from. Of"
        " `X-Forwarded-Proto` they say whether it came by HTTPS.",
    )
    api_id: ProgramId = Field(
        default_factory=lambda: f"api-{secrets.token_hex(4)}",
        description="Name of one api replica in its receipts topic; made up at start when absent. With"
        " several processes, their numbers stand behind it.",
    )
    api_reads: Literal["primary", "secondaries"] = Field(
        "primary",
        description="Where histories of devices are read: from the `primary`, or from `secondaries` of the"
        " replica set, which may lack the newest; answers and pages say so. All else is the primary's.",
    )
    receipt_timeout_s: float = Field(
        limits.RECEIPT_TIMEOUT_S,
        gt=0,
        le=60,
        description="How long a POST waits for the bridge's receipt, in seconds.",
    )
    certificate_files: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="Certificates and lists of revoked ones (PEM), separated by commas, such as the broker's:"
        " `/health` and metrics tell when they end.",
    )
    enrolment_ca_directory: Path | None = Field(
        None,
        description="Directory of the certificate authority by which `POST /api/enrol` signs for devices with"
        " a token; without it nothing is signed.",
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
        " not. With several processes each has a port of its own: this one, the next, and so on.",
    )
    public_url: PublicUrl = Field("", description=_PUBLIC_URL)
    oidc_issuer: str = Field(
        "",
        description="Issuer of an identity provider (OpenID Connect) with which people may sign in, such as"
        " `https://login.example.org/realms/ministry`; needs the settings of OIDC below, and"
        " `PISYNC_PUBLIC_URL`.",
    )
    oidc_client_id: str = Field("", description="Id under which the identity provider knows PiSync.")
    oidc_client_secret: SecretStr | None = Field(None, description="Secret that it gave PiSync.")
    oidc_roles: str = Field(
        "",
        description="Which values of the claim give which role, such as"
        " `admin=pisync-admins,operate=district-offices,read=everyone`; a role may stand several times.",
    )
    oidc_roles_claim: str = Field(
        "groups",
        description="Claim that has these values; `realm_access.roles` is `roles` within `realm_access`.",
    )
    oidc_name: str = Field(
        "your organisation", max_length=60, description="Name of the identity provider on the login page."
    )

    @field_validator("api_keys", "allowed_hosts", "trusted_proxies", "certificate_files", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part for part in (part.strip() for part in re.split(r"[,\n]", value)) if part)
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
    def _usable_keys(cls, entries: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        keys = [_configured_key(entry, place) for place, entry in enumerate(entries, start=1)]
        if any(len(key.secret.get_secret_value()) < limits.CONFIGURED_KEY_CHARS_MIN for key in keys):
            raise ValueError(f"each key needs at least {limits.CONFIGURED_KEY_CHARS_MIN} characters")
        if len({key.name for key in keys}) < len(keys):
            raise ValueError("each name may be given once")
        return entries

    @property
    def configured_keys(self) -> tuple["ConfiguredKey", ...]:
        """The entries of `API_KEYS`, each with the name and the roles that it says."""
        return tuple(_configured_key(entry, place) for place, entry in enumerate(self.api_keys, start=1))

    @model_validator(mode="after")
    def _processes_have_places(self) -> Self:
        last = self.api_workers - 1
        if self.metrics_port is not None and not self.metrics_port + last <= 65535:
            raise ValueError("METRICS_PORT and those after it, one for each of API_WORKERS, go beyond 65535")
        if last and not topics.is_device_id(f"{self.api_id}-{last}"):
            raise ValueError("API_ID is too long for the numbers of API_WORKERS behind it")
        return self

    @model_validator(mode="after")
    def _identity_provider_is_whole(self) -> Self:
        if not self.oidc_issuer:
            return self
        try:
            parts = urls.parse(self.oidc_issuer, schemes=("http", "https"))
        except ValueError as error:
            raise ValueError(f"OIDC_ISSUER: {error}") from None
        if parts.scheme == "http" and not is_loopback(parts.hosts[0].name):
            raise ValueError("OIDC_ISSUER must be https://, or on this machine")
        for name in ("oidc_client_id", "oidc_roles", "public_url"):
            if not getattr(self, name):
                raise ValueError(f"OIDC_ISSUER is set, and {name.upper()} is not")
        if self.oidc_client_secret is None or not self.oidc_client_secret.get_secret_value():
            raise ValueError("OIDC_ISSUER is set, and OIDC_CLIENT_SECRET is not")
        if not self.oidc_roles_given:
            raise ValueError("OIDC_ROLES gives nobody a role")
        return self

    @property
    def oidc_roles_given(self) -> Mapping[Role, frozenset[str]]:
        """The values of the claim that give each role.

        Raises:
            ValueError: it cannot be read.
        """
        given: dict[Role, frozenset[str]] = {}
        for part in filter(None, (part.strip() for part in self.oidc_roles.split(","))):
            role, equals, value = part.partition("=")
            if role.strip() not in {*Role} or not equals or not value.strip():
                raise ValueError(
                    f"OIDC_ROLES must be ROLE=VALUE, separated by commas; roles are {', '.join(Role)}"
                )
            known = Role(role.strip())
            given[known] = given.get(known, frozenset()) | {value.strip()}
        return given


class ConfiguredKey(NamedTuple):
    """A key that is configured."""

    name: str
    roles: frozenset[Role]
    secret: SecretStr


def _configured_key(entry: SecretStr, place: int) -> ConfiguredKey:
    """What an entry of `API_KEYS` says.

    Raises:
        ValueError: it has two colons, and what is before them is no name, or no role.
    """
    name, _, rest = entry.get_secret_value().partition(":")
    role, colon, secret = rest.partition(":")
    if not colon:
        return ConfiguredKey(f"configured-{place}", frozenset({Role.ADMIN}), entry)
    try:
        return ConfiguredKey(read_name(name), read_roles([role]), SecretStr(secret))
    except ValueError:
        raise ValueError(
            f"the one at place {place} has colons, and so must be NAME:ROLE:KEY, with a role of"
            f" {', '.join(Role)}"
        ) from None


class WorkerSettings(CommonSettings):
    """The settings of `pisync worker`."""

    retention_days: int | None = Field(
        None,
        ge=limits.RETENTION_DAYS_MIN,
        le=limits.RETENTION_DAYS_MAX,
        description="For how many days after their receipt events are kept; without it, for ever.",
    )
    broker_admin_url: str = Field(
        "",
        description="Broker as the account that may change who is let in, `mqtts://%40warden:password@host:port`,"
        " or all of several; without it the worker leaves the broker's list of devices alone.",
        repr=False,
    )
    smtp_url: str = Field(
        "",
        description="Mail server, `smtp://user:password@host:587` with STARTTLS (`?starttls=off` without) or"
        " `smtps://`; without it no mail is sent.",
        repr=False,
    )
    smtp_from: str = Field("", description="Mail address that mail comes from; needed with a mail server.")
    public_url: PublicUrl = Field("", description=_PUBLIC_URL)

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

    @field_validator("broker_admin_url")
    @classmethod
    def _broker_admin(cls, url: str) -> str:
        if url:
            every_address(url)
        return url

    @field_validator("smtp_url")
    @classmethod
    def _mail_server(cls, url: str) -> str:
        if url:
            SmtpAddress(url)
        return url

    @property
    def broker_admins(self) -> tuple[MqttAddress, ...]:
        """Each broker as the account that may change who is let in; the certificate is the same."""
        return every_address(self.broker_admin_url, shows=self._shows)

    def check_every_broker_is_told(self) -> None:
        """Who is let in must be the same at each broker, so that each is to have an account for it.

        Raises:
            ConfigurationError: `BROKER_ADMIN_URL` is set, and names more or fewer than there are.
        """
        if self.broker_admin_url and len(self.broker_admins) != len(self.brokers):
            raise ConfigurationError(
                f"{PREFIX}BROKER_ADMIN_URL: names {len(self.broker_admins)} of {len(self.brokers)}"
                " brokers; who is let in must be the same at each"
            )

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
    every = classes or (CommonSettings, *PROGRAMS.values())
    own = {_variable(name) for settings in every for name in settings.model_fields}
    return frozenset(own | {f"{_variable(name)}{secret_files.SUFFIX}" for name in secret_settings(*every)})


def secret_settings(*classes: type[CommonSettings]) -> frozenset[str]:
    """The settings of these classes whose value is a secret or holds one; of all without an argument."""
    return frozenset(
        name
        for settings in classes or (CommonSettings, *PROGRAMS.values())
        for name, field in settings.model_fields.items()
        if not field.repr or "SecretStr" in str(field.annotation)
    )


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _from_files(settings: type[CommonSettings], given: Collection[str]) -> dict[str, str]:
    """The secrets that files hold, but for those that an option gives."""
    found: dict[str, str] = {}
    faults: list[str] = []
    for name in sorted(secret_settings(settings) - set(given)):
        variable = _variable(name)
        by_file = f"{variable}{secret_files.SUFFIX}"
        path = os.environ.get(by_file)
        if not path:
            continue
        if os.environ.get(variable):
            faults.append(f"{variable} and {by_file} are both set: which one holds is not to be guessed")
            continue
        try:
            found[name] = secret_files.read(path)
        except ValueError as error:
            faults.append(f"{by_file}: {error}")
    if faults:
        raise ConfigurationError("\n".join(faults))
    return found


def load(settings: type[AnySettings], **overrides: object) -> AnySettings:
    """A program's settings from the environment, with what options of the same names override.

    Raises:
        ConfigurationError: one of them is wrong, or no program has a setting of a name that is in the
            environment; the message has a line for each fault, and names the option where one was given.
    """
    known = variables()
    ours = in_environment()
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
        return settings(**_from_files(settings, given), **given)  # type: ignore[arg-type]
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


def in_environment() -> list[str]:
    """The names of all settings, and of what would be some, in this process's environment."""
    return sorted(name for name in os.environ if name.startswith(PREFIX))


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
