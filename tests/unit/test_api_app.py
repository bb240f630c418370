"""What all routes share: problem documents, keys, probes, the OpenAPI document and its page."""

import base64
import hashlib
import re
from typing import Any

import pytest

from api.auth.guard import OPEN_ROUTES
from pisync.stores.memory.events import MemoryEventStore
from tests.support.api_client import (
    EVENT,
    HOST,
    Api,
    api,
    document,
    is_problem,
)
from tests.support.paths import filled

KEYS = "first-key-of-sixteen,zweiter-schlüssel-16"
ROUTES = [
    ("POST", "/api/sync-event"),
    ("GET", "/api/device/PB-1/sync-history"),
    ("GET", "/api/devices/repeated-failures"),
    ("GET", "/api/alerts"),
    ("GET", "/api/acknowledgements"),
    ("DELETE", "/api/causes/E_TIMEOUT/acknowledgement"),
    ("GET", "/api/dead-letters"),
    ("DELETE", "/api/dead-letters?reason=schema"),
    ("GET", f"/api/dead-letters/{'0' * 32}"),
    ("POST", f"/api/dead-letters/{'0' * 32}/replay"),
]


class BrokenEventStore(MemoryEventStore):
    async def page(self, query: object, hint: object = None) -> Any:
        raise RuntimeError("the password is swordfish")


@pytest.mark.parametrize(
    "path",
    ["/nope", "/api", "/api/", "/api/nope", "/healthz/", "/api/device//sync-history", "/%00", "/%ff/%zz"],
)
async def test_an_unknown_path_is_404(path: str) -> None:
    async with api() as pisync:
        is_problem(await pisync.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/api/sync-event", "OPTIONS, POST"),
        ("DELETE", "/api/device/PB-1/sync-history", "GET, HEAD, OPTIONS"),
        ("PUT", "/api/devices/repeated-failures", "GET, HEAD, OPTIONS"),
        ("BREW", "/readyz", "GET, HEAD, OPTIONS"),
        ("POST", "/docs/static/swagger-ui.css", "GET, HEAD, OPTIONS"),
    ],
)
async def test_a_wrong_method_is_405_with_the_right_ones(method: str, path: str, allowed: str) -> None:
    async with api() as pisync:
        response = await pisync.request(method, path)
        is_problem(response, 405)
        assert response.headers["Allow"] == allowed


async def test_an_unexpected_fault_is_500_and_tells_nothing() -> None:
    async with api(events=BrokenEventStore()) as pisync:
        response = await pisync.get("/api/device/PB-1/sync-history")
        is_problem(response, 500)
        assert "swordfish" not in response.text


async def test_a_fault_reaches_the_server_which_logs_it() -> None:
    pisync = Api(events=BrokenEventStore())
    pisync.client._transport.raise_app_exceptions = True  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="swordfish"):
        await pisync.get("/api/device/PB-1/sync-history")


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    ("authorization", "challenge"),
    [
        (None, 'Bearer realm="pisync"'),
        ("", 'Bearer realm="pisync"'),
        ("Basic Zmlyc3Q6a2V5", 'Bearer realm="pisync"'),
        ("Bearer", 'Bearer realm="pisync"'),
        ("Bearer first-key-of-sixteem", 'Bearer realm="pisync", error="invalid_token"'),
        ("Bearer first-key-of-sixteen,zweiter", 'Bearer realm="pisync", error="invalid_token"'),
        ("Bearer \xff\xfe", 'Bearer realm="pisync", error="invalid_token"'),
    ],
)
async def test_without_a_right_key_it_is_401(
    method: str, path: str, authorization: str | None, challenge: str
) -> None:
    headers = [] if authorization is None else [(b"authorization", authorization.encode("latin-1"))]
    async with api(api_keys=KEYS) as pisync:
        # A wrong key learns nothing of what else is wrong with the request.
        response = await pisync.request(method, path + "?limit=0", headers=headers, content=b"{")
        is_problem(response, 401)
        assert response.headers["WWW-Authenticate"] == challenge
        assert pisync.publisher.published == []


@pytest.mark.parametrize("key", KEYS.split(","))
async def test_each_key_opens_the_api(key: str) -> None:
    headers = [(b"authorization", b"Bearer " + key.encode())]
    async with api(api_keys=KEYS) as pisync:
        assert (await pisync.post(EVENT, headers=headers)).status_code == 201
        response = await pisync.get("/api/device/PB-000123/sync-history", headers=headers)
        assert response.status_code == 200


async def test_every_api_route_wants_the_key_and_says_so() -> None:
    async with api(api_keys=KEYS) as pisync:
        for path, operations in pisync.document["paths"].items():
            for method, operation in operations.items():
                url = filled(path)
                guarded = (await pisync.request(method.upper(), url)).status_code == 401
                assert guarded == (path.startswith("/api/") and path not in OPEN_ROUTES)
                assert guarded == ("401" in operation["responses"]) or path == "/api/enrol"
                assert guarded == bool(operation.get("security"))
        assert pisync.document["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"


async def test_a_client_that_leaves_while_sending_is_no_fault() -> None:
    pisync = Api()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/api/sync-event",
        "raw_path": b"/api/sync-event",
        "query_string": b"",
        "headers": [(b"host", HOST.encode()), (b"content-type", b"application/json")],
    }
    await pisync.app(scope, receive, send)
    assert sent[0]["status"] == 400
    assert pisync.publisher.published == []


async def test_the_document_is_written_once_however_often_strangers_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with api() as pisync:
        first = await pisync.get("/openapi.json")
        monkeypatch.setattr(pisync.app, "openapi", None)
        assert (
            await pisync.get("/openapi.json", headers={"Accept-Encoding": "identity"})
        ).content == first.content
        assert first.headers["content-encoding"] == "gzip"


async def test_the_documentation_needs_no_internet() -> None:
    async with api() as pisync:
        page = await pisync.get("/docs")
        assert page.status_code == 200
        sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(sources) >= 2
        assert "://" not in page.text
        # Its script, and no other, is run within the page (CSP Level 3, 6.7.2.1).
        [script] = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = page.headers["content-security-policy"].split("; ")
        assert f"script-src 'self' 'sha256-{digest}'" in policy
        assert {"default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"} <= {*policy}
        for source in sources:
            assert (await pisync.get(source)).status_code == 200


def test_every_reference_of_the_document_leads_somewhere() -> None:
    document = Api(api_keys=KEYS).document
    references = re.findall(r"#/components/schemas/(\w+)", repr(document))
    assert set(references) == set(document["components"]["schemas"])


def test_the_sync_event_is_described_by_the_type_that_decodes_it() -> None:
    schemas = document()["components"]["schemas"]
    assert set(EVENT) == set(schemas["SyncEvent"]["required"])
    assert schemas["SyncEvent"]["properties"]["total_errors"]["minimum"] == 0
