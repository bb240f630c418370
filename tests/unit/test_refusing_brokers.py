"""One of several brokers refuses a program, or does not take what the others took."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from bridge.service import _Bridge
from bridge.session import Session
from cli import device_passwords
from cli.credentials import Asked
from pisync import limits, tasks
from pisync.errors import BrokerUnavailable, ConfigurationError, PiSyncError
from pisync.mqtt import several
from pisync.mqtt.client import Client
from pisync.mqtt.dynamic_security import DynamicSecurity, all_connected
from pisync.settings import BridgeSettings
from pisync.stores.opening import Stores
from tests.support.commands import forget_settings
from tests.support.waiting import until


class Connecting:
    """A client of which a broker takes the connection, or refuses it."""

    def __init__(self) -> None:
        self.is_taken = asyncio.Event()
        self.is_refused = asyncio.Event()
        self.was_ready = False
        self.asked = 0

    async def run(self) -> None:
        self.asked += 1
        works = [asyncio.create_task(event.wait()) for event in (self.is_taken, self.is_refused)]
        await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
        await tasks.cancel(works)
        if not self.is_taken.is_set():
            raise ConfigurationError("the password is wrong")
        self.was_ready = True
        await asyncio.Event().wait()


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> tuple[Connecting, Connecting]:
    monkeypatch.setattr(limits, "BROKER_ACCESS_REFUSED_WAIT_S", 0)
    return Connecting(), Connecting()


async def stay(clients: tuple[Connecting, Connecting]) -> None:
    named = {name: cast("Client", client) for name, client in zip("ab", clients, strict=True)}
    async with tasks.supervise(several.staying(named)) as running:
        await running.until(asyncio.Event())


async def test_one_that_refuses_us_is_asked_again_and_ends_nothing(
    clients: tuple[Connecting, Connecting],
) -> None:
    first, second = clients
    first.is_taken.set()
    with capture_logs() as logs:
        running = asyncio.create_task(stay(clients))
        await until(lambda: first.was_ready)
        second.is_refused.set()
        await until(lambda: second.asked > 2)
        second.is_taken.set()
        await until(lambda: second.was_ready)
    assert not running.done()
    assert {line["connection"] for line in logs} == {"b"}
    await tasks.cancel([running])


async def test_where_every_one_refuses_us_that_is_said(clients: tuple[Connecting, Connecting]) -> None:
    for client in clients:
        client.is_refused.set()
    with pytest.raises(ConfigurationError, match="password is wrong"):
        await stay(clients)


async def test_while_one_is_only_away_another_one_that_refuses_us_is_asked_again(
    clients: tuple[Connecting, Connecting],
) -> None:
    first, second = clients
    second.is_refused.set()
    running = asyncio.create_task(stay(clients))
    await until(lambda: second.asked > 2)
    assert not running.done()
    first.is_refused.set()
    with pytest.raises(ConfigurationError, match="password is wrong"):
        await running


# Who is let in


class List:
    """A broker's list of who may connect."""

    def __init__(self, fault: PiSyncError | None = None) -> None:
        self.fault = fault
        self.passwords: dict[str, str] = {}

    async def connected(self, _within_s: float) -> None:
        if self.fault is not None:
            raise self.fault

    async def allow_by_password(self, device_id: str, password: str) -> None:
        await self.connected(0)
        self.passwords[device_id] = password


def lists(**found: List) -> Mapping[str, DynamicSecurity]:
    return cast("Mapping[str, DynamicSecurity]", found)


async def test_which_of_several_is_away_is_told() -> None:
    away = List(BrokerUnavailable("There is no connection."))
    with pytest.raises(BrokerUnavailable, match=r"^b: There is no connection\.$"):
        await all_connected(lists(a=List(), b=away), 1)
    with pytest.raises(ConfigurationError, match=r"^b: refused$"):
        await all_connected(lists(a=List(), b=List(ConfigurationError("refused"))), 1)
    with pytest.raises(BrokerUnavailable, match=r"^There is no connection\.$"):
        await all_connected(lists(a=away), 1)


async def test_a_password_that_not_every_broker_took_is_told_to_have_ended_another_one() -> None:
    first, second = List(), List()
    password = await device_passwords._told(lists(a=first, b=second), "PB-1")
    assert first.passwords == second.passwords == {"PB-1": password}
    second.fault = BrokerUnavailable("It is full.")
    with pytest.raises(BrokerUnavailable, match=r"^b did not take .* a did: .*good no more.*It is full\.$"):
        await device_passwords._told(lists(a=first, b=second), "PB-1")
    with pytest.raises(BrokerUnavailable, match=r"^It is full\.$"):
        await device_passwords._told(lists(b=second, a=first), "PB-1")


async def test_a_password_for_some_of_the_brokers_only_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_settings(monkeypatch)
    monkeypatch.setenv("PISYNC_MQTT_URL", "mqtt://a,b")
    monkeypatch.setenv("PISYNC_BROKER_ADMIN_URL", "mqtt://%40warden:secret@a")
    with pytest.raises(ConfigurationError, match="1 of 2 brokers"):
        await device_passwords.give(Asked(ids=["PB-1"], by="ann"), 30)


# A bridge that leaves


@pytest.mark.parametrize(("url", "is_refused"), [("mqtt://b,a", True), ("mqtt://b", False)])
async def test_of_several_brokers_a_bridge_leaves_only_the_one_that_it_was_at(
    url: str, *, is_refused: bool
) -> None:
    """What waits for it at another one would wait there for ever, and more come to it."""
    stores = cast("Stores", SimpleNamespace(bridges=None, directory=None))
    bridge = _Bridge(BridgeSettings(mqtt_url=url, bridge_id="bridge-7"), stores, leaving=True)
    ended: list[bool] = []

    async def barrier() -> None:
        await asyncio.sleep(0)

    session = SimpleNamespace(
        lacked_session=True, is_ready=True, barrier=barrier, end_session=lambda: ended.append(True)
    )
    idle: Any = SimpleNamespace(is_idle=True, is_current=True, offered=0)
    await bridge._quiet(cast("Session", session), idle, idle, idle)
    assert (bridge.has_left, ended) == (not is_refused, [True])
    assert ("mqtt://b:1883 has no session of bridge-7" in str(bridge._refusal)) is is_refused
