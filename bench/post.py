"""How many sync events a second the api takes in over HTTP, through the broker and a real bridge."""

from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import msgspec

from bench import http_load
from bench.bare_app import BareApp
from bench.http_load import Sent
from bench.results import AT_LEAST, Result, Target
from bench.rig import fresh
from bench.scale import Scale
from bench.sides import Sides
from bench.traffic import Traffic, windows
from local_stack.process import running

CONNECTIONS: Final = 64
REQUESTS: Final = 8_000
ROUNDS: Final = 3
DEVICES: Final = 1_000
PER_SECOND_MIN: Final = 1_500


async def post(scale: Scale) -> list[Result]:
    """`POST /api/sync-event`, one new event each, against a bare route that only reads the body."""
    requests = scale.of(REQUESTS, at_least=1_000)
    traffic = Traffic(devices=DEVICES, events=0)
    async with fresh() as rig, AsyncExitStack() as stack:
        bridge = await stack.enter_async_context(running(rig.bridge()))
        api = await stack.enter_async_context(running(rig.api()))
        bare = await stack.enter_async_context(running(BareApp(rig.directory)))
        sides = Sides(meter=rig.meter(api=api.pid, bridge=bridge.pid), requests=requests)
        for numbers in windows(ROUNDS * requests, requests):
            bodies = [_body(traffic, number) for number in numbers]
            await sides.measure(
                bare=partial(_send, bare.port, "/read", bodies),
                ours=partial(_send, api.port, "/api/sync-event", bodies),
            )
    p50_ms, p99_ms = sides.percentile_ms(50), sides.percentile_ms(99)
    note = f"{CONNECTIONS} connections; p50 {p50_ms:.0f} ms, p99 {p99_ms:.0f} ms; CPU is a request's"
    return [
        Result(
            name="POST sync-event",
            value=sides.per_second,
            unit="requests/s",
            against=f"the {PER_SECOND_MIN:,} wanted",
            against_value=PER_SECOND_MIN,
            target=Target(AT_LEAST, 1.0),
            cpu_us_per_event=sides.cpu_us,
            note=note,
        ),
        Result(
            name="POST sync-event",
            value=sides.per_second,
            unit="requests/s",
            against="a bare FastAPI route that reads the body",
            against_value=sides.bare_per_second,
        ),
    ]


def _body(traffic: Traffic, number: int) -> bytes:
    return msgspec.json.encode(traffic.event(number % traffic.devices, number // traffic.devices))


async def _send(port: int, path: str, bodies: list[bytes]) -> Sent:
    requests = [http_load.post(path, body) for body in bodies]
    return await http_load.send(port, requests, connections=CONNECTIONS, expect=201)
