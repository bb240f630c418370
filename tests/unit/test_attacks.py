"""Requests that try to get past who may call what: paths, methods and headers that mean two things."""

import base64
from typing import Any

import httpx
import pytest

from tests.support.api_client import EVENT, Api, api
from tests.support.pages import school
from tests.unit.test_api_middleware import raw

KEY = "0123456789abcdef"
READ, INGEST, OPERATE = f"{KEY}-read", f"{KEY}-ingest", f"{KEY}-operate"
KEYS = f"{KEY},watcher:read:{READ},gateway:ingest:{INGEST},worker:operate:{OPERATE}"
CLOSED: dict[str, Any] = {"http_host": "0.0.0.0", "allowed_hosts": "127.0.0.1", "api_keys": KEYS}
HOST = [(b"host", b"127.0.0.1")]
NOTE = "a-note-that-nobody-else-reads"
DEVICE = "/api/directory/devices/PB-1"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def kept(pisync: Api) -> None:
    answer = await pisync.client.put(DEVICE, json={"note": NOTE}, headers=bearer(KEY))
    assert answer.status_code == 201
    await pisync.feed()


PATHS = [
    DEVICE,
    "//api/directory/devices/PB-1",
    "/api//directory/devices/PB-1",
    "/docs/../api/directory/devices/PB-1",
    "/healthz/../api/directory/devices/PB-1",
    "/static/x/../../api/directory/devices/PB-1",
    "/static/x/..%2f..%2fapi/directory/devices/PB-1",
    "/docs/static/../../api/directory/devices/PB-1",
    "/docs/static/%2e%2e/%2e%2e/api/directory/devices/PB-1",
    "/%61pi/directory/devices/PB-1",
    "/api/directory/devices/PB%2D1",
    "/api/directory/devices/PB-1/",
    "/api/directory/devices/PB-1/.",
    "/api/directory/devices/PB-1;/healthz",
    "/api/directory/devices/PB-1%3b/healthz",
    "/api/directory/devices/PB-1%00/healthz",
    "/api/directory/devices/PB-1%23/healthz",
    "/api/directory/devices/PB-1?/healthz",
    "/api/directory/devices/PB-1%3f/healthz",
    "/API/directory/devices/PB-1",
    "/\\api/directory/devices/PB-1",
    "/api\\directory\\devices\\PB-1",
    "/./api/directory/devices/PB-1",
    "/pisync/api/directory/devices/PB-1",
]


@pytest.mark.parametrize("settings", [{}, {"root_path": "/pisync", "trusted_proxies": "127.0.0.1"}])
async def test_no_way_to_write_a_path_gets_past_the_key(settings: dict[str, str]) -> None:
    async with api(**CLOSED, **settings) as pisync:
        await kept(pisync)
        for path in PATHS:
            for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PROPFIND"):
                forged = (
                    {} if method == "HEAD" else {"X-Forwarded-Prefix": "/healthz", "X-Original-URL": DEVICE}
                )
                answer = await pisync.client.request(method, path, headers=forged, json={"note": "mine"})
                assert NOTE not in answer.text
                allowed = {204} if method == "OPTIONS" else set()
                assert answer.status_code in {400, 401, 404, 405, 422} | allowed, (path, answer.text)
        there = await pisync.client.get(DEVICE, headers=bearer(KEY))
        assert there.json()["note"] == NOTE


