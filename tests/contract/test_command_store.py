"""What every store of commands does."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
import pytest_asyncio

from pisync import limits
from pisync.domain import commands
from pisync.domain.commands import Command, CommandState, Proof, Reply, new_command_id
from pisync.stores.interfaces.commands import CommandQuery, CommandStore
from pisync.stores.memory.commands import MemoryCommandStore
from pisync.stores.mongodb.commands import MongoCommandStore
from pisync.stores.mongodb.connection import MongoConnection
from tests.support.samples import NOW

HOUR = timedelta(hours=1)


@pytest_asyncio.fixture
async def store(event_store_url: str | None) -> AsyncIterator[CommandStore]:
    if event_store_url is None:
        yield MemoryCommandStore()
        return
    connection = MongoConnection(event_store_url)
    # Not prepared: an api takes commands before it has come to that.
    yield MongoCommandStore(connection)
    await connection.close()


def after(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


def command(device: int, minute: float = 0, *, site: str | None = None, nonce: int = 0) -> Command:
    return commands.request(
        new_command_id(after(minute), f"{device:08x}{nonce:08x}"),
        f"PB-{device}",
        site=site,
        who="$who",
        now=after(minute),
        expires_at=after(minute) + HOUR,
    )


def published(one: Command, minute: float = 1) -> Command:
    changed = commands.publish(one, after(minute), after(-5))
    assert changed is not None
    return changed


async def kept(store: CommandStore, command_id: str) -> Command:
    return (await store.get([command_id]))[command_id]


async def test_what_goes_in_comes_out_at_every_state(store: CommandStore) -> None:
    one: Command | None = command(1, site="$site")
    assert one is not None
    assert await store.add([one]) == {one.command_id}
    proof = Proof(timestamp=after(-100), received_at=after(3))
    for change in (
        published,
        lambda now: commands.sent(now, after(1)),
        lambda now: commands.answer(now, "PB-1", Reply(now.command_id, "accepted", "$$NOW \x00"), after(2)),
        lambda now: commands.prove(now, proof, after(4)),
    ):
        assert await kept(store, one.command_id) == one
        one = change(one)
        assert one is not None
        assert await store.write([one]) == {one.command_id}
    assert await kept(store, one.command_id) == one
    assert one.proof == proof
    assert await store.get(["0" * 28]) == {}


async def test_a_device_has_one_open_command(store: CommandStore) -> None:
    first, second, other = command(1), command(1, nonce=1), command(2)
    assert await store.add([first]) == {first.command_id}
    assert await store.add([second, other]) == {other.command_id}
    assert await store.open_of(["PB-1", "PB-2", "PB-3"]) == {"PB-1": first, "PB-2": other}
    ended = commands.cancel(first, after(1))
    assert ended is not None
    await store.write([ended])
    assert await store.open_of(["PB-1"]) == {}
    assert await store.add([second]) == {second.command_id}
    assert await store.open_of(["PB-1"]) == {"PB-1": second}


async def test_of_many_that_press_at_once_one_makes_the_command(store: CommandStore) -> None:
    added = await asyncio.gather(*(store.add([command(1, nonce=number)]) for number in range(20)))
    assert len(set().union(*added)) == 1
    assert len(await store.find(CommandQuery(limit=50))) == 1


async def test_a_change_is_written_where_nobody_changed_it_meanwhile(store: CommandStore) -> None:
    one, two = command(1), command(2)
    await store.add([one, two])
    cancelled = commands.cancel(one, after(1))
    assert cancelled is not None
    assert await store.write([cancelled]) == {one.command_id}
    assert await store.write([published(one), published(two)]) == {two.command_id}
    assert (await kept(store, one.command_id)).state is CommandState.CANCELLED
    # Whoever wrote the same, and repeats it because no answer came, is told that it is so.
    assert await store.write([published(two)]) <= {two.command_id}
    assert await kept(store, two.command_id) == published(two)
    assert await store.write([replace(command(3), version=2)]) == set()
    assert await store.write([]) == set()


async def test_pages_newest_first_by_device_and_by_state(store: CommandStore) -> None:
    made = [command(number % 3, number, nonce=number) for number in range(6)]
    for one in made:
        assert await store.add([one])
        ended = commands.expire(one, after(1000))
        assert ended is not None
        await store.write([ended])
    last = command(7, 10)
    await store.add([last])
    newest_first = [last.command_id, *(one.command_id for one in reversed(made))]

    async def found(query: CommandQuery) -> list[str]:
        return [one.command_id for one in await store.find(query)]

    assert await found(CommandQuery(limit=50)) == newest_first
    assert await found(CommandQuery(limit=2, before=newest_first[1])) == newest_first[2:4]
    assert await found(CommandQuery(limit=50, state=CommandState.QUEUED)) == [last.command_id]
    of_device = CommandQuery(limit=50, device_id="PB-1", state=CommandState.EXPIRED)
    assert await found(of_device) == [made[4].command_id, made[1].command_id]


async def test_commands_are_counted_by_state_of_all_and_of_a_device(
    store: CommandStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await store.counts(None) == {}
    over = [command(1, minute=minute, nonce=minute + 1) for minute in range(3)]
    for each in over:
        await store.add([each])
        cancelled = commands.cancel(each, after(5))
        assert cancelled is not None
        await store.write([cancelled])
    queued = [command(device) for device in range(1, 5)]
    assert len(await store.add(queued)) == 4
    await store.write([published(queued[3])])
    expected = {CommandState.CANCELLED: 3, CommandState.QUEUED: 3, CommandState.PUBLISHED: 1}
    assert await store.counts(None) == expected
    assert await store.counts("PB-1") == {CommandState.CANCELLED: 3, CommandState.QUEUED: 1}
    assert await store.counts("PB-9") == {}
    monkeypatch.setattr(limits, "COMMANDS_COUNTED_MAX", 2)
    assert await store.counts(None) == {**dict.fromkeys(expected, 2), CommandState.PUBLISHED: 1}
    assert (await store.counts("PB-1"))[CommandState.CANCELLED] == 3


async def test_the_queue_passes_over_sites_that_are_full_and_what_has_expired(store: CommandStore) -> None:
    made = [command(number, number / 10, site=(None, "S-1", "S-2")[number % 3]) for number in range(12)]
    await store.add(made)
    await store.write([published(made[3])])

    async def queued(now: datetime, limit: int, *sites: str) -> list[int]:
        found = await store.queued(now, limit, without_sites=sites)
        return [int(one.device_id.removeprefix("PB-")) for one in found]

    assert await queued(after(2), 4) == [0, 1, 2, 4]
    assert await queued(after(2), 50, "S-1") == [0, 2, 5, 6, 8, 9, 11]
    assert await queued(after(2), 50, "S-1", "S-2") == [0, 6, 9]
    assert await queued(after(60.5), 50) == [6, 7, 8, 9, 10, 11]
    assert [one.device_id for one in await store.overdue(after(60.5), 3)] == ["PB-0", "PB-1", "PB-2"]
    assert len(await store.overdue(after(60.5), 50)) == 5, "the sixth is published"


async def test_what_is_under_way_is_read_page_by_page(store: CommandStore) -> None:
    made = [command(number, number / 10) for number in range(7)]
    await store.add(made)
    under_way = [published(one) for one in made[1:6]]
    await store.write(under_way)
    accepted = commands.answer(under_way[2], "PB-3", Reply(under_way[2].command_id, "accepted"), after(2))
    assert accepted is not None
    await store.write([accepted])
    under_way[2] = accepted
    assert await store.inflight("", 3) == under_way[:3]
    assert await store.inflight(under_way[2].command_id, 3) == under_way[3:]
