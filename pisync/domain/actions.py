"""Actions: what was done, to what, when, and by whom; written down before the change, so that none is hidden.

They are the audit log: nothing that was written down is changed or deleted, and what became of an action is
written beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pisync.clock import to_ms


class What(StrEnum):
    """What is done."""

    CREATE = "create"
    REVOKE = "revoke"
    PUT = "put"
    PATCH = "patch"
    DELETE = "delete"
    IMPORT = "import"
    ACKNOWLEDGE = "acknowledge"
    UNACKNOWLEDGE = "unacknowledge"
    TEST = "test"
    LOGIN = "login"
    LOGOUT = "logout"
    SYNC_NOW = "sync_now"
    CANCEL = "cancel"
    REPLAY = "replay"
    ISSUE = "issue"
    RENEW = "renew"
    ENROL = "enrol"
    INVITE = "invite"
    PURGE = "purge"
    EXPORT = "export"
    REFUSE = "refuse"


class About(StrEnum):
    """What an action may be about."""

    DEVICES = "devices"
    SITES = "sites"
    ALERTS = "alerts"
    CAUSES = "causes"
    INCIDENTS = "incidents"
    RECIPIENTS = "recipients"
    COMMANDS = "commands"
    DEAD_LETTERS = "dead_letters"
    KEYS = "keys"
    CREDENTIALS = "credentials"
    USERS = "users"
    SESSIONS = "sessions"
    ACCESS = "access"
    AUDIT = "audit"


ABOUT_FLEET: Final = frozenset(
    {
        About.DEVICES,
        About.SITES,
        About.ALERTS,
        About.CAUSES,
        About.INCIDENTS,
        About.RECIPIENTS,
        About.COMMANDS,
        About.DEAD_LETTERS,
    }
)
"""What everybody who may read is told of; the rest is told by the audit log alone."""


class Progress(StrEnum):
    """How far an action is.

    One stays `begun` where its program died, or MongoDB was unavailable: its target tells whether the change
    is there.
    """

    BEGUN = "begun"
    DONE = "done"
    NOT_DONE = "not_done"


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who sent the request that an action came by, as far as it was verified.

    `name` is the principal's, `kind` how it was known, None where nobody asked yet, as where somebody signs
    in; `credential` is the id of its key, `address` the client's, `via` the method and the path's template.
    """

    name: str
    kind: str | None
    credential: str | None = None
    address: str | None = None
    via: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """One act of an operator.

    `kind` is what it is about and `target` which one, None: many. `before` and `after` are the members that
    it changes, as they were and as they are to be; `before` None: there was nothing, `after` None: nothing is
    left. `who` is what a form says while the api is open to everybody, else the caller's name; `caller` None:
    it came by no request.
    """

    action_id: str
    at: datetime
    who: str
    what: What
    kind: str
    target: str | None
    progress: Progress = Progress.BEGUN
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    caller: Caller | None = None


def new_action_id(at: datetime, place: int, nonce: str) -> str:
    """The id of an action: the time, so that ids sort by it, and what makes it unique.

    `place` orders the actions of one program within a millisecond; the nonce is random, of 64 bits or more.
    """
    return f"{first_id(at)}{place & 0xFFFF:04x}{nonce}"


def first_id(at: datetime) -> str:
    """What stands before the ids of all actions that were begun at this moment or later."""
    return f"{max(0, to_ms(at)):012x}"
