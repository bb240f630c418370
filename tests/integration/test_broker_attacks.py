"""What worked against an open broker, and what one would try next, against one with access control."""

import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import mqtt5
import pytest
import pytest_asyncio

from local_stack import ports, programs
from local_stack.process import running
from local_stack.secure_broker import SecureMosquittoServer
from local_stack.servers import MosquittoServer
from pisync.broker_access import Program
from pisync.broker_access.roles import CONTROL, CONTROL_RESPONSE
from pisync.domain import broker, topics
from tests.support.mqtt_wire import NOT_AUTHORIZED, Refused, Shows, Wire, received
from tests.support.secure_broker import FORMER, KEYED, A, B, SecureBroker, order, secure_broker

MESSAGES = 20
FILTERS = 5000
FILTERS_AT_ONCE = 500


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secure(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecureBroker]:
    """One broker for all of them."""
    async with secure_broker(tmp_path_factory.mktemp("attacked")) as broker_:
        yield broker_


@pytest.fixture(params=[A, KEYED, FORMER])
def thief(request: pytest.FixtureRequest, secure: SecureBroker) -> Shows:
    """A device that does what it should not: with a certificate, with a password, and one that was let go."""
    return secure.keyed() if request.param == KEYED else secure.device(request.param)


def test_nobody_takes_messages_from_the_bridges_by_sharing_their_subscription(
    thief: Shows, secure: SecureBroker
) -> None:
    sent = [(topics.sync(B), b"%d" % number) for number in range(MESSAGES)]
    with (
        Wire.connect(secure.program(Program.BRIDGE), "@bridge-theft") as bridge,
        Wire.connect(thief, expiry_s=60) as stealing,
        Wire.connect(secure.device(B)) as device,
    ):
        assert bridge.subscribe([topics.SHARED_SYNC_FILTER]) == [1]
        wanted = [topics.SHARED_SYNC_FILTER, topics.FORMER_SHARED_SYNC_FILTER, *topics.EVERYTHING_FILTERS]
        assert set(stealing.subscribe(wanted)) == {NOT_AUTHORIZED}
        assert device.publish(sent) == [0] * MESSAGES
        assert received(bridge, topics.sync(B)) == [payload for _, payload in sent]
        assert stealing.barrier().messages == []


@pytest.mark.parametrize("name", [A, "@bridge-0", "@worker@commands"])
def test_nobody_takes_the_session_of_another_by_its_client_id(name: str, secure: SecureBroker) -> None:
    shows = secure.device(A) if name == A else secure.program(Program.BRIDGE)
    with Wire.connect(shows, name, expiry_s=60) as owner:
        for thief in (secure.device(B), secure.keyed()):
            with Wire.connect(thief, name, clean_start=False, expiry_s=60) as stealing:
                assert stealing.publish([(topics.sync(name), b"")]) == [NOT_AUTHORIZED]
        owner.barrier()  # is connected still


@pytest.mark.parametrize("password", ["", "guess"])
def test_a_device_has_no_other_name_where_programs_choose_theirs(password: str, secure: SecureBroker) -> None:
    place = secure.device(A, port=secure.server.programs_port)
    for username in (A, "@bridge", None):
        with pytest.raises(Refused):
            Wire.connect(_with(place, username, password), "@bridge-0")


def test_a_device_with_a_password_has_its_own_client_id_among_programs_too(secure: SecureBroker) -> None:
    keyed = secure.keyed()
    place = _with(secure.device(A, port=secure.server.programs_port), keyed.username, keyed.password)
    with pytest.raises(Refused):
        Wire.connect(place, "@bridge-0")


def test_a_programs_certificate_alone_is_nobody_at_the_devices_listener(secure: SecureBroker) -> None:
    program = secure.program(Program.WARDEN)
    shows = Shows(
        port=secure.server.port,
        authority=program.authority,
        certificate=program.certificate,
        key=program.key,
        username=program.username,
        password=program.password,
    )
    with Wire.connect(shows) as wire:
        assert wire.publish([(CONTROL, b"{}"), (topics.sync(A), b"")]) == [NOT_AUTHORIZED] * 2
        assert wire.subscribe([CONTROL_RESPONSE, topics.receipts(A)]) == [NOT_AUTHORIZED] * 2


