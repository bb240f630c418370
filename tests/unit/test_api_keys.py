"""Keys of the api: what opens it and when it is open, its endpoints, what is refused, limited and told."""

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from hmac import compare_digest
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import APIRouter, Request
from structlog.testing import capture_logs

import api.app
from api.app import create_app
from api.auth import access as access_module
from api.auth import require
from api.auth.access import Access
from api.auth.buckets import Buckets
from api.auth.refusals import Refusal, Report
from api.parameters import StrictRoute
from pisync import clock, limits
from pisync.clock import rfc3339
from pisync.domain import access as domain
from pisync.domain.access import Key, Principal, PrincipalKind, Role, key_parts
from pisync.domain.actions import Progress
from pisync.errors import ConfigurationError, MongodbUnavailable
from pisync.settings import ApiSettings
from pisync.stores.memory.actions import MemoryActionStore
from pisync.stores.memory.keys import MemoryKeyStore
from tests.support.api_client import Api, is_problem
from tests.support.api_client import api as served
from tests.support.keys import bearer, key, text
from tests.support.waiting import until

CONFIGURED = "configured-by-hand-16"
BEYOND = {"http_host": "0.0.0.0", "allowed_hosts": "127.0.0.1"}
LIST = "/api/alerts"


class Clock:
    """The monotonic clock of the copy of keys, which stands still until it is told to go on."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock_of_copy = Clock()
    monkeypatch.setattr(access_module, "monotonic", clock_of_copy)
    return clock_of_copy


class FlakyKeyStore(MemoryKeyStore):
    """Goes away, and counts how often it is read."""

    def __init__(self, *kept: Key) -> None:
        super().__init__()
        self.keys = {each.key_id: each for each in kept}
        self.is_away = False
        self.reads = 0

    async def all(self) -> list[Key]:
        self.reads += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise MongodbUnavailable("mongodb-0.internal:27017: refused")
        return await super().all()


@pytest_asyncio.fixture
async def keys() -> AsyncIterator[FlakyKeyStore]:
    yield FlakyKeyStore(key("a0000001"), key("r0000001", Role.READ, name="reader"))


# When the api is open.


async def test_an_open_api_asks_nobody_until_the_first_key_closes_it_for_good() -> None:
    async with served() as pisync:
        assert (await pisync.get(LIST, headers=bearer("a0000001"))).status_code == 200
        made = await pisync.request("POST", "/api/keys", json={"name": "office", "roles": ["admin"]})
        assert made.status_code == 201
        is_problem(await pisync.get(LIST), 401)
        headers = {"Authorization": f"Bearer {made.json()['key']}"}
        assert (await pisync.get(LIST, headers=headers)).status_code == 200
        revoked = await pisync.request("POST", f"/api/keys/{made.json()['id']}/revoke", headers=headers)
        assert revoked.json()["state"] == "revoked"
        # That it is revoked opens nothing: there was one.
        for given in ({}, headers):
            is_problem(await pisync.get(LIST, headers=given), 401)


async def test_a_key_that_was_revoked_long_ago_keeps_the_api_closed() -> None:
    async with served(keys=FlakyKeyStore(key("a0000001", revoked_at=clock.now()))) as pisync:
        is_problem(await pisync.get(LIST), 401)


async def test_a_user_closes_the_api_too() -> None:
    users: list[str] = []

    async def has_users() -> bool:
        return bool(users)

    store = FlakyKeyStore()
    access = Access(ApiSettings(), store, closed_by=[has_users])
    assert await access.is_open()
    users.append("sara")
    await access.refresh()
    assert not await access.is_open()
    users.clear()
    await access.refresh()
    assert not await access.is_open(), "the first one closes it for good"


@pytest.mark.parametrize(
    ("settings", "is_open"),
    [
        ({}, True),
        ({"http_host": "::1"}, True),
        ({"http_host": "0.0.0.0", "allow_anonymous": True}, True),
        ({"http_host": "0.0.0.0"}, False),
        ({"api_keys": CONFIGURED}, False),
        ({"http_host": "0.0.0.0", "allow_anonymous": True, "api_keys": CONFIGURED}, False),
    ],
)
async def test_it_is_open_on_loopback_or_on_purpose_where_no_key_is_configured(
    settings: dict[str, Any], is_open: bool
) -> None:
    assert await Access(ApiSettings(**settings), FlakyKeyStore()).is_open() == is_open


async def test_while_nobody_knows_whether_there_is_a_key_the_api_is_not_open(ticking: Clock) -> None:
    store = FlakyKeyStore()
    store.is_away = True
    async with served(keys=store) as pisync:
        for _ in range(3):
            assert is_problem(await pisync.get(LIST), 503)["part"] == "mongodb"
        assert store.reads == 1, "a store that is away is not asked for each request"
        ticking.s += limits.KEYS_INTERVAL_S
        store.is_away = False
        assert (await pisync.get(LIST)).status_code == 200
        # What would close it is written to the store that is away now.
        store.is_away = True
        ticking.s += 3600
        assert (await pisync.get(LIST)).status_code == 200
        store.is_away = False
        store.keys["a0000001"] = key("a0000001")
        ticking.s += limits.KEYS_INTERVAL_S
        is_problem(await pisync.get(LIST), 401)


async def test_nobody_waits_for_a_store_that_is_known_to_be_away(keys: FlakyKeyStore, ticking: Clock) -> None:
    hanging = asyncio.Event()

    async def hang() -> list[Key]:
        hanging.set()
        await asyncio.Event().wait()
        return []

    for store, headers, status in (
        (FlakyKeyStore(), {}, 200),
        (keys, bearer("r0000001"), 503),
    ):
        async with served(keys=store) as pisync:
            assert (await pisync.get(LIST, headers=headers)).status_code == 200
            store.is_away = True
            ticking.s += limits.KEYS_STALE_S + 1
            await pisync.get(LIST, headers=headers)
            hanging.clear()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(store, "all", hang)
                reading = asyncio.create_task(pisync.access.refresh())
                await hanging.wait()
                ticking.s += limits.KEYS_INTERVAL_S
                assert (await pisync.get(LIST, headers=headers)).status_code == status
                assert not reading.done()
                reading.cancel()


async def test_many_requests_at_once_read_the_keys_once() -> None:
    store = FlakyKeyStore()
    async with served(keys=store) as pisync:
        answers = await asyncio.gather(*(pisync.get(LIST) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert store.reads == 1


async def test_beyond_loopback_the_api_does_not_start_while_nobody_has_a_key() -> None:
    store = FlakyKeyStore()
    store.is_away = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "KEYS_INTERVAL_S", 0)
        running = asyncio.create_task(Access(ApiSettings(http_host="0.0.0.0"), store).run())

        async def asked() -> bool:
            return store.reads > 2

        await until(asked)
        assert not running.done(), "nobody knows yet"
        store.is_away = False
        with pytest.raises(ConfigurationError, match="pisync keys create NAME --role admin"):
            await running


# What a key opens.


async def test_a_key_opens_what_its_role_grants_and_the_answer_names_what_is_missing(
    keys: FlakyKeyStore,
) -> None:
    async with served(keys=keys) as pisync:
        assert (await pisync.get(LIST, headers=bearer("r0000001"))).status_code == 200
        document = is_problem(await pisync.get("/api/keys", headers=bearer("r0000001")), 403)
        assert (document["needs"], document["holds"]) == ("admin", ["read"])
        assert document["detail"] == "This needs the role admin; reader has read."
        page = await pisync.get("/recipients/new", headers=bearer("r0000001"))
        assert page.status_code == 403
        assert "This needs the role operate; reader has read." in page.text


async def test_what_is_done_with_a_key_is_told_under_its_name(keys: FlakyKeyStore) -> None:
    async with served(keys=keys) as pisync:
        await pisync.request("PUT", "/api/directory/sites/S-1", json={}, headers=bearer("a0000001"))
        assert [each.who for each in pisync.actions.actions.values()] == ["a0000001"]
    async with served(api_keys=f"gateway:operate:{CONFIGURED}") as pisync:
        headers = {"Authorization": f"Bearer {CONFIGURED}"}
        await pisync.request("PUT", "/api/directory/sites/S-1", json={}, headers=headers)
        assert [each.who for each in pisync.actions.actions.values()] == ["gateway"]


async def test_a_key_that_is_revoked_elsewhere_opens_nothing_after_five_seconds(
    keys: FlakyKeyStore, ticking: Clock
) -> None:
    async with served(keys=keys) as pisync:
        assert (await pisync.get(LIST, headers=bearer("r0000001"))).status_code == 200
        await keys.revoke("r0000001", clock.now(), "sara")
        ticking.s += limits.KEYS_STALE_S + 0.001
        is_problem(await pisync.get(LIST, headers=bearer("r0000001")), 401)
        assert pisync.access.refusals.total == {Refusal.REVOKED: 1}


async def test_a_key_that_was_made_a_moment_ago_is_known_and_wrong_ones_do_not_ask_for_each(
    keys: FlakyKeyStore, ticking: Clock
) -> None:
    async with served(keys=keys) as pisync:
        for _ in range(5):
            is_problem(await pisync.get(LIST, headers=bearer("n0000001")), 401)
        assert keys.reads == 1
        keys.keys["n0000001"] = key("n0000001")
        ticking.s += limits.KEYS_INTERVAL_S / 2 + 0.001
        assert (await pisync.get(LIST, headers=bearer("n0000001"))).status_code == 200


async def test_while_the_store_is_away_stored_keys_open_nothing_and_configured_ones_do(
    keys: FlakyKeyStore, ticking: Clock
) -> None:
    async with served(keys=keys, api_keys=CONFIGURED) as pisync:
        assert (await pisync.get(LIST, headers=bearer("r0000001"))).status_code == 200
        keys.is_away = True
        ticking.s += limits.KEYS_STALE_S
        assert (await pisync.get(LIST, headers=bearer("r0000001"))).status_code == 200
        ticking.s += 0.001
        assert is_problem(await pisync.get(LIST, headers=bearer("r0000001")), 503)["part"] == "mongodb"
        is_problem(await pisync.get(LIST, headers=bearer("n0000001")), 503)
        page = await pisync.get("/devices", headers=bearer("r0000001"))
        assert (page.status_code, page.headers["content-type"]) == (503, "text/html; charset=utf-8")
        headers = {"Authorization": f"Bearer {CONFIGURED}"}
        assert (await pisync.get(LIST, headers=headers)).status_code == 200
        is_problem(await pisync.get(LIST), 401)
        is_problem(await pisync.get(LIST, headers={"Authorization": "Bearer nonsense"}), 401)


async def test_a_key_expires_at_its_moment(keys: FlakyKeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock.now()
    keys.keys["e0000001"] = key("e0000001", expires_at=now + timedelta(seconds=1))
    async with served(keys=keys) as pisync:
        monkeypatch.setattr(clock, "now", lambda: now)
        assert (await pisync.get(LIST, headers=bearer("e0000001"))).status_code == 200
        monkeypatch.setattr(clock, "now", lambda: now + timedelta(seconds=1))
        is_problem(await pisync.get(LIST, headers=bearer("e0000001")), 401)


@pytest.mark.parametrize(
    ("sent", "compared"),
    [
        (CONFIGURED, 3),
        (f"{CONFIGURED}-3", 3),
        ("wrong", 3),
        (text("a0000001"), 4),
        (text("a0000001")[:-1] + "x", 4),
        (text("n0000001"), 4),
    ],
)
async def test_as_much_is_compared_in_constant_time_whichever_key_it_is(
    keys: FlakyKeyStore, monkeypatch: pytest.MonkeyPatch, sent: str, compared: int
) -> None:
    lengths: list[int] = []

    def counted(one: bytes, other: bytes) -> bool:
        lengths.append(len(one))
        return compare_digest(one, other)

    configured = f"{CONFIGURED},{CONFIGURED}-2,{CONFIGURED}-3"
    access = Access(ApiSettings(api_keys=configured), keys)
    for module in (access_module, domain):
        monkeypatch.setattr(module, "compare_digest", counted)
    await access.principal_of(sent.encode())
    assert lengths == [32] * compared


async def test_a_session_is_asked_for_only_where_no_key_is_sent(keys: FlakyKeyStore) -> None:
    class Sessions:
        async def read(self, request: Request) -> Principal | None:
            name = request.cookies.get("test")
            roles = frozenset({Role.OPERATE})
            return Principal(name=name, kind=PrincipalKind.USER, roles=roles) if name else None

    async with served(keys=keys) as pisync:
        pisync.access.sessions = Sessions()
        cookie = {"Cookie": "test=sara"}
        own = {"Sec-Fetch-Site": "same-origin", "Content-Type": "application/x-www-form-urlencoded"}
        assert (await pisync.get(LIST, headers=cookie)).status_code == 200
        assert (await pisync.get("/recipients", headers=cookie)).status_code == 200
        is_problem(await pisync.get("/api/keys", headers=cookie), 403)
        is_problem(await pisync.get(LIST, headers=cookie | {"Authorization": "Bearer wrong"}), 401)
        is_problem(await pisync.get(LIST, headers={"Cookie": "test="}), 401)
        # A cookie is sent with what any page asks for: by it alone only our own forms change anything.
        changed = await pisync.request("PUT", "/api/directory/sites/S-1", json={}, headers=cookie)
        is_problem(changed, 401)
        assert (await pisync.request("POST", "/recipients/new", headers=cookie | own)).status_code == 422


async def test_a_key_that_commands_take_from_the_environment_is_no_admins_for_that(
    keys: FlakyKeyStore,
) -> None:
    async with served(keys=keys, api_keys=f"{text('r0000001')},{text('n0000001')}") as pisync:
        assert (await pisync.get(LIST, headers=bearer("r0000001"))).status_code == 200
        is_problem(await pisync.get("/api/keys", headers=bearer("r0000001")), 403)
        is_problem(await pisync.get(LIST, headers=bearer("n0000001")), 401)
        is_problem(await pisync.get(LIST), 401)


# What is refused, and how much.


async def test_wrong_keys_are_counted_told_and_slowed_and_a_right_one_still_opens(
    keys: FlakyKeyStore,
) -> None:
    keys.keys["e0000001"] = key("e0000001", name="old gateway", expires_at=clock.now())
    told: list[Report] = []

    async def tell(report: Report) -> None:
        told.append(report)

    async with served(keys=keys) as pisync:
        pisync.access.tell = tell
        wrong = f"Basic {base64.b64encode(b'x:wrong').decode()}"
        for headers in (bearer("e0000001"), {"Authorization": "Bearer wrong"}, {"Authorization": wrong}):
            is_problem(await pisync.get(LIST, headers=headers), 401)
        for _ in range(limits.REFUSED_PER_MINUTE - 3):
            await pisync.get(LIST, headers={"Authorization": "Bearer wrong"})
        slowed = await pisync.get(LIST, headers={"Authorization": "Bearer wrong"})
        assert is_problem(slowed, 429)["detail"] == "Too many wrong keys came from this address."
        assert 1 <= int(slowed.headers["Retry-After"]) <= 6
        page = await pisync.get("/devices", headers={"Authorization": wrong})
        assert (page.status_code, "Too many wrong keys" in page.text) == (429, True)
        assert page.headers["Retry-After"]
        # Schools sit behind one address: who has a right key is not kept out by who has a wrong one.
        assert (await pisync.get(LIST, headers=bearer("r0000001"))).status_code == 200
        is_problem(await pisync.get(LIST), 401)
        assert pisync.access.refusals.total == {Refusal.WRONG: 11, Refusal.EXPIRED: 1}
        with capture_logs() as lines:
            await pisync.access._tell_refused()
            await pisync.access._tell_refused()
    assert [(each.address, each.names) for each in told] == [("127.0.0.1", ("old gateway",))]
    [line] = [each for each in lines if each["event"] == "credentials refused"]
    assert (line["address"], line["wrong"], line["expired"]) == ("127.0.0.1", 11, 1)
    assert not any("e" * 43 in str(value) for value in line.values())


async def test_of_many_addresses_some_are_told_of_at_a_time_and_all_in_the_end() -> None:
    told: list[str] = []

    async def tell(report: Report) -> None:
        told.append(report.address)

    access = Access(ApiSettings(), FlakyKeyStore())
    access.tell = tell
    addresses = [f"10.0.0.{number}" for number in range(50)]
    for address in addresses:
        access.refusals.add(address, Refusal.WRONG)
    for count in (20, 40, 50, 50):
        await access._tell_refused()
        assert len(told) == count
    assert sorted(told) == sorted(addresses)


@pytest.fixture
def at_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the requests take, no bucket fills meanwhile."""

    def buckets(per_s: float) -> Buckets:
        return Buckets(per_s=per_s, burst=per_s * limits.REQUESTS_BURST_S, now=lambda: 0.0)

    monkeypatch.setattr(access_module, "_buckets", buckets)


