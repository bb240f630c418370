"""What `pisync up` does: runs the local stack and prints the steps, the addresses, and lines to paste."""

import asyncio
import contextlib
import json
import shlex
import tempfile
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from rich.console import Console

from cli.progress import progress
from device_sim.demo_loading import load
from device_sim.demo_publishing import publish
from device_sim.scenarios.demo import Demo
from local_stack import ports, programs
from local_stack.demo import DemoFleet
from local_stack.local import EXAMPLE_DEVICE, LocalStack, StackPlan, locked
from local_stack.secure_broker import SecureMosquittoServer
from pisync import clock, settings
from pisync.domain import topics
from pisync.errors import ConfigurationError
from pisync.stores.opening import open_stores


def serve(plan: StackPlan) -> None:
    """Run the local stack until it is interrupted.

    Raises:
        ConfigurationError: programs are missing, a port is taken, or the data directory is in use.
        ChildFailed: a part could not be started, or kept dying.
    """
    if missing := programs.missing():
        raise ConfigurationError(
            "\n".join(f"{program.name} is not installed: {program.how_to_get()}" for program in missing)
        )
    console = Console()

    def say(line: str) -> None:
        # The terminal may be gone; what is left to do, such as stopping the children, is done all the same.
        with contextlib.suppress(OSError):
            console.print(line, soft_wrap=True, markup=False, highlight=False)

    if names := settings.in_environment():
        say(f"left out, because everything here is set up by options: {', '.join(names)}")
    with contextlib.ExitStack() as stack:
        data = plan.data
        if data is None:
            data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pisync-")))
        stack.enter_context(locked(data, say))
        local = LocalStack(plan, data, say, DemoFleet(load=_load_demo, publish=_publish_demo))
        if len(local.bridges) > plan.bridges:
            say(f"running {len(local.bridges)} bridges, because the broker in {data} knows as many")
        asyncio.run(local.run(lambda: _introduce(console, local, data, kept=plan.data is not None)))


async def _load_demo(urls: Mapping[str, str], until: datetime) -> None:
    async with open_stores(settings.load(settings.CommonSettings, **urls)) as stores:
        with progress("Making up a fleet", "events") as update:
            await load(Demo(until=until), stores, update)


async def _publish_demo(urls: Mapping[str, str], until: datetime) -> None:
    await publish(Demo(until=until), settings.load(settings.CommonSettings, **urls).mqtt)


def _introduce(console: Console, local: LocalStack, data: Path, *, kept: bool) -> None:
    addresses = {
        "Page": f"{local.api.url}/",
        "HTTP api": f"{local.api.url}/api",
        "API docs": f"{local.api.url}/docs",
        "MQTT broker": local.mosquitto.url,
        "MongoDB": local.mongodb.url,
        "Redis": local.redis.url,
        "Data": f"{data}" if kept else f"{data} (temporary; --data DIR keeps it)",
        "Logs": f"{data}/logs",
    }
    if local.secure_broker is not None:
        addresses |= _who_may_connect(local.secure_broker)
    if local.has_demo:
        addresses["Fleet"] = "made up, each device labelled demo"
    console.print("\n[bold]PiSync is up.[/] Ctrl-C stops it.\n")
    for name, value in addresses.items():
        console.print(f"  [bold]{name:<13}[/]{value}", soft_wrap=True, highlight=False)
    console.print("\nTo try it, from another terminal:\n")
    for line in _examples(local):
        console.print(f"  {line}", soft_wrap=True, markup=False, highlight=False)
    console.print()


def _who_may_connect(broker: SecureMosquittoServer) -> dict[str, str]:
    """Where a secure broker is reached by whom, and what they show to it."""
    certificate, key = broker.credentials.device(EXAMPLE_DEVICE)
    return {
        "Authority": f"{broker.credentials.ca_file}",
        "Device": f"{certificate}, with {key.name} ({EXAMPLE_DEVICE})",
        "Passwords": f"mqtts://{ports.HOST}:{broker.passwords_port}, for devices that have one",
        "Programs": f"mqtts://{ports.HOST}:{broker.programs_port}, with what is in"
        f" {broker.credentials.directory}/programs",
    }


def _examples(local: LocalStack) -> list[str]:
    now = clock.now()
    api, broker, topic = (
        local.api.url,
        f"-h {ports.HOST} -p {local.mosquitto.port}",
        topics.sync(EXAMPLE_DEVICE),
    )
    if local.secure_broker is not None:
        credentials = local.secure_broker.credentials
        certificate, key = credentials.device(EXAMPLE_DEVICE)
        broker += "".join(
            f" {option} {shlex.quote(str(file))}"
            for option, file in (("--cafile", credentials.ca_file), ("--cert", certificate), ("--key", key))
        )
    first, second = _event(now - timedelta(hours=1)), _event(now)
    return [
        f"curl -s {api}/api/sync-event -H 'Content-Type: application/json' -d '{first}'",
        f"mosquitto_pub {broker} -q 1 -t {topic} -m '{second}'",
        f"curl -s {api}/api/device/{EXAMPLE_DEVICE}/sync-history",
        f"curl -s {api}/api/devices/repeated-failures",
    ]


def _event(moment: datetime) -> str:
    event = {
        "device_id": EXAMPLE_DEVICE,
        "timestamp": clock.rfc3339(moment),
        "total_files_synced": 20,
        "total_errors": 1,
        "internet_speed": 3.2,
    }
    return json.dumps(event)
