"""A simulated device whose connection cannot be made, comes too late or does not close, is not lost."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import mqtt5
import pytest

from device_sim.connection import Connection
from device_sim.dialing import Dialer, check_local_addresses
from device_sim.fleet import Fleet
from device_sim.scenario import Faults, Scenario
from pisync import limits
from pisync.errors import ConfigurationError
from pisync.mqtt.address import MqttAddress
from tests.support import virtual_time

ADDRESS: Final = MqttAddress("mqtt://broker.invalid:1883")
CONNACK: Final = mqtt5.ConnAckPacket(session_present=False).write()
SUBACK: Final = b"\x90\x05\xff\xff\x00\x01\x01"


class Stuck(asyncio.Transport):
    """A transport to a broker that lets a device in and then reads nothing: it closes only by force."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.written: list[int] = []
        self._connection = connection
        self._closing = False

    def write(self, data: Any) -> None:
        self.written.append(data[0] >> 4)
        answers = {1: CONNACK, 8: SUBACK}
        if answer := answers.get(self.written[-1]):
            asyncio.get_running_loop().call_soon(self._connection.data_received, answer)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        self._closing = True
        asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)


def fleet_of_one(**options: Any) -> Fleet:
    scenario = Scenario(seed=3, now=datetime(2026, 5, 8, tzinfo=UTC), devices=1, events=1)
    return Fleet(scenario, ADDRESS, **options)


def opening(monkeypatch: pytest.MonkeyPatch, opened: Callable[[Connection], Any]) -> None:
    """Have every connection made, or not, by this."""

    async def open_(dialer: Dialer, connection: Connection, local: str | None, _tls: object) -> None:
        await opened(connection)

    monkeypatch.setattr(Dialer, "_open", open_)


async def until_dialed_again(fleet: Fleet, again: asyncio.Event) -> None:
    """Run the fleet until a second connection is being made."""
    running = asyncio.create_task(fleet.run())
    try:
        await again.wait()
    finally:
        running.cancel()
        await asyncio.wait({running})


def test_an_error_while_a_connection_is_made_ends_the_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(connection: Connection) -> None:
        raise LookupError("a bug of ours")

    async def check() -> None:
        with pytest.raises(LookupError, match="a bug of ours"):
            await fleet_of_one().run()

    opening(monkeypatch, fail)
    virtual_time.run(check)


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
def test_a_connection_that_is_made_after_it_was_given_up_is_closed_without_a_word(
    monkeypatch: pytest.MonkeyPatch, error: OSError | None
) -> None:
    """An event loop may have begun to make it when the time is over; the device hears of its end once."""
    dialed: list[Connection] = []
    again = asyncio.Event()

    async def hang(connection: Connection) -> None:
        dialed.append(connection)
        if len(dialed) > 1:
            again.set()
        elif error is not None:
            raise error
        await asyncio.sleep(2 * limits.CONNECT_TIMEOUT_S)

    async def check() -> None:
        fleet = fleet_of_one()
        await until_dialed_again(fleet, again)
        late = Stuck(dialed[0])
        before = fleet.tally.disconnects
        dialed[0].connection_made(late)
        assert late.is_closing()
        dialed[0].connection_lost(None)
        assert late.written == []
        assert fleet.tally.disconnects == before == 1

    opening(monkeypatch, hang)
    virtual_time.run(check)


@pytest.mark.parametrize("disconnects", [0.0, 1.0])
def test_a_connection_that_the_broker_does_not_let_end_is_given_up(
    monkeypatch: pytest.MonkeyPatch, disconnects: float
) -> None:
    """Whether the device broke it on purpose, or the broker answers no PINGREQ: it connects again."""
    made: list[Stuck] = []
    again = asyncio.Event()

    async def let_in(connection: Connection) -> None:
        made.append(Stuck(connection))
        if len(made) > 1:
            again.set()
        connection.connection_made(made[-1])

    async def check() -> None:
        await until_dialed_again(fleet_of_one(faults=Faults(disconnects=disconnects)), again)
        assert made[0].written[:2] == [1, 8]

    opening(monkeypatch, let_in)
    virtual_time.run(check)


async def test_an_error_after_all_was_covered_is_told() -> None:
    told: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))
    fleet, late = fleet_of_one(), LookupError("late")
    fleet._ended = loop.create_future()
    fleet._ended.set_result(None)
    fleet.crashed(late)
    assert [context["exception"] for context in told] == [late]


def test_the_error_of_a_part_is_told() -> None:
    """A process of its own may fork; a test run has event loops and threads."""
    program = """
import asyncio
from device_sim import parts
from device_sim.tally import Tally
class Fleet:
    tally = Tally()
    async def run(self):
        raise LookupError("a bug of ours")
asyncio.run(parts.fork([Fleet]).run())
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "LookupError: a bug of ours" in ended.stderr
    assert "its error is above" in ended.stderr


def test_addresses_to_connect_from_are_this_machines() -> None:
    check_local_addresses(["127.0.0.1"])
    with pytest.raises(ConfigurationError, match=r"--local-address 203\.0\.113\.7: "):
        check_local_addresses(["127.0.0.1", "203.0.113.7"])
