"""One error tree. Each class says what to do with it; driver exceptions are mapped to it at the edge.

PiSyncError
├── ConfigurationError          stop: nothing but a person can mend it (exit 78)
├── SessionTakenOver            stop: another bridge has this bridge's id (exit 79); if only another client
│                               has our client id: connect again, and say so
├── ChildFailed                 stop: a program of the local stack does not run (local_stack/process.py)
├── RebuildInProgress           wait: somebody else rebuilds the projection, and is alive
├── LeaseLost                   wait: another worker has the duty, or it has to begin anew
├── CertificateRefused          tell whoever asked: what was given is not signed, or not taken
├── ArchiveUnusable             tell whoever asked: an archive is not whole, or cannot be read or written
├── Unavailable                 retry with backoff; acknowledge nothing meanwhile
│   ├── BrokerUnavailable
│   │   ├── BrokerHungUp        the broker closed the connection and said nothing
│   │   ├── PublishRefused      the broker did not take the message
│   │   └── ReplyLost           the request may have been carried out
│   └── StoreUnavailable
│       ├── MongodbUnavailable
│       └── RedisUnavailable
│           └── ProjectionLost  Redis answers, but what it held is gone: attach again
└── ProtocolError               disconnect and connect again
"""

from enum import StrEnum
from typing import ClassVar, Final


class PiSyncError(Exception):
    """Base of everything PiSync raises on purpose; `exit_code` is the process's when it ends one."""

    exit_code = 1


class ConfigurationError(PiSyncError):
    """A setting, a credential or a permission is wrong; trying again cannot help."""

    exit_code = 78


class SessionTakenOver(PiSyncError):  # noqa: N818 - MQTT's own name for it (reason code 0x8E)
    """The broker gave our session to another client with the same id."""

    exit_code = 79


class Part(StrEnum):
    """A server that PiSync needs, by its name in answers; `label` is its name for people."""

    MQTT = "mqtt"
    MONGODB = "mongodb"
    REDIS = "redis"

    @property
    def label(self) -> str:
        """Such as `MongoDB`."""
        return _LABELS[self]


_LABELS: Final = {Part.MQTT: "The MQTT broker", Part.MONGODB: "MongoDB", Part.REDIS: "Redis"}


class Unavailable(PiSyncError):  # noqa: N818 - a state that passes, not a mistake
    """A part is unavailable for now; the same call may succeed later."""

    part: ClassVar[Part]


class BrokerUnavailable(Unavailable):
    """The MQTT broker cannot be reached, or refuses for now; the text is for the caller's own user."""

    part = Part.MQTT


class BrokerHungUp(BrokerUnavailable):
    """The broker closed the connection without a word, as Mosquitto 2.0 does when a session is taken over."""


class PublishRefused(BrokerUnavailable):
    """The broker did not take a message: no subscription matches it, or it may not be published."""

    def __init__(self, reason_code: int) -> None:
        super().__init__(f"The MQTT broker refused a message: 0x{reason_code:02X}.")
        self.reason_code = reason_code


class ReplyLost(BrokerUnavailable):
    """The connection on which a reply was to come is lost; the request may have been carried out."""


class StoreUnavailable(Unavailable):
    """A store cannot be reached; the text begins with its name, and may name hosts."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"{self.part.label}: {detail}")

    @property
    def told(self) -> str:
        """What everybody may be told of it."""
        return f"{self.part.label} is unavailable"


class MongodbUnavailable(StoreUnavailable):
    """MongoDB cannot be reached, or cannot promise durability for now."""

    part = Part.MONGODB


class RedisUnavailable(StoreUnavailable):
    """Redis cannot be reached, or cannot write for now."""

    part = Part.REDIS


class ProjectionLost(RedisUnavailable):
    """Redis answers, but the projection that we were attached to is not there."""


class RebuildInProgress(PiSyncError):  # noqa: N818 - a state that passes, not a mistake
    """Another bridge, or another `pisync rebuild`, rebuilds the projection; nothing was changed."""


class LeaseLost(PiSyncError):  # noqa: N818 - a state that passes, not a mistake
    """What a worker would write was begun by another one, or has to be begun anew; nothing was replaced."""


class CertificateRefused(PiSyncError):  # noqa: N818 - a verdict on what was given, not a fault of ours
    """What was given is no certificate, or no request for one, that is taken; the text says why."""


class ArchiveUnusable(PiSyncError):  # noqa: N818 - a verdict on what was given, not a fault of ours
    """An archive cannot be read or written, or is not what its manifests say; the text says which file."""


class ProtocolError(PiSyncError):
    """The peer sent bytes that are not MQTT 5, or not allowed where they came."""
