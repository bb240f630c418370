"""Goes on where the made-up story ends: its devices sync through the broker, one after the other."""

import asyncio
from dataclasses import dataclass
from random import Random

from device_sim.fleet import Fleet
from device_sim.scenario import Period, Profile, Story
from device_sim.scenarios.demo import SEED, Demo, sync_event
from pisync import clock
from pisync.domain.events import SyncEvent
from pisync.mqtt.address import MqttAddress


@dataclass(frozen=True, kw_only=True, slots=True)
class _OneSync:
    """A scenario of one device that comes online with one event."""

    event: SyncEvent
    seed: int = SEED
    devices: int = 1
    events_total: int = 1

    def story(self, place: int) -> Story:  # noqa: ARG002 - there is one
        return Story(
            device_id=self.event.device_id,
            device_type="PiBook",
            profile=Profile.HEALTHY,
            array_events=1,
            failures=self.event.total_errors,
            streak=self.event.total_errors,
            periods=(Period(backlog=(self.event,), replayed=0, live=()),),
        )


async def publish(demo: Demo, address: MqttAddress) -> None:
    """Publish the school day, each event until its receipt comes; runs until it is cancelled.

    Raises:
        ConfigurationError: the broker refuses a device for good.
    """
    for number, sync in enumerate(demo.school_day()):
        event = sync_event(Random(f"{SEED}/{number}"), sync.device_id, clock.now(), sync.code)
        await Fleet(_OneSync(event=event), address, connections=1, keeps_sessions=True).run()
        await asyncio.sleep(sync.pause_s)
