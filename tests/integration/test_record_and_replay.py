"""`pisync record` and `pisync replay` against real servers: killed, interrupted, and to the same content."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import aiomqtt

from device_sim import recording
from device_sim.replay import checkpoint as checkpoints
from local_stack.servers import MosquittoServer
from pisync.clock import from_ms, rfc3339
from pisync.domain import topics
from pisync.mqtt.address import MqttAddress
from pisync.stores.redis.projection import RedisProjection
from tests.integration.test_fleet import StandIn
from tests.support.samples import members, without_receipts
from tests.support.waiting import until
from tests.support.world import World, device, running_world

# And the streak at which an alert opened: at 3 or more, by how many events were in one batch.
WHEN = {"received_at", "last_received_at", "expires_from", "opened_at", "streak"}


async def pisync(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cli",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    output, errors = await process.communicate()
    return process.returncode, (output + errors).decode()


async def recording_to(path: Path, url: str, *options: str) -> asyncio.subprocess.Process:
    """A recorder that has subscribed, which a message that only it hears of shows."""
    process = await pisync("record", str(path), "--mqtt-url", url, "--filter", "pisync/#", *options)
    address = MqttAddress(url)
    async with aiomqtt.Client(address.host, address.port) as client:

        async def hears() -> bool:
            await client.publish("pisync/first", b"")
            return size_of(path) > 0

        await until(hears)
    return process


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def recorded(path: Path) -> list[recording.Recorded]:
    return [
        one for one in map(recording.decode, path.read_bytes().splitlines()) if one.topic != "pisync/first"
    ]


def traffic() -> list[tuple[str, bytes]]:
    """Of five devices: single events, arrays, duplicates, a conflict, and what is no event."""

    def event(number: int, minute: int, **changes: Any) -> dict[str, Any]:
        timestamp = rfc3339(from_ms(1_778_241_600_000 + minute * 60_000))
        given = {"total_files_synced": 0, "total_errors": number % 3} | changes
        return members(device_id=f"PB-{number}", timestamp=timestamp, **given)

    found = [
        (topics.sync(f"PB-{number}"), json.dumps(event(number, minute)).encode())
        for minute in range(6)
        for number in range(5)
    ]
    array = [event(1, minute) for minute in range(20)] + [event(1, 30, internet_speed=-1)]
    found += [
        (topics.sync("PB-1"), json.dumps(array).encode()),
        (topics.sync("PB-1", "token-1"), json.dumps(array[:3]).encode()),
        (topics.sync("PB-2"), json.dumps(event(2, 3, total_errors=77)).encode()),
        (topics.sync("PB-2"), b"\x00\xff\xfe no text"),
        (topics.sync("PB-3"), b""),
        (topics.sync("PB-3"), json.dumps(event(4, 1)).encode()),
        (topics.sync("PB-3"), b"[" + b"1," * 200_000 + b"1]"),
        (topics.sync("PB-4") + "/no token", json.dumps(event(4, 8)).encode()),
        (topics.SYNC_OF_NO_DEVICE, b"{}"),
        (topics.sync("PB-4 (copy)"), json.dumps(event(4, 9)).encode()),
    ]
    return found


async def content(world: World) -> dict[str, Any]:
    """What MongoDB and Redis hold, less when it came in."""
    found: dict[str, Any] = {}
    for name in ("sync_events", "dead_letters", "alerts"):
        documents = [one async for one in world.truth.database[name].find()]
        for one in documents:
            for member in (*WHEN, *(["_id"] if name == "alerts" else [])):
                one.pop(member, None)
        found[name] = sorted(map(repr, documents))
    store = RedisProjection.connect(world.redis.url)
    try:
        states = [await store.state(f"PB-{number}") for number in range(5)]
        found["projection"] = [None if one is None else without_receipts(one) for one in states]
    finally:
        await store.close()
    return found


async def settled(world: World, letters: int) -> dict[str, Any]:
    """The content, once all letters and alerts are there."""

    async def there() -> bool:
        database = world.truth.database
        counts = await database.dead_letters.count_documents({}), await database.alerts.count_documents({})
        return bool(counts == (letters, 3))

    await until(there)
    await world.complete()
    return await content(world)


async def test_a_recorded_stretch_replays_to_the_same_content(world: World, tmp_path: Path) -> None:
    file, report = tmp_path / "stretch.ndjson", tmp_path / "report.ndjson"
    recorder = await recording_to(file, world.mosquitto.url)
    sent = traffic()
    async with device(world) as client:
        for topic, payload in sent:
            await client.publish(topic, payload, qos=1)
    before = await settled(world, letters=9)
    await until(lambda: sum("/sync" in one.topic for one in recorded(file)) == len(sent))
    recorder.send_signal(signal.SIGINT)
    code, output = await ended(recorder)
    assert code == 0, output
    syncs = [one for one in recorded(file) if "/sync" in one.topic]
    assert [(one.topic, one.payload_bytes, one.qos) for one in syncs] == [(*one, 1) for one in sent]

    async with running_world(tmp_path / "again", batch_messages_max=50, drain_timeout_s=3) as second:
        code, output = await ended(
            await pisync("replay", str(file), "--mqtt-url", second.mosquitto.url, "--report", str(report))
        )
        assert code == 1, output
        assert await settled(second, letters=9) == before
    faults = [json.loads(one) for one in report.read_bytes().splitlines()][:-1]
    expected = {"schema", "conflict", "malformed", "empty", "token", "device_id"}
    assert {fault["reason"] for fault in faults} >= expected


def written(path: Path, events: int) -> Path:
    lines = (
        members(device_id=f"PB-{place % 7}", timestamp=rfc3339(from_ms(1_778_241_600_000 + place * 1000)))
        for place in range(events)
    )
    path.write_bytes(b"".join(json.dumps(one).encode() + b"\n" for one in lines))
    return path


async def test_a_replay_that_is_killed_goes_on_when_the_command_is_repeated(
    mqtt_url: str, tmp_path: Path
) -> None:
    file = written(tmp_path / "events.ndjson", 400)
    command = ("replay", str(file), "--mqtt-url", mqtt_url, "--rate")
    checkpoint_file = file.with_name(file.name + ".replay-checkpoint")

    def position() -> int:
        found = checkpoints.load(checkpoint_file)
        return 0 if found is None else found.line

    async with StandIn(mqtt_url).running() as bridge:
        for signal_number in (signal.SIGKILL, signal.SIGINT):
            began = position()
            process = await pisync(*command, "60")
            await until(lambda began=began: position() > began)  # type: ignore[misc]
            process.send_signal(signal_number)
            code, output = await ended(process)
            assert code == (130 if signal_number == signal.SIGINT else -signal.SIGKILL), output
        line = position()
        assert 0 < line < 400
        code, output = await ended(await pisync(*command, "100000"))
        assert code == 0, output
        assert f"Goes on after line {line}" in output
        assert "400 events confirmed" in output
        assert len(bridge.events) == 400
    assert not checkpoint_file.exists()


async def test_a_replay_outlives_a_broker_that_is_killed(
    mosquitto_server: MosquittoServer, tmp_path: Path
) -> None:
    file = written(tmp_path / "events.ndjson", 300)
    async with StandIn(mosquitto_server.url).running() as bridge:
        process = await pisync("replay", str(file), "--mqtt-url", mosquitto_server.url, "--rate", "300")
        await until(lambda: len(bridge.events) > 50)
        await mosquitto_server.kill()
        await mosquitto_server.start()
        code, output = await ended(process)
        assert code == 0, output
        assert len(bridge.events) == 300


async def test_standard_input_is_replayed(mqtt_url: str, tmp_path: Path) -> None:
    data = written(tmp_path / "events.ndjson", 50).read_bytes()
    async with StandIn(mqtt_url).running() as bridge:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cli", "replay", "-", "--mqtt-url", mqtt_url, stdin=asyncio.subprocess.PIPE
        )
        await process.communicate(data)
        assert process.returncode == 0
        assert len(bridge.events) == 50


async def test_a_recorder_that_is_killed_has_written_what_it_acknowledged(
    mqtt_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "all.ndjson"
    recorder = await recording_to(file, mqtt_url)
    address = MqttAddress(mqtt_url)
    async with aiomqtt.Client(address.host, address.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        for number in range(20):
            await client.publish(f"pisync/v1/x/{number}", bytes([number + 120]), qos=1, retain=number == 3)
        await until(lambda: len(recorded(file)) == 20)
    recorder.kill()
    await ended(recorder)
    assert [(one.payload_bytes, one.retain) for one in recorded(file)] == [
        (bytes([number + 120]), number == 3) for number in range(20)
    ]
    code, output = await ended(await pisync("record", str(file), "--mqtt-url", mqtt_url, "--count", "1"))
    assert (code, "is there already" in output) == (78, True)


async def test_a_recording_ends_after_so_many_messages_and_takes_none_away(
    mqtt_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "some.ndjson"
    events = written(tmp_path / "events.ndjson", 40)
    async with StandIn(mqtt_url).running() as bridge:
        recorder = await recording_to(file, mqtt_url, "--count", "12")
        code, output = await ended(
            await pisync("replay", str(events), "--mqtt-url", mqtt_url, "--rate", "1000")
        )
        assert code == 0, output
        assert len(bridge.events) == 40
        code, output = await ended(recorder)
    assert code == 0, output
    assert len(file.read_bytes().splitlines()) == 12
