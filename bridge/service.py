"""The bridge as a process: wires the parts, watches them, and stops them in order."""

import asyncio
import signal

import uvloop

from bridge.pipeline import Pipeline
from bridge.projector import Projector
from bridge.retry import until_available
from bridge.session import Session
from pisync import logs, topics
from pisync.errors import PiSyncError
from pisync.settings import Settings
from pisync.stores.interfaces import EventStore, StreakStore
from pisync.stores.mongodb import MongoEventStore
from pisync.stores.redis import RedisStreakStore

log = logs.get(__name__)


def run(settings: Settings) -> None:
    """Run a bridge until SIGTERM or SIGINT.

    Raises:
        PiSyncError: something that trying again cannot mend; its `exit_code` is the process's.
    """
    uvloop.run(_main(settings))


async def _main(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    store = MongoEventStore.connect(settings.mongodb_url)
    streaks = RedisStreakStore.connect(settings.redis_url)
    try:
        await serve(settings, store=store, streaks=streaks, stop=stop)
    finally:
        await store.close()
        await streaks.close()


async def serve(settings: Settings, *, store: EventStore, streaks: StreakStore, stop: asyncio.Event) -> None:
    """Run a bridge over these stores until `stop` is set, then drain what is in flight."""
    pipeline = Pipeline(store=store, projector=Projector(streaks), settings=settings)
    session = Session(
        address=settings.mqtt,
        ca_file=settings.mqtt_ca_file,
        client_id=settings.bridge_id,
        topic_filter=topics.SHARED_SYNC_FILTER,
        on_message=pipeline.offer,
    )
    pipeline.attach(session)
    log.info("starting", bridge_id=settings.bridge_id, broker=str(settings.mqtt))
    stopping = asyncio.create_task(stop.wait(), name="stop")
    preparing = asyncio.create_task(until_available("MongoDB", store.prepare), name="prepare")
    await asyncio.wait({stopping, preparing}, return_when=asyncio.FIRST_COMPLETED)
    tasks = [stopping, preparing]
    try:
        if preparing.done():
            preparing.result()
            tasks += [
                asyncio.create_task(session.run(), name="session"),
                asyncio.create_task(pipeline.run(), name="pipeline"),
            ]
            # Neither ends by itself: whatever does, brings the bridge down with its reason.
            await asyncio.wait({stopping, *tasks[2:]}, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks[2:]:
                if task.done():
                    task.result()
            await _drain(pipeline, settings.drain_timeout_s)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    log.info("stopped", bridge_id=settings.bridge_id)


async def _drain(pipeline: Pipeline, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await pipeline.drain()
    except TimeoutError:
        raise PiSyncError(
            f"could not finish what was in flight within {timeout_s:g} s;"
            " it is not acknowledged, and the broker will deliver it again"
        ) from None
