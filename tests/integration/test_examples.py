"""The devices to copy lose nothing and double nothing, whatever is killed or away: one matrix for all of them."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.example_devices import DEVICES, RECEIPT_WAIT_S, CDevice, ExampleDevice, ended
from tests.support.waiting import until
from tests.support.world import World

DEVICE = "PB-000123"
EVENTS = 2000
UNSET = "1970-01-01T00:05:00.000Z"


def backlog(count: int) -> Iterator[dict[str, Any]]:
    """Events of some days, and one whose clock was not set."""
    start = datetime(2026, 5, 8, tzinfo=UTC)
    moments = [start + timedelta(minutes=number) for number in range(count)]
    for timestamp in [*(moment.strftime("%Y-%m-%dT%H:%M:%S.000Z") for moment in moments), UNSET]:
        yield {
            "device_id": DEVICE,
            "timestamp": timestamp,
            "total_files_synced": 1,
            "total_errors": 0,
            "internet_speed": 1,
        }


async def killed_in_the_middle(device: ExampleDevice) -> None:
    """Run it until a part of its backlog is confirmed, and kill it with SIGKILL."""
    child = await asyncio.create_subprocess_exec(*device.service())
    try:
        await until(lambda: device.waiting() < EVENTS - 200)
    finally:
        child.kill()
        await child.wait()
    assert device.waiting() > 2


@pytest.mark.parametrize("kind", DEVICES, ids=lambda kind: kind.name)
async def test_a_device_to_copy_confirms_its_backlog(
    kind: type[ExampleDevice], world: World, tmp_path: Path
) -> None:
    device = kind(tmp_path / "device", DEVICE, world.mosquitto.port)
    device.spool.parent.mkdir()
    if isinstance(device, CDevice):
        device.compile()
    assert await ended(device.record(20, 1, 3.2)) == 0
    assert await ended(device.record(20, -1, 3.2)) == 0
    device.fill(backlog(EVENTS - 1))
    assert device.waiting() == EVENTS + 2

    await world.bridge.kill()
    device.receipt_wait_s = 1
    assert await ended(device.once(run_s=3)) == 1
    device.receipt_wait_s = RECEIPT_WAIT_S
    assert device.waiting() == EVENTS + 2

    await world.bridge.start()
    await world.said("connected", times=2)
    await killed_in_the_middle(device)
    assert await ended(device.once()) == 3

    assert device.waiting() == 0
    assert UNSET in device.rejected()
    assert len(device.rejected()) == 2
    assert await world.truth.events() == EVENTS
    letters = [letter async for letter in world.truth.database.dead_letters.find()]
    assert sorted(reason for letter in letters for reason in letter["reasons"]) == ["clock_unset", "schema"]