@pytest.mark.usefixtures("at_one_moment")
@pytest.mark.parametrize("path", [LIST, "/devices"])
async def test_requests_beyond_the_limit_of_a_key_wait(keys: FlakyKeyStore, path: str) -> None:
    async with served(keys=keys, key_requests_per_s=1) as pisync:
        for _ in range(10):
            assert (await pisync.get(LIST, headers=bearer("r0000001"))).status_code == 200
        answer = await pisync.get(path, headers=bearer("r0000001"))
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
        assert "Too many requests came from reader." in answer.text
        assert pisync.access.limited == {"key": 1}
        # Of another key it says nothing.
        assert (await pisync.get(LIST, headers=bearer("a0000001"))).status_code == 200


@pytest.mark.usefixtures("at_one_moment")
async def test_ingest_is_counted_by_its_key(keys: FlakyKeyStore) -> None:
    keys.keys["i0000001"] = key("i0000001", Role.INGEST)
    async with served(keys=keys, key_requests_per_s=1) as pisync:
        statuses = [(await pisync.post(headers=bearer("i0000001"))).status_code for _ in range(11)]
        assert statuses == [201, *[200] * 9, 429]


@pytest.mark.usefixtures("at_one_moment")
async def test_who_says_nothing_is_counted_by_address(keys: FlakyKeyStore) -> None:
    async with served(keys=keys, address_requests_per_s=1, trusted_proxies="127.0.0.1") as pisync:

        async def of(address: str) -> int:
            return (await pisync.get(LIST, headers={"X-Forwarded-For": address})).status_code

        assert [await of("198.51.100.1") for _ in range(11)] == [401] * 10 + [429]
        assert await of("198.51.100.2") == 401
        assert (await pisync.get("/healthz")).status_code == 200