def test_forged_receipts_alerts_commands_and_poisoned_statuses_reach_nobody(
    thief: Shows, secure: SecureBroker
) -> None:
    forged = [
        (topics.receipts(B), b'{"stored":1,"duplicates":0,"rejected":[]}'),
        (topics.receipts(B, "t"), b"{}"),
        (topics.commands(B), b"{}"),
        (topics.command_replies(B), b"{}"),
        (topics.status(B), b"offline"),
        (topics.alerts(B, "streak"), b"{}"),
        (topics.api_receipts("api-0"), b"{}"),
        (topics.SYNC_OF_NO_DEVICE, b"{}"),
        (f"/{topics.sync(B)}", b"{}"),
    ]
    with (
        Wire.connect(secure.program(Program.OBSERVER), "@observer-forged") as observer,
        Wire.connect(thief) as forging,
    ):
        assert observer.subscribe([f"{topics.PREFIX}/#"]) == [1]
        assert set(forging.publish(forged, retain=True)) == {NOT_AUTHORIZED}
        for topic, payload in forged:
            forging.publish_unanswered(topic, payload)
        forging.barrier()
        assert observer.barrier().messages == []
    with Wire.connect(secure.program(Program.OBSERVER), "@observer-after") as observer:
        observer.subscribe([f"{topics.PREFIX}/#"])
        assert observer.barrier().messages == [], "something is retained"


def test_a_will_for_a_foreign_topic_is_never_published(secure: SecureBroker) -> None:
    foreign = [topics.status(B), topics.receipts(B), topics.alerts(B, "streak"), CONTROL]
    with Wire.connect(secure.program(Program.OBSERVER), "@observer-wills") as observer:
        observer.subscribe([f"{topics.PREFIX}/#"])
        for topic in [*foreign, topics.status(A)]:
            try:
                wire = Wire.connect(secure.device(A), will=_will(topic))
            except Refused:  # as Mosquitto 2.1 does where it is for $CONTROL
                assert topic == CONTROL
                continue
            wire.barrier()
            wire.cut()
            # The next connection of the same client id comes after the end of this one, and its will.
        with Wire.connect(secure.device(A)):
            assert {message.topic for message in observer.barrier().messages} == {topics.status(A)}


def test_old_devices_that_get_no_reason_codes_reach_no_further(secure: SecureBroker, tmp_path: Path) -> None:
    shows = secure.device(A)
    command = [
        *(str(programs.MOSQUITTO_PUB.require()), "-V", "mqttv311", "-q", "1", "-m", "x"),
        *("-h", ports.HOST, "-p", str(shows.port), "--cafile", str(shows.authority)),
        *("--cert", str(shows.certificate), "--key", str(shows.key)),
    ]
    with Wire.connect(secure.program(Program.OBSERVER), "@observer-311") as observer:
        observer.subscribe([f"{topics.PREFIX}/#"])
        for topic in (topics.sync(B, "t"), topics.status(B), topics.sync(A, "t")):
            subprocess.run([*command, "-t", topic], check=True, timeout=30, capture_output=True)
        assert [message.topic for message in observer.barrier().messages] == [topics.sync(A, "t")]


def test_thousands_of_filters_are_each_refused_and_the_broker_goes_on(secure: SecureBroker) -> None:
    with Wire.connect(secure.device(A)) as wire:
        for first in range(0, FILTERS, FILTERS_AT_ONCE):
            numbers = range(first, first + FILTERS_AT_ONCE)
            filters = [f"{topics.PREFIX}/devices/+/sync/{number}/#" for number in numbers]
            assert set(wire.subscribe(filters)) == {NOT_AUTHORIZED}
        assert wire.publish([(topics.sync(A), b"")]) != [NOT_AUTHORIZED]


def test_a_device_fills_no_memory_of_the_broker_by_filters_and_topics_of_its_own(
    secure: SecureBroker,
) -> None:
    deep = "/".join("a" * 150)
    with Wire.connect(secure.device(A)) as wire:
        filters = [topics.receipts(A, f"{number}/{deep}") for number in range(FILTERS_AT_ONCE)]
        assert set(wire.subscribe(filters)) == {NOT_AUTHORIZED}
        assert wire.publish([(topics.sync(A, f"t/{deep}"), b"")], retain=True) == [NOT_AUTHORIZED]
        assert wire.subscribe([topics.receipts(A, "t"), topics.receipts(A, "+")]) == [NOT_AUTHORIZED, 1]


def test_the_brokers_own_topics_are_closed(thief: Shows, secure: SecureBroker) -> None:
    orders = json.dumps({"commands": [{"command": "deleteClient", "username": B}]}).encode()
    with Wire.connect(thief) as wire:
        codes = wire.publish(
            [(CONTROL, orders), (broker.DROPPED, b"0"), ("$SYS/broker/connection/x/state", b"1")]
        )
        assert codes == [NOT_AUTHORIZED] * 3
        assert set(wire.subscribe(["$SYS/#", broker.DROPPED, CONTROL_RESPONSE, "$CONTROL/#"])) == {
            NOT_AUTHORIZED
        }
    with Wire.connect(secure.device(B)) as device:
        assert device.publish([(topics.sync(B), b"")]) != [NOT_AUTHORIZED]


