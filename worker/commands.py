"""The duty of the commands: publishes those that wait, hears replies, and finds the events that prove them.

A command is written down as published before it is sent, and once more when the broker has it: a worker that
is killed in between leaves one that the next worker sends again, under the same id, so that the device does
it once. What changes a command is a function of the domain, tried on what is stored until nobody else changed
it meanwhile; so a worker that lost its lease, and does not know it yet, does no harm.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from pisync import clock, limits, logs
from pisync.clock import from_ms, to_ms
from pisync.domain import commands
from pisync.domain.commands import Command, Proof, Reply
from pisync.errors import BrokerUnavailable, RedisUnavailable
from pisync.stores.interfaces.commands import CommandStore
from pisync.stores.interfaces.projection import ProjectionReader
from pisync.stores.interfaces.rollups import ReceivedEvents
from pisync.stores.known_bridges import KnownBridges
from pisync.tasks import supervise
from worker.command_link import CommandLink
from worker.inbox import acknowledge
from worker.inflight import Inflight, Watched

log = logs.get(__name__)

Change = Callable[[Command], Command | None]


class Commanding:
    """One term of the duty, in one worker."""

    def __init__(
        self,
        *,
        store: CommandStore,
        received: ReceivedEvents,
        projection: ProjectionReader,
        known_bridges: KnownBridges,
        link: CommandLink,
    ) -> None:
        """Prepare; nothing is asked of a store yet.

        Args:
            store: where commands are kept.
            received: finds the event that was received at a moment.
            projection: tells when a device was heard last.
            known_bridges: by which the projection knows whether it is complete.
            link: the way to the devices.
        """
        self._store = store
        self._received = received
        self._projection = projection
        self._known_bridges = known_bridges
        self._link = link
        self._under_way = Inflight()
        self._picking_took_s = 0.0
        self.published = self.replies_ignored = 0

    @property
    def inflight(self) -> int:
        """Commands that are published or accepted."""
        return len(self._under_way)

    async def load(self) -> None:
        """Learn which commands are under way."""
        after = ""
        while found := await self._store.inflight(after, limits.COMMANDS_WRITTEN_AT_ONCE):
            for command in found:
                self._under_way.put(command)
            after = found[-1].command_id

    async def run(self) -> None:
        """Do it until cancelled."""
        async with supervise({"looks": self._look_again(), "answers": self._hear()}) as running:
            await running.until(asyncio.Event())

    async def _look_again(self) -> None:
        while True:
            # Before the first look, too: another worker may have published just now. Many that wait for
            # room at their sites make it long to find those that need not.
            rest_s = min(limits.COMMAND_PAUSES * self._picking_took_s, limits.COMMAND_INTERVAL_S_MAX)
            await asyncio.sleep(max(limits.COMMAND_INTERVAL_S, rest_s))
            await self.look()

    async def look(self) -> None:
        """One look at what waits, and at what is under way."""
        now = clock.now()
        overdue = await self._store.overdue(now, limits.COMMANDS_WRITTEN_AT_ONCE)
        await self._change({each.command_id: partial(commands.expire, now=now) for each in overdue})
        watched = self._under_way.next(limits.COMMANDS_LOOKED_AT)
        try:
            await self._end(watched, now)
        except RedisUnavailable as error:
            log.debug("commands cannot be proved now", why=str(error))
        if self._link.is_ready:
            again = [each.command_id for each in watched if each.is_due(now)]
            await self._publish(again[: limits.COMMANDS_PUBLISHED_AT_ONCE // 2])

    # What is under way

    async def _end(self, watched: Sequence[Watched], now: datetime) -> None:
        """Find what is proved, and what nobody waits for any longer."""
        if not watched:
            return
        over = [each for each in watched if each.deadline_ms <= to_ms(now)]
        is_complete = bool(over) and await self._is_complete()
        states = await self._projection.states_of([each.device_id for each in watched])
        heard: dict[int, list[Watched]] = {}
        for each, state in zip(watched, states, strict=True):
            received_ms = None if state is None else state.received_ms
            if received_ms is not None and received_ms > each.proved_after_ms:
                heard.setdefault(received_ms, []).append(each)
        moments = list(heard)[: limits.COMMAND_PROOFS_AT_ONCE]
        for moment in moments:
            await self._prove(moment, heard.pop(moment), now)
        later = {each.command_id for some in heard.values() for each in some}
        wait_ms = 0 if is_complete else limits.COMMAND_INCOMPLETE_S * 1000
        given_up = [each.command_id for each in over if each.deadline_ms + wait_ms <= to_ms(now)]
        given_up = [each for each in given_up if each not in later]
        await self._change({each: partial(commands.expire, now=now) for each in given_up})

    async def _is_complete(self) -> bool:
        await self._known_bridges.refresh()
        return (await self._projection.status()).complete

    async def _prove(self, received_ms: int, concerned: Sequence[Watched], now: datetime) -> None:
        """Prove commands by what MongoDB says was received at a moment."""
        device_ids = {each.device_id for each in concerned}
        stored = await self._received.received_then(device_ids, received_ms)
        changes: dict[str, Change] = {}
        for each in concerned:
            timestamp_ms = stored.get(each.device_id)
            if timestamp_ms is not None:
                proof = Proof(timestamp=from_ms(timestamp_ms), received_at=from_ms(received_ms))
                changes[each.command_id] = partial(commands.prove, proof=proof, now=now)
        for command in await self._change(changes):
            log.info("command proved", id=command.command_id, device_id=command.device_id)

    # What waits

    async def _publish(self, again: Sequence[str]) -> None:
        now = clock.now()
        room = limits.COMMANDS_INFLIGHT_MAX - len(self._under_way)
        began_s = asyncio.get_running_loop().time()
        picked = await self._pick(min(limits.COMMANDS_PUBLISHED_AT_ONCE - len(again), room), now)
        self._picking_took_s = asyncio.get_running_loop().time() - began_s
        heard = await self._heard([command.device_id for command in picked])
        changes: dict[str, Change] = {
            command.command_id: partial(commands.publish, now=now, heard_at=heard.get(command.device_id))
            for command in picked
        }
        changes |= {each: partial(commands.publish, now=now, heard_at=None) for each in again}
        claimed = await self._change(changes)
        at_once = asyncio.Semaphore(limits.ALERTS_PUBLISH_AT_ONCE)
        taken = await asyncio.gather(*(self._send(command, at_once) for command in claimed))
        sent_at = clock.now()
        sent = [command.command_id for command, is_sent in zip(claimed, taken, strict=True) if is_sent]
        self.published += len(sent)
        await self._change({each: partial(commands.sent, now=sent_at) for each in sent})

    async def _pick(self, count: int, now: datetime) -> list[Command]:
        """The oldest that may be published, so many at most, past those of sites that are full."""
        picked: dict[str, Command] = {}
        of_site: dict[str, int] = {}
        full = set(self._under_way.full_sites(now))
        for _ in range(limits.COMMAND_ROUNDS_MAX):
            if len(picked) >= count:
                break
            found = await self._store.queued(now, limits.COMMANDS_PUBLISHED_AT_ONCE * 2, without_sites=full)
            fresh = [command for command in found if command.command_id not in picked]
            for command in fresh:
                site = command.site
                if len(picked) >= count or site in full:
                    continue
                picked[command.command_id] = command
                if site is not None:
                    of_site[site] = of_site.get(site, 0) + 1
                    if of_site[site] >= self._under_way.room(site, now):
                        full.add(site)
            if not fresh:
                break
        return list(picked.values())

    async def _heard(self, device_ids: Sequence[str]) -> Mapping[str, datetime]:
        """When each device was heard last, as far as that is known: what was heard by then proves nothing."""
        if not device_ids:
            return {}
        try:
            states = await self._projection.states_of(device_ids)
        except RedisUnavailable:
            return {}
        return {
            device_id: from_ms(state.received_ms)
            for device_id, state in zip(device_ids, states, strict=True)
            if state is not None and state.received_ms is not None
        }

    async def _send(self, command: Command, at_once: asyncio.Semaphore) -> bool:
        async with at_once:
            try:
                return await self._link.send(command)
            except BrokerUnavailable as error:
                log.warning("command not sent yet", id=command.command_id, why=str(error))
                return False

    # What devices say

    async def _hear(self) -> None:
        while True:
            heard = await self._link.replies()
            await self.answer([each.said for each in heard])
            acknowledge(heard)

    async def answer(self, replies: Iterable[tuple[str | None, Reply | None]]) -> None:
        """Write down what devices say of their commands; what says nothing new is counted."""
        said: dict[str, list[tuple[str, Reply]]] = {}
        for device_id, reply in replies:
            if device_id is None or reply is None:
                self.replies_ignored += 1
            else:
                said.setdefault(reply.id, []).append((device_id, reply))
        now = clock.now()
        changed = await self._change(
            {command_id: partial(_answered, said=some, now=now) for command_id, some in said.items()}
        )
        known = {command.command_id for command in changed}
        self.replies_ignored += sum(len(some) for each, some in said.items() if each not in known)

    async def _change(self, changes: Mapping[str, Change]) -> Collection[Command]:
        """Change each of these commands as it is stored; returns those that changed, as they are now."""
        done: list[Command] = []
        for _ in range(limits.COMMAND_CHANGE_TRIES):
            if not changes:
                break
            found = await self._store.get(list(changes))
            after: dict[str, Command] = {}
            for command_id in changes:
                present = found.get(command_id)
                change = None if present is None else changes[command_id](present)
                if change is not None:
                    after[command_id] = change
                elif present is not None:
                    self._under_way.put(present)
                else:
                    self._under_way.drop(command_id)
            written = await self._store.write(list(after.values()))
            for command_id in written:
                self._under_way.put(after[command_id])
                done.append(after[command_id])
            changes = {each: changes[each] for each in after if each not in written}
        return done


def _answered(command: Command, *, said: Iterable[tuple[str, Reply]], now: datetime) -> Command | None:
    """The command after these replies, in their order, as one change."""
    after = command
    for device_id, reply in said:
        after = commands.answer(after, device_id, reply, now) or after
    if after is command:
        return None
    return replace(after, version=command.version + 1)
