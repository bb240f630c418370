"""The roles: which topics each program, and each device, may publish to, subscribe to and receive.

A name of ours in the broker, of an account or a role, begins with `@`; of a device both are its id, which
never does. Publishing and receiving is asked for each message; subscribing is asked for the filter as it
stands, so that a filter which reaches further than the role is refused whole, and a shared one matches only
where the role names it with its group.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from zlib import crc32

from pisync.domain import broker, topics

_ANY: Final = "+"
_OURS: Final = "@"
CONTROL: Final = "$CONTROL/dynamic-security/v1"
CONTROL_RESPONSE: Final = f"{CONTROL}/response"
# Of devices with Mosquitto 2.1. Each role keeps a list of its devices in their order, and a device is put
# into it by a walk from the beginning: with one role, 60,000 devices took 23 s to load.
_SHARED_ROLES: Final = 256
_VERSION: Final = re.compile(r"(\d+)\.(\d+)")
_PATTERNS_SINCE: Final = (2, 1)
_WHOEVER: Final = "%u"


class Kind(StrEnum):
    """What dynsec calls each of the things that one may."""

    SEND = "publishClientSend"
    RECEIVE = "publishClientReceive"
    SUBSCRIBE = "subscribePattern"
    SUBSCRIBE_EXACTLY = "subscribeLiteral"


@dataclass(frozen=True, kw_only=True, slots=True)
class Acl:
    """Something that is allowed; nothing is denied by name, because what nothing allows is denied."""

    kind: Kind
    topic: str

    def as_json(self) -> dict[str, object]:
        """As dynsec reads it, in its file and in its commands."""
        return {"acltype": str(self.kind), "topic": self.topic, "allow": True}


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """A role by its name, and what it allows."""

    name: str
    acls: tuple[Acl, ...]

    def as_json(self) -> dict[str, object]:
        """As dynsec reads it, in its file and in `createRole`."""
        return {"rolename": self.name, "acls": [acl.as_json() for acl in self.acls]}


class Program(StrEnum):
    """Who has an account at the broker and is no device."""

    BRIDGE = "bridge"
    API = "api"
    WORKER = "worker"
    OBSERVER = "observer"
    REPLAYER = "replayer"
    WARDEN = "warden"


def account_name(program: Program) -> str:
    """The user name of a program's account, and the name of its role; no device has it."""
    return f"{_OURS}{program}"


def is_ours(name: str) -> bool:
    """Whether a user or a role in the broker is of our programs, and no device's."""
    return name.startswith(_OURS)


def _acls(
    *,
    send: Sequence[str] = (),
    receive: Sequence[str] = (),
    subscribe: Sequence[str] = (),
    subscribe_exactly: Sequence[str] = (),
) -> tuple[Acl, ...]:
    named = {
        Kind.SEND: send,
        Kind.RECEIVE: receive,
        Kind.SUBSCRIBE: subscribe,
        Kind.SUBSCRIBE_EXACTLY: subscribe_exactly,
    }
    return tuple(Acl(kind=kind, topic=topic) for kind, several in named.items() for topic in several)


def _role(program: Program, acls: tuple[Acl, ...]) -> Role:
    return Role(name=account_name(program), acls=acls)


_BROKER_FIGURES: Final = (*broker.MEMBERS, broker.UPTIME)
_STRAYS_SEEN: Final = tuple(
    filter_.partition("/")[2].partition("/")[2] for filter_ in topics.EVERYTHING_FILTERS
)
_ANSWERED: Final = {
    "send": [topics.sync(_ANY)],
    "receive": [topics.api_receipts(_ANY)],
    "subscribe": [topics.api_receipts(_ANY)],
}

PROGRAM_ROLES: Final = (
    _role(
        Program.BRIDGE,
        _acls(
            send=[
                topics.receipts(_ANY),
                topics.receipts(_ANY, _ANY),
                topics.api_receipts(_ANY),
                # At any depth: what others retained there is cleared.
                topics.ALERTS_FILTER,
                # To clear what devices retained.
                topics.sync(_ANY),
                topics.sync(_ANY, _ANY),
            ],
            receive=[*_STRAYS_SEEN, broker.MESSAGES_FILTER],
            subscribe_exactly=[
                topics.SHARED_SYNC_FILTER,
                *topics.EVERYTHING_FILTERS,
                topics.ALERTS_FILTER,
                broker.MESSAGES_FILTER,
            ],
        ),
    ),
    _role(Program.API, _acls(**_ANSWERED)),
    # `pisync replay` publishes as the api does, by an account that can be taken away from it.
    _role(Program.REPLAYER, _acls(**_ANSWERED)),
    _role(
        Program.WORKER,
        _acls(
            send=[topics.commands(_ANY)],
            receive=[topics.COMMAND_REPLIES_FILTER, topics.STATUS_FILTER, *_BROKER_FIGURES],
            subscribe_exactly=[topics.COMMAND_REPLIES_FILTER, topics.STATUS_FILTER, *_BROKER_FIGURES],
        ),
    ),
    # `pisync record` and `pisync conformance`: plain subscriptions, never a shared one.
    _role(
        Program.OBSERVER,
        _acls(
            receive=[f"{topics.PREFIX}/#", broker.DROPPED],
            subscribe=[f"{topics.PREFIX}/#", broker.DROPPED],
        ),
    ),
    _role(
        Program.WARDEN,
        _acls(
            send=[CONTROL],
            receive=[CONTROL_RESPONSE, broker.VERSION, broker.UPTIME],
            subscribe_exactly=[CONTROL_RESPONSE, broker.VERSION, broker.UPTIME],
        ),
    ),
)
"""The role of each program."""


def device_acls(subject: str) -> tuple[Acl, ...]:
    """What a device may; `%u` as the subject is, in Mosquitto 2.1, whoever is connected.

    No topic and no filter below a token's: the broker keeps memory for each level of each, 100 kB for a
    filter of 300 bytes. Without patterns a device subscribes to these filters alone, so not to any number.
    """
    received = [topics.receipts(subject), topics.receipts(subject, _ANY), topics.commands(subject)]
    is_pattern = subject == _WHOEVER
    return _acls(
        send=[
            topics.sync(subject),
            topics.sync(subject, _ANY),
            topics.status(subject),
            topics.command_replies(subject),
        ],
        receive=received,
        # Mosquitto 2.1 puts no user name into what is to be subscribed to exactly.
        subscribe=received if is_pattern else [],
        subscribe_exactly=[] if is_pattern else received,
    )


def has_patterns(version: str) -> bool:
    """Whether a Mosquitto puts the user name in place of `%u`: 2.1 and later, by what it says of itself.

    Args:
        version: such as `2.0.11`, or `mosquitto version 2.1.2` (`$SYS/broker/version`).
    """
    found = _VERSION.search(version)
    return found is not None and (int(found[1]), int(found[2])) >= _PATTERNS_SINCE


def device_role_name(device_id: str, *, patterns: bool) -> str:
    """The name of a device's one role: shared with others where the broker has patterns, else its own."""
    return f"{_OURS}device-{crc32(device_id.encode()) % _SHARED_ROLES:02x}" if patterns else device_id


def device_role(device_id: str) -> Role:
    """The role of one device alone, for a broker without patterns."""
    return Role(name=device_id, acls=device_acls(device_id))


def shared_device_roles() -> tuple[Role, ...]:
    """The roles that devices share where the broker has patterns; all of them allow the same."""
    acls = device_acls(_WHOEVER)
    return tuple(Role(name=f"{_OURS}device-{number:02x}", acls=acls) for number in range(_SHARED_ROLES))
