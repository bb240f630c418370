"""A replay: items of the files in, messages out, receipts back, and how far that is.

Items are taken in batches, in the order of the files. Batches are sent side by side, a device's events always
one message after the other; the checkpoint moves over a batch once it and all before it are covered by
receipts. So what is held is bounded, and whoever goes on from the checkpoint sends again only what was under
way, which the bridge tells as duplicates.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from device_sim.replay import checkpoint as checkpoints
from device_sim.replay import inputs
from device_sim.replay.checkpoint import Checkpoint, Counts
from device_sim.replay.fault_report import FaultReport
from device_sim.replay.inputs import Input
from device_sim.replay.items import Entry, Fault, Item, PassedOver, Status
from device_sim.replay.lanes import Lanes, Message
from device_sim.replay.lines import read_lines
from device_sim.replay.mapping import Options
from device_sim.replay.pace import Pace
from device_sim.replay.reading import Format, Head, Reader, Selection
from device_sim.replay.times import Times
from pisync import limits
from pisync.domain import topics
from pisync.domain.events import Reason, Rejection
from pisync.domain.receipts import Receipt, rejected_places
from pisync.errors import ConfigurationError, PiSyncError, ProtocolError


class Way(Protocol):
    """How messages reach the bridges."""

    trouble: str | None

    async def run(self) -> None:
        """Keep the way open until cancelled."""

    async def send(self, topic: str, payload: bytes) -> Receipt:
        """Send a message, as often as it takes, and return its receipt."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is replayed, and how its files are read."""

    inputs: Sequence[Input]
    options: Options
    selection: Selection
    format: Format | None = None
    columns: list[str] | None = None

    def reader(self, file: Input, times: Times, shift: timedelta) -> Reader:
        """A reader of one of the files."""
        return Reader(
            name=file.name,
            options=self.options,
            times=times,
            selection=self.selection,
            wanted=self.format,
            header=self.columns,
            shift=shift,
        )


class _Batch:
    """Some items that stand on end in the files, and how many of them no receipt covers yet."""

    def __init__(self, file: int) -> None:
        self.file = file
        self.position = 0
        self.line = 0
        self.items = 0
        self.waiting = 0
        self.closed = False
        self.counts = Counts()
        self.faults: list[Fault] = []
        self.head: dict[str, Any] | None = None
        self.times: dict[str, Any] = {}


