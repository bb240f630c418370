"""The files of a stopped secondary are a backup: a server started on a copy of them has every event."""

import shutil
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from local_stack import ports
from local_stack.process import running
from local_stack.servers import MongodbServer
from pisync.stores.interfaces.events import InsertOutcome
from pisync.stores.mongodb.events import MongoEventStore
from tests.chaos.replica_set import ReplicaSet
from tests.support.replays import replayed
from tests.support.samples import NOW, event
from tests.support.waiting import until


class Recovering(MongodbServer):
    """A server that is told to apply what a member of a replica set had in its oplog, and to keep that."""

    def _arguments(self) -> list[str]:
        return [
            *super()._arguments(),
            *("--setParameter", "recoverFromOplogAsStandalone=true"),
            *("--setParameter", "takeUnstableCheckpointOnShutdown=true"),
        ]


def free_ports() -> Iterator[int]:
    while True:
        yield ports.any_free()


async def test_a_copy_of_a_stopped_secondary_has_everything(tmp_path: Path) -> None:
    events = [event("PB-1", minute) for minute in range(300)]
    async with AsyncExitStack() as stack:
        replica_set = ReplicaSet(tmp_path, free_ports(), logs=tmp_path)
        for member in replica_set.members:
            await stack.enter_async_context(running(member))
        await replica_set.initiate()
        store = MongoEventStore.connect(replica_set.url)
        stack.push_async_callback(store.close)
        await store.prepare()
        secondary = replica_set.another_than(await replica_set.primary())
        # A majority acknowledges without it: it has the events only later.
        secondary.pause()
        assert set(await store.insert(events, NOW)) == {InsertOutcome.STORED}
        secondary.resume()
        await until(partial(replica_set.has_all, secondary))
        await secondary.terminate()
        # The set goes on with two members.
        assert await store.insert([event("PB-2")], NOW) == [InsertOutcome.STORED]
        shutil.copytree(secondary.directory, tmp_path / "copy")
        await secondary.start()
    async with running(Recovering(tmp_path / "copy")):
        pass
    async with running(MongodbServer(tmp_path / "copy")) as restored:
        store = MongoEventStore.connect(restored.url)
        try:
            entries = await replayed(store, None)
            assert sorted(entry.event.timestamp for entry in entries) == [one.timestamp for one in events]
            assert await store.insert([event("PB-3")], NOW) == [InsertOutcome.STORED]
        finally:
            await store.close()
