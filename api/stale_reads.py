"""How an answer says that it was read from secondaries, and how much it may lack."""

import math
from collections.abc import Mapping
from typing import Final

from pisync import clock
from pisync.clock import rfc3339
from pisync.stores.interfaces.stale_reads import StaleReads

SECONDARIES: Final = "secondaries"
PRIMARY: Final[Mapping[str, str]] = {}
"""The headers of an answer that was read from the primary."""
HEADERS: Final[Mapping[str, str]] = {
    "PiSync-Reads": f"`{SECONDARIES}`: what was acknowledged last may be missing. Absent: nothing is.",
    "PiSync-As-Of": "All that was acknowledged by then is in the answer. Absent beside `PiSync-Reads`: nobody"
    " knows as of when it is.",
}
"""What the headers say, for the OpenAPI document."""


def told(reads: StaleReads) -> Mapping[str, str]:
    """The headers of an answer that is read from now on."""
    as_of = reads.age.as_of()
    headers = {"PiSync-Reads": SECONDARIES}
    return headers if as_of is None else {**headers, "PiSync-As-Of": rfc3339(as_of)}


def behind_s(reads: StaleReads) -> float | None:
    """How long ago all was acknowledged that is read now, at most; None: not known."""
    as_of = reads.age.as_of()
    if as_of is None:
        return None
    behind = (clock.now() - as_of).total_seconds()
    # Our clock is behind MongoDB's, nobody knows how much.
    return None if behind < 0 else behind


def members(reads: StaleReads | None) -> dict[str, object]:
    """The members of `Reads` in `/api/health`."""
    if reads is None:
        return {"source": "primary", "behind_s": None}
    return {"source": SECONDARIES, "behind_s": behind_s(reads)}


def words(reads: StaleReads) -> str:
    """The same in words, of which none is more than is known."""
    behind = behind_s(reads)
    if behind is None:
        return f"from {SECONDARIES}, how far behind is not known"
    return f"from {SECONDARIES}, up to {math.ceil(behind):,} s behind"
