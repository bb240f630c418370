"""Actions: what operators did, to what, and when; written down before the change, so that none is hidden."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from pisync.clock import to_ms


class What(StrEnum):
    """What is done."""

    PUT = "put"
    PATCH = "patch"
    DELETE = "delete"
    IMPORT = "import"
    ACKNOWLEDGE = "acknowledge"
    UNACKNOWLEDGE = "unacknowledge"
    TEST = "test"
    SYNC_NOW = "sync_now"
    CANCEL = "cancel"
    REPLAY = "replay"


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


class Progress(StrEnum):
    """How far an action is.

    One stays `begun` where its program died, or MongoDB was unavailable: its target tells whether the change
    is there.
    """

    BEGUN = "begun"
    DONE = "done"
    NOT_DONE = "not_done"


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """One act of an operator.

    `kind` is what it is about and `target` which one, None: many. `before` and `after` are the members that
    it changes, as they were and as they are to be; `before` None: there was nothing, `after` None: nothing is
    left.
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


def new_action_id(at: datetime, place: int, nonce: str) -> str:
    """The id of an action: the time, so that ids sort by it, and what makes it unique.

    `place` orders the actions of one program within a millisecond; the nonce is random, of 64 bits or more.
    """
    return f"{to_ms(at):012x}{place & 0xFFFF:04x}{nonce}"