class Replayer:
    """Replays the files of a plan from a checkpoint on. `counts` are of all that is known so far."""

    def __init__(
        self,
        plan: Plan,
        way: Way,
        *,
        start: Checkpoint,
        times: Times,
        pace: Pace,
        report: FaultReport,
        checkpoint_file: Path | None,
        messages_at_once: int = limits.REPLAY_MESSAGES_AT_ONCE,
    ) -> None:
        self.counts = msgspec.convert(msgspec.to_builtins(start.counts), Counts)
        self.first_faults: list[Fault] = []
        self.unused: dict[str, list[str]] = {}
        self.position = start.position
        self.file = start.file
        self.behind_s = 0.0
        self.way = way
        self._plan = plan
        self._checkpoint = start
        self._times = times
        self._pace = pace
        self._report = report
        self._checkpoint_file = checkpoint_file
        self._saved_at = 0.0
        self._shift = timedelta(milliseconds=start.shift_ms)
        self._batches: deque[_Batch] = deque()
        self._lanes: Lanes[_Batch] = Lanes()
        self._messages_at_once = messages_at_once
        self._inflight_events = 0
        self._inflight_bytes = 0
        self._work = asyncio.Semaphore(0)
        self._changed = asyncio.Event()
        self._reader: Reader | None = None

    async def run(self) -> None:
        """Return once all is covered. Cancelled, it writes down how far it came.

        Raises:
            ConfigurationError: a file cannot be understood, or the broker refuses for good.
            PiSyncError: the checkpoint or the report cannot be written.
        """
        # What times are moved by is written down before anything is sent: another amount makes other events.
        self._save(now=True)
        keeping = asyncio.create_task(self.way.run(), name="replay-way")
        sending = [
            asyncio.create_task(self._send(), name=f"replay-{number}")
            for number in range(self._messages_at_once)
        ]
        reading = asyncio.create_task(self._read(), name="replay-reading")
        try:
            working = {keeping, reading, *sending}
            while not reading.done():
                done, working = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in (keeping, reading, *sending):
                task.cancel()
            for task in (keeping, reading, *sending):
                with suppress(asyncio.CancelledError, PiSyncError):
                    await task
            self._save(now=True)

    async def _read(self) -> None:
        first = self._checkpoint.file
        for place in range(first, len(self._plan.inputs)):
            await self._read_file(place, is_resumed=place == first)
        while self._batches:
            await self._change()

    async def _read_file(self, place: int, *, is_resumed: bool) -> None:
        file = self._plan.inputs[place]
        position, line = (self._checkpoint.position, self._checkpoint.line) if is_resumed else (0, 0)
        head = self._checkpoint.head if is_resumed else None
        reader = self._reader = self._plan.reader(file, self._times, self._shift)
        batch = _Batch(place)
        with file.open(position) as source:

            def items(before_read: Any) -> Any:
                lines = read_lines(source, position=position, number=line, before_read=before_read)
                return (
                    reader.items(lines)
                    if head is None
                    else reader.resumed(lines, msgspec.convert(head, Head))
                )

            async for chunk in inputs.chunks(items, may_wait=file.may_wait):
                for item in chunk:
                    if isinstance(item.content, Entry) and (self._pace.waits or self._is_full):
                        batch = await self._wait(item.content, batch)
                    self._take(item, batch)
                    if batch.items >= limits.REPLAY_BATCH_ITEMS:
                        batch = self._next(batch)
                if not chunk:
                    batch = self._next(batch)
        if reader.head is not None and reader.head.unused:
            self.unused[file.name] = reader.head.unused
        batch = self._next(batch)
        # The next file begins: a replay that goes on from here does not look at this one again.
        while self._batches:
            await self._change()
        self._checkpoint.file, self._checkpoint.position, self._checkpoint.line = place + 1, 0, 0
        self._checkpoint.head = None

    async def _wait(self, entry: Entry, batch: _Batch) -> _Batch:
        """Wait until an entry is due, and there is room for it; returns the batch that it belongs to."""
        if self._pace.waits:
            now_s = asyncio.get_running_loop().time()
            due_s = self._pace.due_s(entry, now_s)
            self.behind_s = max(0.0, now_s - due_s)
            if due_s - now_s > limits.REPLAY_PACE_S:
                batch = self._next(batch)
                await asyncio.sleep(due_s - now_s)
        while self._is_full:
            batch = self._next(batch)
            await self._change()
        return batch

    @property
    def _is_full(self) -> bool:
        return (
            self._inflight_events >= limits.REPLAY_INFLIGHT_EVENTS_MAX
            or self._inflight_bytes >= limits.REPLAY_INFLIGHT_BYTES_MAX
        )

    def _take(self, item: Item, batch: _Batch) -> None:
        if not batch.items:
            self._batches.append(batch)
        batch.items += 1
        batch.position, batch.line = item.end, item.line
        self.file, self.position = batch.file, item.end
        content = item.content
        if isinstance(content, Entry):
            batch.waiting += 1
            self._inflight_events += 1
            self._inflight_bytes += len(content.payload)
            had_work = bool(self._lanes)
            self._lanes.add(content, batch)
            if bool(self._lanes) and not had_work:
                self._work.release()
        elif isinstance(content, PassedOver):
            self._count(batch, Counts(passed_over={content.value: 1}))
        else:
            self._fault(batch, content)

    def _next(self, batch: _Batch) -> _Batch:
        """Close a batch, and begin another one."""
        if not batch.items:
            return batch
        batch.closed = True
        head = None if self._reader is None or self._reader.head is None else self._reader.head
        batch.head = None if head is None else msgspec.to_builtins(head)
        batch.times = msgspec.to_builtins(self._times.state)
        self._advance()
        return _Batch(batch.file)

    async def _send(self) -> None:
        """Send one message after the other."""
        while True:
            await self._work.acquire()
            while self._lanes:
                message, owners = self._lanes.next()
                if self._lanes:
                    self._work.release()
                try:
                    await self._deliver(message, owners)
                finally:
                    self._lanes.done(message.device_id)
                self._advance()

    async def _deliver(self, message: Message, owners: Sequence[_Batch]) -> None:
        """Send a message, in halves where it is not taken as a whole, and note what became of its entries."""
        topic = message.topic or topics.sync(message.device_id)
        receipt = await self.way.send(topic, message.payload)
        places = _rejected_places(receipt, message)
        if None in places and len(message.entries) > 1:
            middle = len(message.entries) // 2
            for half, its_owners in zip(message.halves(), (owners[:middle], owners[middle:]), strict=True):
                await self._deliver(half, its_owners)
            return
        self._confirm(receipt, frozenset(places), owners, is_recorded=message.topic is not None)
        for rejection in _one_by_one(receipt.rejected):
            place = 0 if rejection.index is None or message.topic is not None else rejection.index
            self._fault(owners[place], _fault(message.entries[place], rejection))
        for entry, owner in zip(message.entries, owners, strict=True):
            owner.waiting -= 1
            self._inflight_events -= 1
            self._inflight_bytes -= len(entry.payload)

    def _confirm(
        self,
        receipt: Receipt,
        rejected: frozenset[int | None],
        owners: Sequence[_Batch],
        *,
        is_recorded: bool,
    ) -> None:
        """Count what a receipt confirms with the batches that it is of.

        It does not say which events were there already: those of the last batches are taken for these.
        """
        if is_recorded or owners[0] is owners[-1]:
            self._count(owners[0], Counts(stored=receipt.stored, duplicates=receipt.duplicates))
            return
        stored = receipt.stored
        place = 0
        for _, group in groupby(owners, key=id):
            size = len(list(group))
            taken = sum(at not in rejected for at in range(place, place + size))
            counts = Counts(stored=min(stored, taken), duplicates=taken - min(stored, taken))
            self._count(owners[place], counts)
            stored -= counts.stored
            place += size

    def _fault(self, batch: _Batch, fault: Fault) -> None:
        fault = msgspec.structs.replace(fault, file=self._plan.inputs[batch.file].name)
        batch.faults.append(fault)
        is_rejected = fault.status is Status.REJECTED
        counts = Counts(rejected=int(is_rejected), left_out=int(not is_rejected))
        counts.faults[f"{fault.status.value}: {fault.reason}"] = 1
        self._count(batch, counts)
        if len(self.first_faults) < limits.REPLAY_FAULTS_SHOWN_MAX:
            self.first_faults.append(fault)

    def _count(self, batch: _Batch, counts: Counts) -> None:
        batch.counts.add(counts)
        self.counts.add(counts)

    def _advance(self) -> None:
        """Move the checkpoint over the batches that are done."""
        while self._batches and self._batches[0].closed and not self._batches[0].waiting:
            batch = self._batches.popleft()
            self._report.add(sorted(batch.faults, key=lambda fault: fault.line))
            done = self._checkpoint
            done.file, done.position, done.line = batch.file, batch.position, batch.line
            done.head, done.times = batch.head, batch.times
            done.report_bytes = self._report.size_bytes
            done.counts.add(batch.counts)
        self._save(now=False)
        self._changed.set()

    def _save(self, *, now: bool) -> None:
        if not self._checkpoint.is_begun:
            return
        at = asyncio.get_running_loop().time()
        if self._checkpoint_file is None or (
            not now and at - self._saved_at < limits.REPLAY_CHECKPOINT_INTERVAL_S
        ):
            return
        checkpoints.save(self._checkpoint_file, self._checkpoint)
        self._saved_at = at

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def _rejected_places(receipt: Receipt, message: Message) -> list[int | None]:
    """The places of rejected events in a message, all of which its receipt speaks of.

    Raises:
        ProtocolError: it does not.
    """
    try:
        places = rejected_places(receipt)
    except ValueError as error:
        raise ProtocolError(f"a receipt that cannot be read: {error}") from None
    covered = receipt.stored + receipt.duplicates + len(places)
    if message.topic is None and None not in places and covered != len(message.entries):
        raise ProtocolError(f"a receipt for {covered} events, where {len(message.entries)} were sent")
    return places


