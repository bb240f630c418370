"""Requests made up from the api's own OpenAPI document, sent to the running api with everything behind it."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local_stack import ports
from local_stack.process import ChildProcess, running
from local_stack.servers import MosquittoServer
from pisync.domain.incidents import Evidence, Incident, IncidentKey, IncidentKind
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.incidents import MongoIncidentStore
from tests.fuzz.payloads import payloads
from tests.support.programs import program
from tests.support.samples import JSON, NOW, members, payload
from tests.support.waiting import until

EXAMPLES_MAX: Final = 4  # made-up requests of each phase for each operation
BODIES_MAX: Final = 40  # times up to 8 at once

# The checks of schemathesis are all on but one, which is off where its premise does not hold: "a request that
# the schema allows is not answered 422". A cursor is opaque text that only the api can make, and an event's
# timestamp must lie between 2015 and now; no schema says either. A replayed letter is mostly rejected again.
# A time zone, a site that there is, a moment to come, how long a time may be, that of a curve too, and what a
# file holds are beyond a schema, too; so are an address of its kind, and two
# times of day that differ.
# Without keys one that is made up would close the api. That nobody gets in without one is another test.
KEY: Final = "fuzzer-with-sixteen"
CONFIGURATION: Final = """
hooks = {hooks}
[cache]
enabled = false
[checks]
ignored_auth.enabled = false
[dictionaries.devices]
values = ["PB-000123", "probe", "never.seen"]
[dictionaries.sites]
values = ["S-1", "S-2"]
[dictionaries.letters]
values = [{letters}]
[dictionaries.alerts]
values = [{alerts}]
[dictionaries.commands]
values = [{commands}]
[dictionaries.incidents]
values = ["{incident}"]
[dictionaries.moments]
values = ["2026-05-08T12:00:00Z", "2026-05-08T12:00:00.123456+05:30", "2015-01-01T00:00:00Z"]
[parameters]
"path.device_id" = {{ dictionary = "devices", probability = 0.7 }}
"path.site_id" = {{ dictionary = "sites", probability = 0.7 }}
"path.dead_letter_id" = {{ dictionary = "letters", probability = 0.7 }}
"path.alert_id" = {{ dictionary = "alerts", probability = 0.7 }}
"path.command_id" = {{ dictionary = "commands", probability = 0.7 }}
"path.incident_id" = {{ dictionary = "incidents", probability = 0.7 }}
"body.device_id" = {{ dictionary = "devices", probability = 0.5 }}
"body.timestamp" = {{ dictionary = "moments", probability = 0.7 }}
"body.[*].device_id" = {{ dictionary = "devices", probability = 0.7 }}
"body.[*].timestamp" = {{ dictionary = "moments", probability = 0.7 }}
"""
WITHOUT_POSITIVE_CHECK: Final = """
[[operations]]
include-path = "{path}"
[operations.checks]
positive_data_acceptance.enabled = false
"""
INCIDENT: Final = Incident(
    incident_id="0" * 28,
    key=IncidentKey(IncidentKind.SITE_FAILING, "S-1", "E_NET"),
    since=NOW,
    opened_at=NOW,
    evidence=Evidence(3, 3),
    peak=3,
    sentence="3 of the 3 that tried, E_NET, since 1 Jun 00:00 UTC",
    updated_at=NOW,
)
# Of how many devices fail it may say for a moment that it is not known.
CAUSES: Final = """
[[operations]]
include-path = "/api/causes/{code}/acknowledgement"
[operations.checks]
positive_data_acceptance.enabled = false
not_a_server_error.expected-statuses = ["2xx", "4xx", "503"]
"""


@pytest_asyncio.fixture
async def http(
    tmp_path: Path, mosquitto_server: MosquittoServer, mongodb_url: str, redis_url: str
) -> AsyncIterator[httpx.AsyncClient]:
    """The running api, with a device that keeps failing and some dead letters."""
    environment = {"mqtt_url": mosquitto_server.url, "mongodb_url": mongodb_url, "redis_url": redis_url}
    port = ports.any_free()
    closed = {"api_keys": KEY, "key_requests_per_s": 100_000}
    async with (
        running(program("bridge", tmp_path / "bridge.log", **environment)),
        running(program("api", tmp_path / "api.log", http_port=port, **environment, **closed)),
        httpx.AsyncClient(
            base_url=f"http://{ports.HOST}:{port}", timeout=30, headers={"Authorization": f"Bearer {KEY}"}
        ) as client,
    ):

        async def bridged() -> bool:
            try:
                answer = await client.post(
                    "/api/sync-event", content=payload(device_id="probe"), headers=JSON
                )
            except httpx.TransportError:
                return False
            return answer.is_success

        await until(bridged)
        failures = [members(timestamp=f"2026-05-08T11:0{minute}:00Z") for minute in range(5)]
        mixed = [*failures, members(total_errors=-1), members(timestamp="1970-01-01T00:00:00Z")]
        (
            await client.post("/api/sync-event", content=json.dumps(mixed).encode(), headers=JSON)
        ).raise_for_status()
        for path in ("sites/S-1", "devices/PB-000123"):
            said = json.dumps({"site": "S-1"} if path.startswith("devices") else {}).encode()
            (await client.put(f"/api/directory/{path}", content=said, headers=JSON)).raise_for_status()

        async def listed() -> bool:
            answer = await client.get("/api/devices?site=S-1&state=failing")
            return answer.is_success and bool(answer.json()["devices"])

        await until(listed)
        yield client


async def test_every_answer_is_as_the_document_says(
    http: httpx.AsyncClient, mongodb_url: str, tmp_path: Path
) -> None:
    connection = MongoConnection(mongodb_url)
    assert await MongoIncidentStore(connection).open(INCIDENT)
    await connection.close()
    letters = (await http.get("/api/dead-letters")).json()["dead_letters"]
    assert len(letters) == 1
    alerts: list[dict[str, str]] = []

    async def opened() -> bool:
        alerts[:] = (await http.get("/api/alerts")).json()["alerts"]
        return len(alerts) == 1

    await until(opened)
    command = (await http.post("/api/device/PB-000123/sync-now")).json()
    paths = (await http.get("/openapi.json")).json()["paths"]
    beyond_the_schema = [
        "/api/sync-event",
        "/api/dead-letters",
        "/api/replay-dead-letters",
        "/api/dead-letters/{dead_letter_id}/replay",
        "/api/directory/devices/{device_id}",
        "/api/directory/sites/{site_id}",
        "/api/directory/import",
        "/api/stats",
        "/api/alerts/{alert_id}/acknowledge",
        "/api/incidents/{incident_id}/acknowledge",
        "/api/device/{device_id}/sync-now",
        "/api/sync-now",
        "/api/commands/{command_id}/cancel",
        "/api/recipients/{recipient_id}",
        "/api/keys",
    ] + [
        path
        for path, operations in paths.items()
        for parameter in operations.get("get", {}).get("parameters", [])
        if parameter["name"] == "cursor"
    ]
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(
        CONFIGURATION.format(
            hooks=json.dumps(str(Path(__file__).with_name("files.py"))),
            letters=", ".join(json.dumps(letter["id"]) for letter in letters),
            alerts=", ".join(json.dumps(alert["id"]) for alert in alerts),
            commands=json.dumps(command["id"]),
            incident=INCIDENT.incident_id,
        )
        + "".join(WITHOUT_POSITIVE_CHECK.format(path=path) for path in beyond_the_schema)
        + CAUSES
    )
    report = tmp_path / "report.txt"
    fuzzer = ChildProcess(
        "schemathesis",
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", configuration),
            *("run", str(http.base_url.join("/openapi.json")), "--max-examples", str(EXAMPLES_MAX)),
            *("--generation-deterministic", "--no-color", "-H", f"Authorization: Bearer {KEY}"),
        ],
        log=report,
    )
    async with running(fuzzer):
        assert await fuzzer.wait() == 0, report.read_text()
    assert f"Tested: {sum(len(operations) for operations in paths.values())}" in report.read_text()
    assert (await http.get("/readyz")).status_code == 200


@settings(
    max_examples=BODIES_MAX,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(payloads, min_size=1, max_size=8))
async def test_any_body_is_answered(http: httpx.AsyncClient, bodies: list[bytes]) -> None:
    answers = await asyncio.gather(
        *(http.post("/api/sync-event", content=body, headers=JSON) for body in bodies)
    )
    for body, answer in zip(bodies, answers, strict=True):
        assert answer.status_code in {200, 201, 409, 413, 422}, body
        if answer.is_success:
            receipt = answer.json()
            assert receipt["stored"] + receipt["duplicates"] > 0
        else:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["status"] == answer.status_code
