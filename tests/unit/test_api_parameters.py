"""Query parameters: those that a route declares, each once; and what moments and outcomes mean everywhere."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from hypothesis import given
from hypothesis import strategies as st

from api import paging
from api.app import PAGES
from api.pages import static_files
from pisync import clock, limits
from pisync.clock import from_ms, rfc3339
from pisync.domain.alerts import Rule
from tests.support.api_client import START_MS, Api, api, document, is_problem
from tests.support.paths import filled
from tests.support.samples import event_at, letter

ROOT = Path(__file__).parents[2]
# They refuse what they do not know, in words.
PAGES_OF_OPERATORS = {
    re.sub(r":\w+}", "}", route.path)
    for router in (*PAGES, static_files.router)
    for route in router.routes
    if isinstance(route, APIRoute)
}
HISTORY = "/api/device/PB-1/sync-history"
OPERATIONS = [
    (method.upper(), filled(path), operation)
    for path, operations in document()["paths"].items()
    for method, operation in operations.items()
]


def names(operation: dict[str, Any]) -> list[str]:
    return [each["name"] for each in operation.get("parameters", []) if each["in"] == "query"]


def told(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The faults of a problem, but for parameters that are required and not given."""
    return [fault for fault in document["errors"] if fault["detail"] != "Field required"]


@pytest.mark.parametrize("name", ["page", "limit[$ne]", "Limit", "limit ", "", "\0", "é", "limit[]", "a.b"])
async def test_every_route_refuses_what_it_does_not_know_and_names_what_exists(name: str) -> None:
    async with api() as pisync:
        for method, path, operation in OPERATIONS:
            await _refuses(pisync, method, path, operation, name)


async def _refuses(pisync: Api, method: str, path: str, operation: dict[str, Any], name: str) -> None:
    document = is_problem(await pisync.request(method, f"{path}?{urlencode({name: '2'})}"), 422)
    [fault] = told(document)
    assert (fault["in"], fault["parameter"]) == ("query", name)
    assert all(known in fault["detail"] for known in names(operation) or ["none"])
    told_as = name or '""'
    assert f"{told_as}: is no parameter here" in document["detail"]
    assert pisync.publisher.published == []


async def test_every_parameter_is_given_once_but_lists() -> None:
    lists = set()
    async with api() as pisync:
        for method, path, operation in OPERATIONS:
            for each in operation.get("parameters", []):
                name = each["name"]
                if each["in"] != "query":
                    continue
                document = is_problem(await pisync.request(method, f"{path}?{name}=1&{name}=1&{name}=1"), 422)
                faults = [fault for fault in told(document) if "given 3 times" in fault["detail"]]
                if each["schema"].get("type") == "array":
                    lists.add(name)
                    assert faults == []
                else:
                    [fault] = faults
                    assert fault["parameter"] == name
    assert lists == {"state"}


async def test_values_and_names_at_fault_are_told_together() -> None:
    async with api() as pisync:
        document = is_problem(
            await pisync.get(f"{HISTORY}?limit=0&page=2&outcome=failed&outcome=failed"), 422
        )
        assert {fault["parameter"] for fault in document["errors"]} == {"limit", "page", "outcome"}


async def test_what_is_told_of_many_and_of_long_names_is_bounded() -> None:
    async with api() as pisync:
        query = urlencode([(f"{number}" + "x" * 200, "1") for number in range(100)])
        document = is_problem(await pisync.get(f"{HISTORY}?{query}"), 422)
        assert len(document["errors"]) == limits.PARAMETER_FAULTS_MAX
        assert all(len(each["parameter"]) == limits.PARAMETER_NAME_CHARS_MAX for each in document["errors"])


async def test_a_failure_is_partial_and_failed() -> None:
    async with api() as pisync:
        success = event_at(START_MS, "PB-1")
        partial = event_at(START_MS + 1, "PB-1", errors=1)
        failed = event_at(START_MS + 2, "PB-1", errors=1, files=0)
        await pisync.keep(success, partial, failed)
        rows = await pisync.pages(f"{HISTORY}?outcome=failure&limit=1", "events")
        assert [row["outcome"] for row in rows] == ["failed", "partial"]
        schema = pisync.document["components"]["schemas"]["OutcomeFilter"]
        assert schema["enum"] == ["success", "partial", "failed", "failure"]


async def test_since_takes_the_moment_in_and_until_leaves_it_out_in_every_list() -> None:
    since, until = rfc3339(from_ms(START_MS + 1)), rfc3339(from_ms(START_MS + 3))
    async with api() as pisync:
        await pisync.keep(*(event_at(START_MS + at, "PB-1", errors=1) for at in range(5)))
        for at in range(5):
            await pisync.dead_letters.add([letter(b"%d" % at)], from_ms(START_MS + at))
        between = {"since": since, "until": until, "limit": 1}
        history = await pisync.pages(f"{HISTORY}?{urlencode(between)}", "events")
        assert [row["timestamp"] for row in history] == [rfc3339(from_ms(START_MS + at)) for at in (2, 1)]
        kept = await pisync.pages(f"/api/dead-letters?{urlencode(between)}", "dead_letters")
        assert [row["received_at"] for row in kept] == [rfc3339(from_ms(START_MS + at)) for at in (2, 1)]
        [row] = (await pisync.get("/api/devices/repeated-failures", params={"since": since})).json()[
            "devices"
        ]
        assert row["failures_since"] == 4


