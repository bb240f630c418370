"""Rollups in MongoDB: `rollups` with a document for each unit of time, `rollup_codes`, and how far they go.

Every document has the term in which it was written, and none is replaced by one of an earlier term.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from bson.codec_options import CodecOptions
from pymongo import ASCENDING, DESCENDING, DeleteMany, IndexModel, ReplaceOne, ReturnDocument, UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError, DuplicateKeyError

from pisync import limits
from pisync.clock import EPOCH, from_ms, to_ms
from pisync.domain.rollups import Figures, Progress, Rollup, Span, Unit, rollups
from pisync.errors import LeaseLost
from pisync.stores.interfaces.rollups import FailuresByCode, KnownCodes, Part
from pisync.stores.mongodb.connection import DUPLICATE_KEY, Document, MongoConnection, map_driver_errors

# The document of `rollup_progress`.
_ONLY: Final = "rollups"
# Rollups that the driver may get in one reply, so that it does not ask whether there are more.
_ALL_AT_ONCE: Final = limits.ROLLUPS_READ_MAX + 1
_SUMS: Final = dict.fromkeys(("events", "failures", "partial", "files", "lateness"), 1)
_NAIVE_EPOCH: Final = EPOCH.replace(tzinfo=None)
_MILLISECOND: Final = timedelta(milliseconds=1)


class MongoRollupStore:
    """A `RollupStore` in a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        self._rollups = connection.database.get_collection("rollups")
        # Its datetimes have no zone: the driver makes them without calling into Python.
        self._plain: AsyncCollection[Document] = self._rollups.with_options(CodecOptions(tz_aware=False))
        self._progress = connection.database.get_collection("rollup_progress")
        self._codes = connection.database.get_collection("rollup_codes")
        self._generation = 0

    async def read(self, unit: Unit, span: Span, *, with_breakdown: bool = True) -> list[Rollup]:
        """One for every unit that begins in a span."""
        # In this order: what is written down as covered was stored before.
        progress = await self.progress()
        stored = await (self.figures if with_breakdown else self._sums)(unit, span)
        return rollups(unit, span, stored, progress)

    async def _sums(self, unit: Unit, span: Span) -> dict[int, Figures]:
        """The figures that are stored, without their breakdown; a day of minutes is many."""
        with map_driver_errors():
            found = self._plain.find({"_id": _within(unit, span)}, _SUMS).batch_size(_ALL_AT_ONCE)
            return {
                (document["_id"]["start"] - _NAIVE_EPOCH) // _MILLISECOND: Figures(
                    events=document["events"],
                    failures=document["failures"],
                    partial=document["partial"],
                    files=document["files"],
                    lateness=tuple(document["lateness"]),
                )
                for document in await found.to_list()
            }

    async def known(self, codes: Collection[str]) -> KnownCodes:
        """When failures with each of these codes were first and last received, in one round trip."""
        # In this order: what is written down as covered, its codes were added before.
        mine: list[Document] = [{"$match": {"_id": {"$in": list(codes)}}}, {"$set": {"is_code": True}}]
        steps: list[Document] = [
            {"$match": {"_id": _ONLY}},
            {"$unionWith": {"coll": self._codes.name, "pipeline": mine}},
        ]
        progress: Document = {}
        spans = {}
        with map_driver_errors():
            async for found in await self._progress.aggregate(steps, batchSize=len(codes) + 2):
                if "is_code" in found:
                    spans[found["_id"]] = Span(to_ms(found["first"]), to_ms(found["last"]))
                else:
                    progress = found
        return KnownCodes(spans, _progress(progress))

    async def failures(self, parts: Sequence[tuple[Unit, Span]]) -> list[dict[int, FailuresByCode]]:
        """For each part the failures of the units that begin in its span, in one round trip."""
        asked = {"$or": [{"_id": _within(unit, span)} for unit, span in parts]}
        places = {unit: place for place, (unit, _) in enumerate(parts)}
        by_part: list[dict[int, FailuresByCode]] = [{} for _ in parts]
        with map_driver_errors():
            found = self._rollups.find(asked, {"codes": 1, "other_codes": 1})
            async for document in found.batch_size(_ALL_AT_ONCE):
                by_part[places[Unit(document["_id"]["unit"])]][to_ms(document["_id"]["start"])] = (
                    FailuresByCode(dict(document["codes"]), document["other_codes"])
                )
        return by_part

    async def progress(self) -> Progress:
        """For which times rollups are there."""
        with map_driver_errors():
            return _progress(await self._progress.find_one({"_id": _ONLY}) or {})

    async def codes(self, limit: int) -> dict[str, Span]:
        """The first and the last minute of each code."""
        with map_driver_errors():
            found = self._codes.find().sort([("last", DESCENDING), ("_id", ASCENDING)]).limit(limit)
            return {code["_id"]: Span(to_ms(code["first"]), to_ms(code["last"])) async for code in found}

    async def begin(self, term: int) -> Progress:
        """Write in this term from now on."""
        with map_driver_errors():
            await self._codes.create_indexes([IndexModel([("last", DESCENDING), ("_id", ASCENDING)])])
            try:
                found: Any = await self._progress.find_one_and_update(
                    {"_id": _ONLY, "term": {"$lte": term}},
                    {"$set": {"term": term}},
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                )
            except DuplicateKeyError:
                raise LeaseLost from None
        self._generation = found.get("generation", 0)
        return _progress(found)

    async def save(self, progress: Progress, term: int) -> None:
        """Write down how far the rollups go."""
        saved = {
            "covered": [[from_ms(span.start_ms), from_ms(span.end_ms)] for span in progress.covered],
            "closed": from_ms(progress.closed_ms),
            "confirmed": from_ms(progress.confirmed_ms),
            "enriched": from_ms(progress.enriched_ms),
        }
        mine = {"_id": _ONLY, "term": term, "generation": self._generation or None}
        with map_driver_errors():
            done = await self._progress.update_one(mine, {"$set": saved})
        if not done.matched_count:
            raise LeaseLost

    async def figures(self, unit: Unit, span: Span) -> dict[int, Figures]:
        """The figures that are stored."""
        with map_driver_errors():
            found = self._rollups.find({"_id": _within(unit, span)}).batch_size(_ALL_AT_ONCE)
            return {to_ms(document["_id"]["start"]): _figures(document) async for document in found}

    async def replace(self, parts: Sequence[Part], term: int) -> None:
        """Have exactly the figures of each part."""
        writable = {"term": {"$lte": term}}
        replaced: list[Any] = []
        others: list[Any] = []
        for part in parts:
            ids = {start_ms: _id(part.unit, start_ms) for start_ms in part.figures}
            replaced += (
                ReplaceOne({"_id": ids[start_ms], **writable}, _document(counted, term), upsert=True)
                for start_ms, counted in part.figures.items()
            )
            within = {**_within(part.unit, part.span), "$nin": list(ids.values())}
            others.append(DeleteMany({"_id": within, **writable}))
        with map_driver_errors():
            try:
                await self._rollups.bulk_write([*replaced, *others], ordered=False)
            except BulkWriteError as error:
                if any(fault["code"] == DUPLICATE_KEY for fault in error.details["writeErrors"]):
                    raise LeaseLost from None
                raise

    async def add_codes(self, codes: Mapping[str, Span]) -> None:
        """Have each code's first minute no later, and its last no earlier."""
        writes = [
            UpdateOne(
                {"_id": code},
                {"$min": {"first": from_ms(span.start_ms)}, "$max": {"last": from_ms(span.end_ms)}},
                upsert=True,
            )
            for code, span in codes.items()
        ]
        with map_driver_errors():
            await self._codes.bulk_write(writes, ordered=False)

    async def fix(self, before_ms: int) -> bool:
        """Have nothing counted again that was received before then, as `Progress.may_fix` allows."""
        before = from_ms(before_ms)
        is_counted = {
            "covered.0.0": from_ms(0),
            **{name: {"$gte": before} for name in ("covered.0.1", "confirmed", "enriched")},
        }
        asked = {"_id": _ONLY, "$or": [{"fixed": {"$gte": before}}, is_counted]}
        with map_driver_errors():
            done = await self._progress.update_one(asked, {"$max": {"fixed": before}})
        return bool(done.matched_count)

    async def reset(self) -> None:
        """Know nothing any more but what is fixed."""
        with map_driver_errors():
            found = await self._progress.find_one_and_update(
                {"_id": _ONLY},
                [
                    {
                        "$set": {
                            "covered": {"$cond": [{"$gt": ["$fixed", None]}, [[from_ms(0), "$fixed"]], []]}
                        }
                    },
                    {"$unset": ["closed", "confirmed", "enriched"]},
                    {"$set": {"generation": {"$add": [{"$ifNull": ["$generation", 0]}, 1]}}},
                ],
                return_document=ReturnDocument.AFTER,
            )
            fixed = (found or {}).get("fixed", EPOCH)
            await self._codes.delete_many({"first": {"$gte": fixed}})
            # A later minute is one of events that are counted anew, and finds its place again by that.
            await self._codes.update_many({}, {"$min": {"last": fixed - timedelta(minutes=1)}})