@pytest.mark.parametrize(
    "header",
    ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method"],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
async def test_no_header_makes_another_method_of_it(header: str, method: str) -> None:
    async with api(**CLOSED) as pisync:
        await kept(pisync)
        for target in (DEVICE, "/api/dead-letters?reason=schema", "/devices"):
            await pisync.client.request(
                method, target, headers=bearer(READ) | {header: "DELETE"}, params={"_method": "PUT"}, json={}
            )
        assert (await pisync.client.get(DEVICE, headers=bearer(KEY))).json()["note"] == NOTE
        assert [act.who for act in pisync.actions.actions.values() if act.progress == "done"] == [
            "configured-1"
        ]


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Bearer wrong"), ("Authorization", f"Bearer {KEY}")],
        [("Authorization", f"Bearer wrong, Bearer {KEY}")],
        [
            ("Authorization", f"Basic {base64.b64encode(b'x:wrong').decode()}"),
            ("Authorization", f"Bearer {KEY}"),
        ],
        [("X-Authorization", f"Bearer {KEY}")],
        [("Proxy-Authorization", f"Bearer {KEY}")],
        [("Cookie", f"Authorization=Bearer {KEY}")],
        [("Cookie", f"pisync={KEY}; __Host-pisync={KEY}")],
        [("Authorization", KEY)],
        [("Authorization", f"Key {KEY}")],
        [("Authorization", f"Bearer\x0b{KEY}")],
        [("Authorization", f"Bearer {KEY} x")],
        [("Authorization", f"Bearer {KEY[:-1]}")],
        [("Authorization", f"Bearer {KEY}\x00")],
        [("Authorization", "Bearer ")],
        [("Authorization", "Basic Og==")],
        [("Authorization", f"Basic {KEY}")],
    ],
)
async def test_what_is_no_key_is_none_however_it_is_wrapped(headers: list[tuple[str, str]]) -> None:
    async with api(**CLOSED) as pisync:
        sent = HOST + [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
        for path in ("/api/devices", "/devices", DEVICE):
            answer = await raw(pisync, path, sent)
            assert answer["status"] in {303, 401}, path


async def test_a_key_counts_and_not_what_stands_beside_it() -> None:
    """A cookie beside a key gives no more than the key does, and a key in the address gives nothing."""
    async with api(**CLOSED) as pisync:
        await kept(pisync)
        beside = {"Cookie": f"pisync={KEY}; __Host-pisync={KEY}; pisync_who=configured-1"}
        answer = await pisync.client.put(DEVICE, json={"note": "x"}, headers=bearer(READ) | beside)
        assert answer.status_code == 403
        for query in (f"?key={KEY}", f"?access_token={KEY}", f"?api_key={KEY}"):
            assert (await pisync.client.get(f"/api/devices{query}")).status_code == 401
        url = httpx.URL(f"http://x:{KEY}@127.0.0.1{DEVICE}")
        assert (await pisync.client.put(url, json={"note": "x"})).status_code == 401
        assert (await pisync.client.get(DEVICE, headers=bearer(KEY))).json()["note"] == NOTE


async def test_a_browser_that_keeps_the_key_sends_no_other_sites_request() -> None:
    """HTTP Basic goes with every request of a browser: only reading is open to it beside pages' own forms."""
    async with school(**CLOSED) as pisync:
        basic = {"Authorization": f"Basic {base64.b64encode(f'x:{KEY}'.encode()).decode()}"}
        for more in ({}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            for method, path in (
                ("PUT", DEVICE),
                ("POST", "/api/sync-event"),
                ("DELETE", "/api/dead-letters"),
            ):
                answer = await pisync.client.request(method, path, json=EVENT, headers=basic | more)
                assert answer.status_code in {401, 403}
            answer = await pisync.client.post(
                "/device/PB-1/action/retire", headers=basic | more, data={"who": "x"}
            )
            assert answer.status_code == 403
        assert {act.caller.via for act in pisync.actions.actions.values() if act.caller} == {
            "PUT /api/directory/sites/{site_id}",
            "PUT /api/directory/devices/{device_id}",
        }


async def test_no_other_origin_is_let_in() -> None:
    async with api(**CLOSED) as pisync:
        asking = {
            "Origin": "https://evil.example",
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": "authorization",
            "Access-Control-Request-Private-Network": "true",
        }
        for method, path in (
            ("OPTIONS", DEVICE),
            ("GET", "/api/devices"),
            ("GET", "/healthz"),
            ("GET", "/docs"),
        ):
            answer = await pisync.client.request(method, path, headers=asking | bearer(KEY))
            assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_documents_and_errors_tell_a_stranger_nothing_of_this_installation() -> None:
    """They are the same whatever is stored, configured and away."""
    hidden = {"api_id": "replica-of-gulu", "mongodb_url": "mongodb://db.internal:27017/secret-name"}
    paths = ["/openapi.json", "/docs", "/healthz", "/livez", "/nope", "/api/nope", "/api/devices", "/devices"]
    async with api(**CLOSED) as bare, school(**CLOSED, **hidden) as full:
        full.app.state.pisync.events.page = None  # a fault, if anybody got there
        for path in [*paths, "/api/device/PB-1/sync-history", "/api/device/nobody/sync-history", "/readyz"]:
            told = [await each.client.get(path) for each in (bare, full)]
            first, second = [(each.status_code, each.text) for each in told]
            if path != "/readyz":  # one has a bridge
                assert first == second, path
            for answer in told:
                text = answer.text + str(answer.headers)
                for secret in (
                    "replica-of",
                    "internal",
                    "secret-name",
                    "Gulu",
                    "PB-4",
                    "Alpha",
                    "uvicorn",
                    "Python",
                ):
                    assert secret not in text, (path, secret)
        for path in ("/metrics", "/api/metrics"):
            assert (await full.client.get(path)).status_code == 404