def test_the_lists_that_take_since_and_until_are_those_that_the_readme_names() -> None:
    taken = {
        path: {"since", "until"} & set(names(operation))
        for _, path, operation in OPERATIONS
        if "next" in str(operation["responses"].get("200", {}).get("headers", {}))
    }
    assert {path: bounds for path, bounds in taken.items() if bounds} == {
        HISTORY: {"since", "until"},
        "/api/audit": {"since", "until"},
        "/api/dead-letters": {"since", "until"},
        "/api/devices/repeated-failures": {"since"},
    }
    assert {"/api/devices", "/api/alerts", "/api/actions"} <= taken.keys()
    said = (
        "history, dead letters and the audit log take both, repeated failures `since` alone, and the others"
        " neither."
    )
    assert said in " ".join((ROOT / "README.md").read_text().split())


async def test_the_pages_that_ignore_parameters_are_those_that_the_decisions_name() -> None:
    async with api() as pisync:
        document = pisync.document["paths"]
        pages = {
            path
            for route in iter_route_contexts(pisync.app.routes)
            if (path := re.sub(r":\w+}", "}", str(route.path))) not in document
            and not path.startswith("/docs/")
            and path not in PAGES_OF_OPERATORS
        }
        for path in pages:
            assert (await pisync.client.get(f"{path}?x=1")).status_code < 400
    decisions = (ROOT / "docs/decisions.md").read_text()
    [decision] = re.findall(
        r"^- \*\*Unknown and repeated parameters.*?(?=^- )", decisions, re.DOTALL | re.MULTILINE
    )
    assert pages == set(re.findall("`(/[^` ]*)`", decision))


async def test_the_narrowest_of_two_bounds_holds() -> None:
    moments = [rfc3339(from_ms(START_MS + at)) for at in range(6)]
    async with api() as pisync:
        await pisync.keep(*(event_at(START_MS + at, "PB-1") for at in range(6)))
        for bounds in (
            {"since": moments[1], "after": moments[1], "until": moments[5], "before": moments[4]},
            {"since": moments[2], "after": moments[0], "until": moments[4], "before": moments[5]},
        ):
            rows = (await pisync.get(HISTORY, params=bounds)).json()["events"]
            assert [row["timestamp"] for row in rows] == [moments[3], moments[2]]


@pytest.mark.parametrize(
    ("age", "meant"),
    [
        ("7d", timedelta(days=7)),
        ("24h", timedelta(hours=24)),
        ("30m", timedelta(minutes=30)),
        ("90s", timedelta(seconds=90)),
        ("2w", timedelta(weeks=2)),
        ("0d", timedelta()),
        ("99999w", timedelta(weeks=99999)),
    ],
)
async def test_an_age_is_a_moment_so_long_ago(age: str, meant: timedelta) -> None:
    now = clock.now()
    margin = timedelta(minutes=1)
    events = [now - meant - margin, now - meant + margin]
    async with api() as pisync:
        await pisync.keep(*(event_at(clock.to_ms(moment), "PB-1") for moment in events))
        for name, expected in (("since", 1), ("after", 1), ("until", 0), ("before", 0)):
            rows = (await pisync.get(HISTORY, params={name: age})).json()["events"]
            assert [row["timestamp"] for row in rows] == [rfc3339(events[expected])]


@pytest.mark.parametrize(
    "text", ["7", "d", "-7d", "7 d", "7D", "7y", "1.5d", "\u0667d", "100000d", "7d7d", "P7D"]
)
async def test_what_is_no_age_is_422(text: str) -> None:
    async with api() as pisync:
        for name in ("since", "until", "before", "after"):
            [fault] = is_problem(await pisync.get(HISTORY, params={name: text}), 422)["errors"]
            assert fault["parameter"] == name
            assert "7d" in fault["detail"]


async def test_the_next_page_keeps_the_moment_that_an_age_was() -> None:
    async with api() as pisync:
        now = clock.to_ms(clock.now())
        await pisync.keep(*(event_at(now - at, f"PB-{at % 3}", errors=1) for at in range(30)))
        for number in range(3):
            await pisync.alerts.open(Rule.STREAK, {f"PB-{number}": 3}, from_ms(START_MS))
        for url in (
            f"{HISTORY}?since=7d&limit=1&until=0s",
            "/api/devices/repeated-failures?since=7d&limit=1",
        ):
            following = (await pisync.get(url)).json()["next"]
            assert "7d" not in following
            assert "0s" not in following
            assert "since=2" in following
            assert (await pisync.get(following)).status_code == 200


@given(st.datetimes(timezones=st.just(UTC)))
def test_just_before_lets_the_moment_in_and_nothing_older(moment: datetime) -> None:
    kept = from_ms(clock.to_ms(moment))
    bound = paging.just_before(kept)
    if bound is not None:
        assert bound < kept
        assert clock.to_ms(kept) - clock.to_ms(bound) == 1


def test_nothing_is_older_than_the_first_moment_there_is() -> None:
    assert paging.just_before(datetime.min.replace(tzinfo=UTC)) is None


@pytest.mark.parametrize(
    "settings",
    [{"api_keys": "0123456789abcdef"}, {"trusted_proxies": "127.0.0.1"}, {"api_reads": "secondaries"}],
)
def test_the_document_is_the_same_whatever_the_settings(settings: dict[str, Any]) -> None:
    assert Api(**settings).app.openapi() == document()