def _one_by_one(rejections: Sequence[Rejection]) -> list[Rejection]:
    """Each rejection by itself, those of a group too, which have no detail."""
    found: list[Rejection] = []
    for one in rejections:
        if one.indexes is None:
            found.append(one)
            continue
        places = rejected_places(Receipt(stored=0, duplicates=0, rejected=[one]))
        found += [msgspec.structs.replace(one, index=place, indexes=None) for place in places]
    return found


_DETAILS: Final = {
    Reason.CONFLICT: "another event of this device with the same timestamp is stored",
    Reason.SEVERAL: "rejected with others; the dead letters say why",
}


def _fault(entry: Entry, rejection: Rejection) -> Fault:
    place = (
        "" if entry.topic is None or rejection.index is None else f"event {rejection.index} of the message: "
    )
    return Fault(
        line=entry.line,
        status=Status.REJECTED,
        reason=rejection.reason,
        detail=place + (rejection.detail or _DETAILS.get(rejection.reason, "")),
        device_id=entry.device_id,
        text=entry.payload[: limits.REPLAY_TEXT_CHARS_MAX].decode(errors="replace"),
    )


def asked(plan: Plan, words: dict[str, Any]) -> str:
    """What a replay is asked for, as a checkpoint keeps it; what may change from run to run is not in it."""
    about = {
        "files": [[file.name, file.mark()] for file in plan.inputs],
        "--map": dict(plan.options.columns),
        "--set": dict(plan.options.constants),
        "--format": plan.format,
        "--columns": plan.columns,
        **words,
    }
    return msgspec.json.encode(about, order="sorted").decode()


def hold_to(start: Checkpoint, now: str, path: Path) -> None:
    """Go on only with what was begun.

    Raises:
        ConfigurationError: something else is asked for; the text says what.
    """
    if start.asked == now:
        return
    before, after = msgspec.json.decode(start.asked), msgspec.json.decode(now)
    others = [name for name in after if before.get(name) != after[name]]
    raise ConfigurationError(
        f"{path} is the checkpoint of a replay that was interrupted, with other"
        f" {', '.join(others) or 'options'}: repeat that command to go on with it, or begin anew with"
        " --restart"
    )
