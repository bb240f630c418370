"""Several Mosquittos behind HAProxy as it is deployed, and bridges at each of them."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from zlib import crc32

from device_sim.auditor import Auditor
from device_sim.scenario import Scenario
from local_stack import ports
from local_stack.process import ChildProcess, running
from local_stack.programs import MOSQUITTO
from local_stack.servers import MongodbServer, MosquittoServer, RedisServer
from local_stack.services import Bridge
from pisync.mqtt.address import MqttAddress
from tests.chaos.fleet import RecordedFleet
from tests.chaos.ledger import Ledger
from tests.support.haproxy import HaproxyServer
from tests.support.programs import Truth, program, truth
from tests.support.waiting import until

DEPLOYED: Final = Path(__file__).parents[2] / "deploy/haproxy/haproxy.cfg"
NOW: Final = datetime(2026, 5, 8, 12, tzinfo=UTC)
DEVICES: Final = 30
EVENTS: Final = 40
ARRAY_EVENTS: Final = 4


def configuration(bind: str, brokers: Sequence[int], *, options: str = "check inter 1s") -> str:
    """The deployed configuration for brokers on these ports of this machine."""
    text = DEPLOYED.read_text()
    assert text.count("mod(2)") == 1
    text = text.replace("mod(2)", f"mod({len(brokers)})").replace("maxconn 100000", "maxconn 1000")
    head, _, backends = text.partition("backend broker-0")
    assert backends.count("backend broker-") == 1
    head, bound = re.subn(r"^    bind .*$", f"    bind {bind}", head, flags=re.MULTILINE)
    assert bound == 1
    return head + "".join(
        f"backend broker-{number} from brokers\n    server broker-{number} {ports.HOST}:{port} {options}\n"
        for number, port in enumerate(brokers)
    )


def broker_of(client_id: str, brokers: int) -> int:
    """Where a client comes."""
    return crc32(client_id.encode()) % brokers


class Site:
    """Brokers, HAProxy, bridges and stores, and the ledger of the fleets that published."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mongodb = MongodbServer(directory / "mongodb")
        self.redis = RedisServer(directory / "redis")
        self.haproxy = HaproxyServer(directory / "haproxy")
        self.brokers: list[MosquittoServer] = []
        self.bridges: dict[str, Bridge] = {}
        self.truth: Truth
        self._broker_of_bridge: dict[str, MosquittoServer] = {}
        self._stack = AsyncExitStack()
        self._auditor = Auditor()
        self._ledger = Ledger(self._auditor)
        self._fleets: list[RecordedFleet] = []
        self.devices: list[str] = []

    @asynccontextmanager
    async def running(self, brokers: int = 2, bridges: int = 4) -> AsyncIterator["Site"]:
        """The whole; the bridges are shared out among the brokers."""
        MOSQUITTO.require()
        async with self._stack:
            await self._stack.enter_async_context(running(self.mongodb))
            await self._stack.enter_async_context(running(self.redis))
            self.truth = await self._stack.enter_async_context(truth(self.mongodb.url))
            for _ in range(brokers):
                await self.add_broker()
            self.route(self.brokers)
            await self._stack.enter_async_context(running(self.haproxy))
            await asyncio.gather(
                *(
                    self.add_bridge(f"bridge-{number}", self.brokers[number % brokers])
                    for number in range(bridges)
                )
            )
            yield self

    @property
    def mqtt_url(self) -> str:
        """All brokers, for api and worker."""
        return self.url_of(self.brokers)

    def url_of(self, brokers: Sequence[MosquittoServer]) -> str:
        return "mqtt://" + ",".join(f"{ports.HOST}:{broker.port}" for broker in brokers)

    def urls(self, brokers: Sequence[MosquittoServer]) -> dict[str, str]:
        """The servers' settings of a program."""
        return {
            "mqtt_url": self.url_of(brokers),
            "mongodb_url": self.mongodb.url,
            "redis_url": self.redis.url,
        }

    def route(self, brokers: Sequence[MosquittoServer]) -> None:
        """Write HAProxy's configuration, for its next start or reload."""
        bind = f"{ports.HOST}:{self.haproxy.port}"
        self.haproxy.configure(configuration(bind, [broker.port for broker in brokers]))

    async def add_broker(self) -> MosquittoServer:
        broker = MosquittoServer(
            self.directory / f"mosquitto-{len(list(self.directory.glob('mosquitto-*')))}"
        )
        self.brokers.append(await self._stack.enter_async_context(running(broker)))
        return broker

    async def add_bridge(self, bridge_id: str, broker: MosquittoServer) -> Bridge:
        """A bridge at a broker; its first where it names several, the others hear of alerts."""
        others = [each for each in self.brokers if each is not broker]
        log = self.directory / f"{bridge_id}.log"
        bridge = Bridge(bridge_id, self.urls([broker, *others]), log=log)
        self.bridges[bridge_id] = await self._stack.enter_async_context(running(bridge))
        self._broker_of_bridge[bridge_id] = broker
        return bridge

    def bridges_of(self, broker: MosquittoServer) -> list[str]:
        return [
            name for name, its in self._broker_of_bridge.items() if its is broker and name in self.bridges
        ]

    async def leave(self, bridge_id: str) -> int:
        """Retire a bridge that does not run, as `pisync bridge --leave`; how many messages it took in."""
        broker = self._broker_of_bridge[bridge_id]
        log = self.directory / f"{bridge_id}-leaves.log"
        leaving = program("bridge", log, "--leave", **self.urls([broker]), bridge_id=bridge_id)
        await self.done(leaving)
        del self.bridges[bridge_id]
        found = re.findall(r"\bleft\b.*messages=(\d+)", re.sub(r"\x1b\[[0-9;]*m", "", log.read_text()))
        assert len(found) == 1, log.read_text()
        return int(found[0])

    async def done(self, child: ChildProcess) -> None:
        """Run a command to its end, which is to be a good one."""
        async with running(child):
            assert await child.wait() == 0, child.log_tail()

    def fleet(self) -> RecordedFleet:
        """A fleet that publishes through HAProxy."""
        scenario = Scenario(
            seed=len(self._fleets), now=NOW, devices=DEVICES, events=EVENTS, array_events=ARRAY_EVENTS
        )
        self.devices += [scenario.story(place).device_id for place in range(DEVICES)]
        address = MqttAddress(f"mqtt://{ports.HOST}:{self.haproxy.port}")
        self._fleets.append(RecordedFleet(self._ledger, scenario, address, lambda _: None))
        return self._fleets[-1]

    @property
    def published(self) -> int:
        """The messages that the fleets published."""
        return sum(fleet.tally.counters.published for fleet in self._fleets)

    @property
    def receipts_s(self) -> Sequence[float]:
        """After how long each receipt came."""
        return self._ledger.receipts_s

    async def audit(self) -> None:
        """Nothing receipted is lost, doubled or changed, nothing waits for a bridge, and Redis is right."""
        books = self._auditor.balance([each async for each in self.truth.database.sync_events.find()])
        assert books.confirmed == books.sent == books.stored > 0
        assert books.faults == []
        assert await self.truth.database.dead_letters.count_documents({}) == 0
        log = self.directory / "check.log"

        async def is_clean() -> bool:
            check = program("rebuild", log, "--check", **self.urls(self.brokers))
            async with running(check):
                return await check.wait() == 0

        await until(is_clean)
        await asyncio.gather(*(bridge.terminate() for bridge in self.bridges.values()))
        waited = await asyncio.gather(*(self.leave(bridge_id) for bridge_id in self.bridges))
        assert sum(waited) == 0, "messages waited for bridges"