def _id(unit: Unit, start_ms: int) -> Document:
    return {"unit": unit.value, "start": from_ms(start_ms)}


def _within(unit: Unit, span: Span) -> Document:
    return {"$gte": _id(unit, span.start_ms), "$lt": _id(unit, span.end_ms)}


def _progress(document: Document) -> Progress:
    def moment_ms(name: str) -> int:
        found: datetime | None = document.get(name)
        return 0 if found is None else to_ms(found)

    return Progress(
        covered=tuple(Span(to_ms(start), to_ms(end)) for start, end in document.get("covered", ())),
        closed_ms=moment_ms("closed"),
        confirmed_ms=moment_ms("confirmed"),
        enriched_ms=moment_ms("enriched"),
        fixed_ms=moment_ms("fixed"),
    )


def _document(figures: Figures, term: int) -> Document:
    return {
        "term": term,
        "events": figures.events,
        "failures": figures.failures,
        "partial": figures.partial,
        "files": figures.files,
        "device_types": figures.device_types,
        "lateness": list(figures.lateness),
        "speeds": list(figures.speeds),
        # Not as names: a code may have any character.
        "codes": [[code, count] for code, count in figures.codes.items()],
        "other_codes": figures.other_codes,
    }


def _figures(document: Document) -> Figures:
    return Figures(
        events=document["events"],
        failures=document["failures"],
        partial=document["partial"],
        files=document["files"],
        device_types=document["device_types"],
        lateness=tuple(document["lateness"]),
        speeds=tuple(document["speeds"]),
        codes=dict(document["codes"]),
        other_codes=document["other_codes"],
    )