@pytest.mark.usefixtures("at_one_moment")
async def test_an_open_api_limits_addresses_but_none_of_this_machine() -> None:
    async with served(key_requests_per_s=1, trusted_proxies="127.0.0.1", allow_anonymous=True) as pisync:
        for _ in range(20):
            assert (await pisync.get(LIST)).status_code == 200
        headers = {"X-Forwarded-For": "198.51.100.1"}
        statuses = [(await pisync.get(LIST, headers=headers)).status_code for _ in range(11)]
        assert statuses == [200] * 10 + [429]
        assert pisync.access.limited == {"address": 1}


async def test_when_a_key_was_used_is_kept_once_a_minute_and_not_by_requests(
    keys: FlakyKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock.now()
    async with served(keys=keys) as pisync:
        for second in (0, 59, 60):
            monkeypatch.setattr(clock, "now", lambda at=now + timedelta(seconds=second): at)
            before = keys.keys["r0000001"].last_used_at
            await pisync.get(LIST, headers=bearer("r0000001"))
            assert keys.keys["r0000001"].last_used_at == before
            await pisync.access._keep_used()
            expected = now + timedelta(seconds=60 if second == 60 else 0)
            assert keys.keys["r0000001"].last_used_at == expected
        assert keys.keys["a0000001"].last_used_at is None


# The endpoints.


async def make(pisync: Api, **members: Any) -> httpx.Response:
    given = {"name": "gateway", "roles": ["ingest"]} | members
    return await pisync.request("POST", "/api/keys", json=given, headers=bearer("a0000001"))


async def test_a_key_is_made_shown_once_listed_and_revoked(keys: FlakyKeyStore) -> None:
    async with served(keys=keys, api_keys=f"by hand:read:{CONFIGURED}") as pisync:
        expires_at = rfc3339(clock.now() + timedelta(days=90))
        made = await make(pisync, expires_at=expires_at)
        assert made.status_code == 201
        entry = made.json()
        secret = key_parts(entry.pop("key"))
        assert secret is not None
        assert secret.key_id == entry["id"]
        listed = await pisync.get("/api/keys", headers=bearer("a0000001"))
        assert listed.json()["keys"][0] == entry
        assert (entry["created_by"], entry["expires_at"], entry["state"]) == ("a0000001", expires_at, "valid")
        assert listed.json()["configured"] == [{"name": "by hand", "roles": ["read"]}]
        assert secret.secret not in listed.text
        assert CONFIGURED not in listed.text
        assert secret.secret not in str(pisync.actions.actions)
        path = f"/api/keys/{entry['id']}/revoke"
        for _ in range(2):
            revoked = await pisync.request("POST", path, headers=bearer("a0000001"))
            assert (revoked.json()["state"], revoked.json()["revoked_by"]) == ("revoked", "a0000001")
        actions = [(a.what, a.kind, a.target, a.progress) for a in pisync.actions.actions.values()]
        assert actions == [
            ("create", "keys", entry["id"], Progress.DONE),
            ("revoke", "keys", entry["id"], Progress.DONE),
        ]
        missing = await pisync.request("POST", "/api/keys/z9999999/revoke", headers=bearer("a0000001"))
        is_problem(missing, 404)


@pytest.mark.parametrize(
    ("members", "at"),
    [
        ({"name": ""}, "name"),
        ({"name": 7}, "name"),
        ({"name": "configured-1"}, "name"),
        ({"roles": []}, "roles"),
        ({"roles": ["king"]}, "roles"),
        ({"roles": "read"}, "roles"),
        ({"roles": [["read"]]}, "roles"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expiry": None}, "expiry"),
    ],
)
async def test_what_is_wrong_with_a_key_is_told_by_its_members(
    keys: FlakyKeyStore, members: dict[str, Any], at: str
) -> None:
    async with served(keys=keys) as pisync:
        document = is_problem(await make(pisync, **members), 422)
        assert [each["member"] for each in document["errors"]] == [at]
        assert len(keys.keys) == 2
        assert not pisync.actions.actions


async def test_a_name_is_of_one_key_and_there_are_not_too_many(
    keys: FlakyKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(keys=keys) as pisync:
        is_problem(await make(pisync, name="reader"), 409)
        assert [each.progress for each in pisync.actions.actions.values()] == [Progress.NOT_DONE]
        monkeypatch.setattr(limits, "KEYS_MAX", 3)
        assert (await make(pisync)).status_code == 201
        is_problem(await make(pisync, name="other"), 422)


async def test_an_action_is_there_before_a_key_is(keys: FlakyKeyStore) -> None:
    class Away(MemoryActionStore):
        async def begin(self, action: object) -> None:
            raise MongodbUnavailable("gone")

    async with served(keys=keys, actions=Away()) as pisync:
        is_problem(await make(pisync), 503)
        path = "/api/keys/r0000001/revoke"
        is_problem(await pisync.request("POST", path, headers=bearer("a0000001")), 503)
        assert keys.keys == {"a0000001": replace(key("a0000001")), "r0000001": keys.keys["r0000001"]}
        assert keys.keys["r0000001"].revoked_at is None


# Every route declares its role.


@pytest.mark.parametrize("declared", [[], [require(Role.READ)]])
def test_an_app_with_a_route_without_a_role_is_not_made(
    monkeypatch: pytest.MonkeyPatch, declared: list[Any]
) -> None:
    router = APIRouter(route_class=StrictRoute)

    @router.get("/forgotten", dependencies=declared)
    async def forgotten() -> None:
        """A route."""

    monkeypatch.setattr(api.app, "GUARDED", (*api.app.GUARDED, router))
    pisync = Api()
    if declared:
        create_app(pisync.settings, pisync.app.state.pisync)
        return
    with pytest.raises(RuntimeError, match="/api/forgotten declares no role"):
        create_app(pisync.settings, pisync.app.state.pisync)


def test_the_text_of_a_key_for_tests_is_one() -> None:
    assert key_parts(text("a0000001")) is not None
