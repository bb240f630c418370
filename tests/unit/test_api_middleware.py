"""What every request meets before the routes, and every answer after: Host, origin, prefix, HEAD, headers."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from pisync import limits
from pisync.settings import ApiSettings
from tests.support.api_client import EVENT, HOST, Api, api, document, is_problem
from tests.support.paths import filled
from tests.support.samples import event, payload

HISTORY = "/api/device/PB-1/sync-history"
GETS = [filled(path) for path, operations in document()["paths"].items() if "get" in operations]
OTHERS = ["/", "/docs", "/openapi.json", "/docs/static/swagger-ui.css"]
KEY = "0123456789abcdef"
FROM_PROXY = {"trusted_proxies": "127.0.0.1"}  # where httpx says that it is


@pytest.mark.parametrize("path", [*GETS, *OTHERS, "/nope", "/api/sync-event"])
async def test_head_is_get_without_its_content(path: str) -> None:
    async with api() as pisync:
        await pisync.keep(event("PB-1"))
        got, head = await pisync.get(path), await pisync.request("HEAD", path)
        assert head.content == b""
        assert head.status_code == got.status_code
        assert head.headers == got.headers


async def test_head_asks_for_the_key() -> None:
    async with api(api_keys=KEY) as pisync:
        assert (await pisync.request("HEAD", HISTORY)).status_code == 401


@pytest.mark.parametrize(
    ("path", "methods"),
    (
        dict.fromkeys([*GETS, *OTHERS], "GET, HEAD, OPTIONS")
        | {
            "/api/dead-letters": "DELETE, GET, HEAD, OPTIONS",
            "/api/sync-event": "OPTIONS, POST",
            f"/api/dead-letters/{'0' * 32}/replay": "GET, HEAD, OPTIONS, POST",
            "/api/directory/devices/PB-1": "GET, HEAD, OPTIONS, PATCH, PUT",
            "/api/directory/sites/S-1": "DELETE, GET, HEAD, OPTIONS, PATCH, PUT",
            "/api/keys": "GET, HEAD, OPTIONS, POST",
            "/api/recipients/office": "DELETE, GET, HEAD, OPTIONS, PATCH, PUT",
        }
    ).items(),
)
async def test_options_says_what_a_path_takes(path: str, methods: str) -> None:
    async with api(api_keys=KEY) as pisync:
        response = await pisync.request("OPTIONS", path)
        assert (response.status_code, response.content) == (204, b"")
        assert response.headers["Allow"] == methods
        # No other origin is let in: a browser asks like this before it sends what a form could not.
        assert not any(name.startswith("access-control-") for name in response.headers)


async def test_options_of_nothing_is_404() -> None:
    async with api() as pisync:
        is_problem(await pisync.request("OPTIONS", "/nope"), 404)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *[(path, None) for path in [*GETS, *OTHERS]],
        ("/nope", 404),
        ("/api/sync-event", 405),
        (f"{HISTORY}?limit=0", 422),
    ],
)
async def test_every_answer_has_the_headers(path: str, status: int | None) -> None:
    async with api() as pisync:
        response = await pisync.get(path)
        assert status in {None, response.status_code}
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        # Without a referrer, a browser would call the origin of a page's own forms `null`.
        assert response.headers["Referrer-Policy"] == ("same-origin" if path == "/" else "no-referrer")
        assert response.headers["Cache-Control"] == ("no-cache" if path.startswith("/docs") else "no-store")


async def test_faults_refusals_and_prefixed_pages_have_the_headers_too() -> None:
    async with api(root_path="/pisync", **FROM_PROXY) as pisync:
        pisync.app.state.pisync = None
        for response in (
            await pisync.get(HISTORY),
            await pisync.get(HISTORY, headers={"Host": "evil.example"}),
        ):
            assert response.status_code in {500, 421}
            assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert (await pisync.get("/docs")).headers["Cache-Control"] == "no-cache"


LOOPBACK = ["127.0.0.1", "127.0.0.1:1", "127.8.8.8", "localhost", "LOCALHOST:8080", "localhost.", "[::1]:80"]


@pytest.mark.parametrize("host", [*LOOPBACK, "api.localhost"])
async def test_on_loopback_loopbacks_own_names_are_taken(host: str) -> None:
    async with api() as pisync:
        assert (await pisync.get("/healthz", headers={"Host": host})).status_code == 200


FOREIGN = [
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "10.0.0.1",
    "[::2]",
    "0x7f000001",
]


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize(
    "settings", [{}, {"http_host": "::1"}, {"http_host": "0.0.0.0", "allowed_hosts": "api"}]
)
async def test_names_that_could_be_anybodys_are_not(host: str, settings: dict[str, Any]) -> None:
    if settings.get("http_host") == "0.0.0.0":
        settings = settings | {"api_keys": KEY}
    async with api(**settings) as pisync:
        for path in ("/healthz", HISTORY, "/docs", "/nope"):
            is_problem(await pisync.get(path, headers={"Host": host}), 421)
        assert (await pisync.post(EVENT, headers=[(b"host", host.encode())])).status_code == 421
        assert pisync.publisher.published == []


@pytest.mark.parametrize(
    ("settings", "host"),
    [
        ({"allowed_hosts": "pisync.example.org, api"}, "PiSync.example.org:443"),
        ({"allowed_hosts": "*"}, "anything.example"),
        ({"allowed_hosts": "api"}, "127.0.0.1"),
        ({"http_host": "0.0.0.0", "api_keys": KEY}, "10.0.0.7:8080"),
        ({"http_host": "0.0.0.0", "api_keys": KEY, "allowed_hosts": "10.0.0.7"}, "10.0.0.7:8080"),
    ],
)
async def test_names_that_are_allowed_are_taken(settings: dict[str, Any], host: str) -> None:
    async with api(**settings) as pisync:
        assert (await pisync.get("/healthz", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        ["127.0.0.1", "127.0.0.1"],
        ["127.0.0.1", "evil.example"],
        [""],
        ["?#["],
        ["127.0.0.1, evil.example"],
        ["user@127.0.0.1"],
        ["127.0.0.1/x"],
        ["127.0.0.1:x"],
        ["é"],
        ["[::1"],
    ],
)
@pytest.mark.parametrize("settings", [{}, {"allowed_hosts": "*"}, {"http_host": "0.0.0.0", "api_keys": KEY}])
async def test_two_hosts_none_and_what_is_no_host_are_400(hosts: list[str], settings: dict[str, Any]) -> None:
    async with api(**settings) as pisync:
        answer = await raw(pisync, "/healthz", [(b"host", each.encode()) for each in hosts])
    assert answer["status"] == 400


async def test_http_1_0_knows_no_host() -> None:
    assert (await raw(Api(), "/healthz", [], http_version="1.0"))["status"] == 200


async def raw(pisync: Api, path: str, headers: list[tuple[bytes, bytes]], **changes: Any) -> dict[str, Any]:
    """The start of an answer to a request that no client would send."""
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
    } | changes
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await pisync.app(scope, receive, send)
    return sent[0]


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site"])
async def test_a_page_of_another_origin_changes_nothing(site: str) -> None:
    async with api() as pisync:
        headers = [(b"sec-fetch-site", site.encode())]
        is_problem(await pisync.post(EVENT, headers=headers), 403)
        is_problem(await pisync.request("POST", f"/api/dead-letters/{'0' * 32}/replay", headers=headers), 403)
        assert pisync.publisher.published == []
        assert (await pisync.get("/healthz", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", f"http://{HOST}.evil.example", "http://127.0.0.1:8081"]
)
async def test_a_browser_without_sec_fetch_says_the_origin(origin: str) -> None:
    async with api() as pisync:
        headers = [(b"origin", origin.encode())]
        is_problem(await pisync.post(EVENT, headers=headers), 403)
        for method, path in (
            ("POST", f"/api/dead-letters/{'0' * 32}/replay"),
            ("DELETE", "/api/dead-letters"),
        ):
            is_problem(await pisync.request(method, path, headers=headers), 403)
        assert pisync.publisher.published == []
        assert (await pisync.get("/healthz", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        {"origin": f"http://{HOST}"},
        {"origin": f"HTTPS://{HOST}"},
        # The browser knows best: a proxy may have another name inside.
        {"sec-fetch-site": "same-origin", "origin": "https://pisync.example"},
    ],
)
async def test_our_own_page_and_the_user_may(headers: dict[str, str]) -> None:
    async with api() as pisync:
        sent = [(name.encode(), value.encode()) for name, value in headers.items()]
        assert (await pisync.post(EVENT, headers=sent)).status_code == 201


@pytest.mark.parametrize(
    "media_type",
    [
        None,
        "",
        "text/plain",
        "text/plain; application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "application/json-seq",
        "application",
    ],
)
async def test_a_body_that_is_not_sent_as_json_is_415(media_type: str | None) -> None:
    """The first kinds a browser sends for the page of any origin without asking (Fetch, CORS-safelisted)."""
    headers = {} if media_type is None else {"Content-Type": media_type}
    async with api() as pisync:
        response = await pisync.request("POST", "/api/sync-event", content=payload(), headers=headers)
        is_problem(response, 415)
        assert response.headers["Accept"] == "application/json, application/x-ndjson"
        assert pisync.publisher.published == []


@pytest.mark.parametrize(
    "media_type", ["application/json", "Application/JSON", "application/json; charset=utf-8"]
)
async def test_json_is_json_however_it_is_written(media_type: str) -> None:
    async with api() as pisync:
        headers = {"Content-Type": media_type}
        response = await pisync.request("POST", "/api/sync-event", content=payload(), headers=headers)
        assert response.status_code == 201


PREFIXED: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({}, {}, ""),
    ({"root_path": "/pisync"}, {}, "/pisync"),
    ({"root_path": "/a/b-c/"}, {}, "/a/b-c"),
    (FROM_PROXY, {"X-Forwarded-Prefix": "/pisync"}, "/pisync"),
    (FROM_PROXY, {"X-Forwarded-Prefix": "/api/"}, "/api"),
    (FROM_PROXY | {"root_path": "/other"}, {"X-Forwarded-Prefix": "/pisync"}, "/pisync"),
    (FROM_PROXY | {"root_path": "/other"}, {"X-Forwarded-Prefix": "/"}, ""),
    ({"trusted_proxies": "10.0.0.0/8, 127.0.0.0/8"}, {"X-Forwarded-Prefix": "/pisync"}, "/pisync"),
    # Not believed: nobody is trusted, another is, or it is no path.
    ({}, {"X-Forwarded-Prefix": "/pisync"}, ""),
    ({"trusted_proxies": "10.0.0.1"}, {"X-Forwarded-Prefix": "/pisync"}, ""),
    (FROM_PROXY, {"X-Forwarded-Prefix": "//evil.example"}, ""),
    (FROM_PROXY, {"X-Forwarded-Prefix": "/a/../b"}, ""),
    (FROM_PROXY, {"X-Forwarded-Prefix": "https://evil.example/"}, ""),
    (FROM_PROXY, {"X-Forwarded-Prefix": "/a, /b"}, ""),
    (FROM_PROXY, {"X-Forwarded-Prefix": '/"><script>'}, ""),
]


@pytest.mark.parametrize(("settings", "headers", "prefix"), PREFIXED)
async def test_links_and_pages_are_right_under_a_prefix(
    settings: dict[str, Any], headers: dict[str, str], prefix: str
) -> None:
    async with api(**settings) as pisync:
        await pisync.keep(*(event("PB-1", minute) for minute in range(3)))
        response = await pisync.get(f"{HISTORY}?limit=1", headers=headers)
        following = response.json()["next"]
        assert following.startswith(f"{prefix}{HISTORY}?")
        assert response.links["next"]["url"] == following
        # The proxy cuts it off, as it did before.
        assert (await pisync.get(following.removeprefix(prefix), headers=headers)).status_code == 200
        page = await pisync.get("/docs", headers=headers)
        for source in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert source.startswith(f"{prefix}/docs/static/")
            assert (await pisync.get(source.removeprefix(prefix), headers=headers)).status_code == 200
        assert f"'{prefix}/openapi.json'" in page.text
        document = (await pisync.get("/openapi.json", headers=headers)).json()
        assert document.get("servers", [{"url": ""}])[0]["url"] == prefix
        begin = await pisync.get("/", headers=headers)
        addresses = re.findall(r'(?:src|href|action|data-connect)="(/[^"]*)"', begin.text)
        assert f"{prefix}/devices" in addresses
        assert all(address.startswith(f"{prefix}/") for address in addresses)
        [style] = [address for address in addresses if address.endswith(".css")]
        assert (await pisync.get(style.removeprefix(prefix), headers=headers)).status_code == 200


async def test_a_proxy_that_leaves_the_prefix_on_is_understood_too() -> None:
    async with api(root_path="/pisync") as pisync:
        await pisync.keep(*(event("PB-1", minute) for minute in range(3)))
        following = (await pisync.get(f"/pisync{HISTORY}?limit=1")).json()["next"]
        assert (await pisync.get(following)).status_code == 200
        for begin in ("/pisync", "/pisync/"):
            assert 'href="/pisync/devices"' in (await pisync.get(begin)).text
        for path, method, status in (
            ("/pisync/docs/static/swagger-ui.css", "GET", 200),
            ("/pisync/healthz", "HEAD", 200),
            ("/healthz", "HEAD", 200),
            ("/pisync/healthz", "OPTIONS", 204),
            ("/pisyncs/healthz", "GET", 404),
        ):
            assert (await pisync.request(method, path)).status_code == status
        assert (await pisync.request("POST", "/pisync/readyz")).headers["Allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize(
    "setting",
    [
        {"root_path": "pisync"},
        {"root_path": "//evil.example"},
        {"root_path": "/a/../b"},
        {"root_path": "/api"},
        {"root_path": "/docs/x"},
        {"allowed_hosts": "a:8080"},
        {"allowed_hosts": "https://a"},
        {"trusted_proxies": "proxy"},
        {"trusted_proxies": "10.0.0.0/33"},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(setting))):
        ApiSettings(**setting)


def test_the_document_declares_what_stands_before_the_routes() -> None:
    for operations in document()["paths"].values():
        for method, operation in operations.items():
            assert {"400", "408", "421", "431"} <= set(operation["responses"])
            # Of another origin, or without the role.
            assert ("403" in operation["responses"]) == (method != "get" or "security" in operation)
    assert HOST.startswith("127.")


async def test_a_query_of_very_many_parameters_is_not_looked_at() -> None:
    """The links of a page repeat them all: 7,000 cost a second each time."""
    async with api() as pisync:
        most = "&".join(f"a{number}=1" for number in range(limits.HTTP_PARAMETERS_MAX))
        for path in ("/devices", "/api/devices", "/nope"):
            assert (await pisync.get(f"{path}?{most}")).status_code in {404, 422}
            is_problem(await pisync.get(f"{path}?{most}&x=1"), 400)
        # Nor of who writes it as before there was `Host`.
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "http_version": "1.0",
            "method": "GET",
            "scheme": "http",
            "client": ("127.0.0.1", 5000),
            "root_path": "",
            "path": "/devices",
            "raw_path": b"/devices",
            "query_string": f"{most}&x=1".encode(),
            "headers": [],
        }
        await pisync.app(scope, None, send)  # type: ignore[arg-type]  # nothing of it is read
        assert sent[0]["status"] == 400