async def test_a_session_that_subscribed_before_there_was_access_control_is_given_nothing(
    tmp_path: Path,
) -> None:
    before = MosquittoServer(tmp_path / "mosquitto")
    async with running(before):
        shows = Shows(port=before.port)
        with Wire.connect(shows, A, clean_start=False, expiry_s=600) as former:
            assert set(former.subscribe([f"{topics.PREFIX}/#", topics.receipts(A)])) == {1}
    world = SecureBroker(tmp_path)
    async with running(world.server):
        with (
            Wire.connect(world.device(A), clean_start=False, expiry_s=600) as former,
            Wire.connect(world.device(B)) as device,
            Wire.connect(world.program(Program.BRIDGE), "@bridge-0") as bridge,
        ):
            assert former.is_resumed_by_broker
            device.publish([(topics.sync(B), b"secret")])
            bridge.publish([(topics.receipts(B), b"secret"), (topics.receipts(A), b"mine")])
            assert {message.payload for message in former.barrier().messages} == {b"mine"}


async def test_what_waits_and_what_comes_for_an_absent_device_survives_a_restart(tmp_path: Path) -> None:
    """The broker asks whether the device may receive it while only its session is there."""
    async with secure_broker(tmp_path) as world:
        shows, bridge = world.device(A), world.program(Program.BRIDGE)
        with Wire.connect(shows, clean_start=False, expiry_s=600) as device:
            device.subscribe([topics.receipts(A)])
        with Wire.connect(bridge, "@bridge-0") as sending:
            assert sending.publish([(topics.receipts(A), b"before")]) == [0]
        await world.server.restart()
        with Wire.connect(bridge, "@bridge-0") as sending:
            assert sending.publish([(topics.receipts(A), b"after")]) == [0]
        with Wire.connect(shows, clean_start=False, expiry_s=600) as device:
            assert received(device, topics.receipts(A)) == [b"before", b"after"]


async def test_what_is_taken_away_is_gone_at_once_and_stays_so(tmp_path: Path) -> None:
    """By the broker's list at once, and by the authority's from the broker's next start on without it."""
    async with secure_broker(tmp_path) as world:
        shows = world.device(A)
        with (
            Wire.connect(shows, clean_start=False, expiry_s=600) as device,
            Wire.connect(world.program(Program.WARDEN), "@warden") as warden,
        ):
            assert device.subscribe([topics.receipts(A)]) == [1]
            session = device.barrier().session
            order(warden, {"command": "deleteClient", "username": A})
            device.until_ended()
            with Wire.connect(shows, clean_start=False, expiry_s=600, session=session) as again:
                assert again.is_resumed
                assert again.publish([(topics.sync(A), b"stolen")]) == [NOT_AUTHORIZED]
                wanted = [topics.receipts(A), topics.SHARED_SYNC_FILTER]
                assert again.subscribe(wanted) == [NOT_AUTHORIZED] * 2
                session = again.barrier().session
        world.credentials.revoke(A)
        await world.server.restart()
        for resumed in (session, None):
            with pytest.raises(Refused):
                Wire.connect(shows, session=resumed)
        with Wire.connect(world.device(B)) as other:
            assert other.publish([(topics.sync(B), b"")]) != [NOT_AUTHORIZED]


async def test_a_broker_that_lost_its_list_lets_programs_in_and_no_device(tmp_path: Path) -> None:
    async with secure_broker(tmp_path) as world:
        await world.server.terminate()
        server = SecureMosquittoServer(world.server.directory, world.credentials)
        server.write_state()
        async with running(server):
            with Wire.connect(_at(world.device(A), server.port)) as device:
                assert (
                    device.subscribe([topics.receipts(A), topics.SHARED_SYNC_FILTER]) == [NOT_AUTHORIZED] * 2
                )
                assert device.publish([(topics.sync(A), b"")]) == [NOT_AUTHORIZED]
            shows = _at(world.program(Program.WARDEN), server.programs_port)
            with Wire.connect(shows, "@warden") as warden:
                order(warden, {"command": "listClients"})


def _with(shows: Shows, username: str | None, password: str | None) -> Shows:
    return Shows(
        port=shows.port,
        authority=shows.authority,
        certificate=shows.certificate,
        key=shows.key,
        username=username,
        password=password if username else None,
    )


def _at(shows: Shows, port: int) -> Shows:
    return Shows(
        port=port,
        authority=shows.authority,
        certificate=shows.certificate,
        key=shows.key,
        username=shows.username,
        password=shows.password,
    )


def _will(topic: str) -> mqtt5.Will:
    return mqtt5.Will(topic, payload=b"offline", qos=mqtt5.QoS.AT_LEAST_ONCE)
