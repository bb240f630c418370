"""How true an answer about the fleet is, in one line: exact, or why not, and as of when."""

from collections.abc import Sequence

from cli.api_client import Json
from cli.tables import UNKNOWN, parsed
from pisync import clock
from pisync.clock import rfc3339
from pisync.domain.payloads import printable


def faults(answer: Json) -> list[str]:
    """Why the answer is not exact; none where it is."""
    if "projection" in answer:  # a list that is not read from the fleet
        return _faults_of_projection(answer["projection"])
    stale_since, loading = answer.get("stale_since"), answer.get("loading")
    if answer.get("complete", True) and stale_since is None:
        return []
    found = []
    if answer.get("stale_why"):
        found.append(printable(str(answer["stale_why"])))
    if loading is not None:
        found.append(f"{loading['read']:,} of {_of(loading['of'])} devices are read")
    if stale_since is not None:
        found.append(f"nothing newer than {clock_time(stale_since)} was read")
    return found or ["not all events are in it yet"]


def _faults_of_projection(projection: Json) -> list[str]:
    if projection["complete"]:
        return []
    replayed, to_replay = projection.get("replayed", 0), projection.get("to_replay")
    return [f"Redis is catching up: {replayed:,} of {_of(to_replay)} events"]


def line(answer: Json) -> str:
    """Such as `Exact · as of 12:04:31Z`."""
    why = faults(answer)
    head = f"Not exact: {'; '.join(why)}" if why else "Exact"
    as_of = answer.get("as_of")
    return head if as_of is None else f"{head} · as of {clock_time(as_of)}"


def stale(reads: Sequence[str | None]) -> str | None:
    """What answers that were read from secondaries may lack, by as of when each is; None: none was."""
    if not reads:
        return None
    known = [as_of for as_of in reads if as_of is not None]
    if len(known) < len(reads):
        return "Read from secondaries; how far behind is not known."
    return f"Read from secondaries, as of {clock_time(min(known))}."


def clock_time(moment: object) -> str:
    """The time of day of a moment, with the date where that is not today's."""
    read = parsed(moment)
    if read is None:
        return UNKNOWN
    told = f"{rfc3339(read)[:19].replace('T', ' ')}Z"
    return told[11:] if read.date() == clock.now().date() else told


def _of(number: int | None) -> str:
    return f"{number:,}" if number else UNKNOWN
