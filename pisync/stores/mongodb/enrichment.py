"""Events whose identity is stored: repetition, conflict, or one that enriches what is stored.

A statement that enriches has the members that it adds in its filter, as absent, so that it never changes a
value, may be repeated, and loses a race without harm: where it matched less than it should have, those events
are compared again. What two events add to a third is the same in either order, unless they add different
values of one member: then the first one stays, and the other is a conflict, as with the required members.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pymongo.asynchronous.collection import AsyncCollection

from pisync import limits
from pisync.domain.events import additions
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.events import InsertOutcome
from pisync.stores.mongodb import reading
from pisync.stores.mongodb.connection import REFUSALS, Document
from pisync.stores.mongodb.reading import Key


@dataclass(frozen=True, kw_only=True, slots=True)
class _Gain:
    """What a stored document is to be enriched with."""

    document_id: Document
    added: Document


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """What became of documents, by their places, but for those whose identity is not stored.

    `has_written`: a write followed the last look, so that what was found is in the journal.
    """

    outcomes: dict[int, InsertOutcome]
    has_written: bool


async def compare_and_enrich(
    events: AsyncCollection[Document], given: Mapping[int, Document], enriched_at: datetime
) -> dict[int, InsertOutcome]:
    """What becomes of documents whose identity is stored, by their places; durable when it returns.

    Raises:
        MongodbUnavailable: one is not stored any more.
    """
    outcomes = (await look_and_enrich(events, given, enriched_at)).outcomes
    if len(outcomes) < len(given):
        raise _deleted()
    return outcomes


async def look_and_enrich(
    events: AsyncCollection[Document], given: Mapping[int, Document], enriched_at: datetime
) -> Compared:
    """Compare documents with those of their identity that are stored, if any, and enrich these.

    Raises:
        MongodbUnavailable: one that was to be enriched is not stored any more.
    """
    outcomes: dict[int, InsertOutcome] = {}
    pending: defaultdict[Key, list[int]] = defaultdict(list)
    for index, document in given.items():
        pending[reading.key(document)].append(index)
    gains = await _compare(events, given, pending, outcomes)
    has_written = bool(gains)
    while gains:
        refused = await _enrich(events, list(gains.values()), enriched_at)
        if refused is not None:
            for gain in refused:
                same = pending[reading.key({"_id": gain.document_id})]
                outcomes |= {
                    index: InsertOutcome.REFUSED
                    for index in same
                    if outcomes[index] is InsertOutcome.ENRICHED
                }
            break
        pending = defaultdict(list, {key: pending[key] for key in gains})
        again: dict[int, InsertOutcome] = {}
        gains = await _compare(events, given, pending, again)
        if len(again) < sum(map(len, pending.values())):
            raise _deleted()
        outcomes |= again
        if not gains:
            await wait_until_durable(events, next(iter(given.values())))
    return Compared(outcomes=outcomes, has_written=has_written)


async def wait_until_durable(events: AsyncCollection[Document], document: Document) -> None:
    """Wait until what was read is in the journal: on a single server a majority has what that may lack.

    A write that finds nothing to change waits for all that were before it.
    """
    command = {
        "update": events.name,
        "writeConcern": events.write_concern.document,
        "updates": [
            {"q": {"_id": document["_id"], "received_at": None}, "u": {"$set": {"received_at": None}}}
        ],
    }
    reply = await events.database.command(command)
    if faults := reply.get("writeErrors") or reply.get("writeConcernError"):
        raise MongodbUnavailable(f"{faults}")


async def _compare(
    events: AsyncCollection[Document],
    given: Mapping[int, Document],
    pending: Mapping[Key, Sequence[int]],
    outcomes: dict[int, InsertOutcome],
) -> dict[Key, _Gain]:
    """Tell what each is by what is stored now; returns what is to be added to it, by all of its identity."""
    gains = {}
    bare: list[Document] = []
    full: list[Document] = []
    for indexes in pending.values():
        # Where none has errors, those that are stored tell nothing.
        ids = full if any("errors" in given[index] for index in indexes) else bare
        ids.append(given[indexes[0]]["_id"])
    async for some in reading.stored(events, bare, full):
        for stored in some:
            key = reading.key(stored)
            if gained := _judge(stored, pending[key], given, outcomes):
                gains[key] = _Gain(document_id=stored["_id"], added=gained)
    return gains


def _deleted() -> MongodbUnavailable:
    """It is tried again, and then inserted."""
    return MongodbUnavailable("an event that was there a moment ago was deleted")


def _judge(
    stored: Document,
    indexes: Sequence[int],
    given: Mapping[int, Document],
    outcomes: dict[int, InsertOutcome],
) -> Document:
    """Tell what each of an identity is, one after the other; returns what they add together."""
    gained: Document = {}
    for index in indexes:
        added = additions(stored, given[index])
        if added is None:
            outcomes[index] = InsertOutcome.CONFLICT
        elif not added:
            outcomes[index] = InsertOutcome.DUPLICATE
        else:
            outcomes[index] = InsertOutcome.ENRICHED
            stored = stored | added
            gained |= added
    return gained


async def _enrich(
    events: AsyncCollection[Document], gains: Sequence[_Gain], enriched_at: datetime
) -> list[_Gain] | None:
    """Add what is absent; returns what MongoDB refuses, or None where something was not absent any more."""
    refused: list[_Gain] = []
    groups = list(_groups(gains, limits.ENRICHED_AT_ONCE))
    matched = 0
    while groups:
        command = {
            "update": events.name,
            "ordered": False,
            "writeConcern": events.write_concern.document,
            "updates": [_statement(group, enriched_at) for group in groups],
        }
        reply = await events.database.command(command)
        if "writeConcernError" in reply:
            raise MongodbUnavailable(f"{reply['writeConcernError']}")
        matched += reply["n"]
        again: list[list[_Gain]] = []
        for fault in reply.get("writeErrors", ()):
            if fault["code"] not in REFUSALS:
                raise MongodbUnavailable(f"{fault.get('errmsg')}")
            group = groups[fault["index"]]
            if len(group) == 1:
                refused += group
            else:
                again += ([gain] for gain in group)
        groups = again
    return refused if matched + len(refused) >= len(gains) else None


def _groups(gains: Sequence[_Gain], most: int) -> Iterator[list[_Gain]]:
    """Those that gain the same members, some at a time."""
    by_members: defaultdict[tuple[str, ...], list[_Gain]] = defaultdict(list)
    for gain in gains:
        by_members[tuple(sorted(gain.added))].append(gain)
    for group in by_members.values():
        for start in range(0, len(group), most):
            yield group[start : start + most]


def _statement(group: Sequence[_Gain], enriched_at: datetime) -> Document:
    """One update of a group: a statement for each event costs mongod three times as much."""
    ids = [gain.document_id for gain in group]
    names = list(group[0].added)
    place = {"$indexOfArray": [{"$literal": ids}, "$_id"]}
    values = {name: [gain.added[name] for gain in group] for name in names}
    changes = {name: {"$arrayElemAt": [{"$literal": values[name]}, place]} for name in names}
    return {
        "q": {"_id": {"$in": ids}, **dict.fromkeys(names)},
        "u": [{"$set": {**changes, "enriched_at": {"$max": ["$enriched_at", enriched_at]}}}],
        "multi": True,
    }
