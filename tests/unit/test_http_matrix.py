"""The HTTP matrix: every route, everybody who may call it, and the expected answer of each cell.

`ROUTES` says of each route which role it asks for, and what an empty request is answered to who has it;
`CALLERS` says of everybody which roles are his, and how he is refused. A route that is in no row, and a row
without a route, fail.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import pytest
from fastapi.routing import iter_route_contexts

from pisync import clock, limits
from pisync.domain.access import PrincipalKind, Role
from pisync.domain.actions import What
from pisync.domain.directory import Site
from pisync.domain.sessions import Session, digest, ends_at
from pisync.domain.users import User
from pisync.stores.memory.keys import MemoryKeyStore
from tests.support.api_client import Api, api
from tests.support.keys import bearer, key, text
from tests.support.paths import filled
from tests.support.samples import event

# Which role, method, path, and the status of an empty request; `open`: nobody is asked.
ROUTES: Final = """
open    GET    /openapi.json 200
open    GET    /docs 200
ingest  POST   /api/sync-event 415
read    GET    /api/device/{device_id}/sync-history 200
read    GET    /api/devices 200
read    GET    /api/devices.csv 200
read    GET    /api/devices.ndjson 200
read    GET    /api/device/{device_id} 200
read    GET    /api/device/{device_id}/sync-history.csv 200
read    GET    /api/device/{device_id}/sync-history.ndjson 200
read    GET    /api/site/{site_id}/sync-history.csv 200
read    GET    /api/site/{site_id}/sync-history.ndjson 200
read    GET    /api/devices/repeated-failures 200
read    GET    /api/alerts 200
read    GET    /api/alerts.csv 200
read    GET    /api/alerts.ndjson 200
operate POST   /api/alerts/{alert_id}/acknowledge 415
operate DELETE /api/alerts/{alert_id}/acknowledge 404
read    GET    /api/incidents 200
read    GET    /api/incidents.csv 200
read    GET    /api/incidents.ndjson 200
read    GET    /api/incidents/{incident_id} 404
operate POST   /api/incidents/{incident_id}/acknowledge 415
operate DELETE /api/incidents/{incident_id}/acknowledge 404
operate PUT    /api/causes/{code:path}/acknowledgement 415
operate DELETE /api/causes/{code:path}/acknowledgement 404
read    GET    /api/acknowledgements 200
read    GET    /api/credentials 200
open    POST   /api/enrol 404
read    GET    /api/recipients 200
read    GET    /api/recipients/{recipient_id} 404
operate PUT    /api/recipients/{recipient_id} 415
operate PATCH  /api/recipients/{recipient_id} 415
operate DELETE /api/recipients/{recipient_id} 404
operate POST   /api/recipients/{recipient_id}/test 404
read    GET    /api/dead-letters 200
read    GET    /api/dead-letters.csv 200
read    GET    /api/dead-letters.ndjson 200
operate DELETE /api/dead-letters 422
read    GET    /api/dead-letters/{dead_letter_id} 404
read    GET    /api/dead-letters/{dead_letter_id}/replay 422
operate POST   /api/dead-letters/{dead_letter_id}/replay 404
operate POST   /api/replay-dead-letters 200
read    GET    /api/directory/devices 200
read    GET    /api/directory/sites 200
read    GET    /api/directory/devices/{device_id} 404
read    GET    /api/directory/sites/{site_id} 200
operate PUT    /api/directory/devices/{device_id} 415
operate PUT    /api/directory/sites/{site_id} 415
operate PATCH  /api/directory/devices/{device_id} 415
operate PATCH  /api/directory/sites/{site_id} 415
operate DELETE /api/directory/sites/{site_id} 200
operate POST   /api/directory/import 422
read    GET    /api/directory/export 422
read    GET    /api/actions 200
admin   GET    /api/audit 200
admin   GET    /api/audit.csv 200
admin   GET    /api/audit.ndjson 200
read    GET    /api/causes 200
read    GET    /api/causes.csv 200
read    GET    /api/causes.ndjson 200
read    GET    /api/cause/{code:any_text} 404
read    GET    /api/sites 200
read    GET    /api/sites.csv 200
read    GET    /api/sites.ndjson 200
read    GET    /api/site/{site_id} 200
read    GET    /api/site/{site_id}/days.csv 200
read    GET    /api/site/{site_id}/days.ndjson 200
read    GET    /api/site/{site_id}/activity 200
read    GET    /api/site/{site_id}/activity.csv 200
read    GET    /api/site/{site_id}/activity.ndjson 200
read    GET    /api/stats 200
read    GET    /api/health 200
read    GET    /api/commands 200
read    GET    /api/commands.csv 200
read    GET    /api/commands.ndjson 200
read    GET    /api/commands/{command_id} 404
operate POST   /api/commands/{command_id}/cancel 404
operate POST   /api/device/{device_id}/sync-now 202
operate POST   /api/sync-now 415
admin   GET    /api/keys 200
admin   POST   /api/keys 415
admin   POST   /api/keys/{key_id}/revoke 404
open    GET    /healthz 200
open    GET    /livez 200
open    GET    /readyz 200
read    GET    / 200
read    GET    /devices 200
read    GET    /device/{device_id} 200
operate GET    /device/{device_id}/action/{task} 200
operate POST   /device/{device_id}/action/{task} 415
operate POST   /device/{device_id}/undo 415
operate GET    /devices/action/{task} 200
operate POST   /devices/action/{task} 415
operate POST   /devices/undo 415
operate POST   /commands/undo 415
operate GET    /acknowledge/{kind}/{target:any_text} 200
operate POST   /acknowledge/{kind}/{target:any_text} 415
operate GET    /withdraw/{kind}/{target:any_text} 200
operate POST   /withdraw/{kind}/{target:any_text} 415
operate POST   /command/{command_id}/cancel 415
read    GET    /recipients 200
read    GET    /recipient/{recipient_id} 404
operate GET    /recipients/new 200
operate POST   /recipients/new 415
operate GET    /recipient/{recipient_id}/action/{task} 422
operate POST   /recipient/{recipient_id}/action/{task} 422
operate GET    /dead-letter/{dead_letter_id}/replay 404
operate POST   /dead-letter/{dead_letter_id}/replay 415
operate GET    /dead-letters/action/replay 422
operate POST   /dead-letters/action/replay 415
read    GET    /sites 200
read    GET    /site/{site_id} 200
read    GET    /causes 200
read    GET    /cause/{code:any_text} 404
read    GET    /alerts 200
read    GET    /incident/{incident_id} 404
operate GET    /alerts/action/acknowledge 422
operate POST   /alerts/action/acknowledge 415
operate POST   /alerts/undo 415
read    GET    /dead-letters 200
read    GET    /commands 200
admin   GET    /audit 200
read    GET    /health 200
read    GET    /live 200
admin   GET    /access 200
admin   GET    /access/users/new 200
admin   POST   /access/users/new 415
admin   GET    /access/user/{name}/{task} 422
admin   POST   /access/user/{name}/{task} 422
admin   GET    /access/keys/new 200
admin   POST   /access/keys/new 415
admin   GET    /access/key/{key_id}/revoke 404
admin   POST   /access/key/{key_id}/revoke 415
admin   POST   /access/session/{session_id}/end 415
read    GET    /account 303
read    POST   /account/end-others 415
read    GET    /account/password 409
read    POST   /account/password 415
open    GET    /login 200
open    POST   /login 415
open    POST   /logout 415
open    GET    /login/oidc 404
open    GET    /login/oidc/callback 404
open    GET    /static/{digest}/{name:path} 200
"""

# What is answered otherwise to who is signed in as a user.
SIGNED_IN: Final = {("GET", "/login"): 303, ("GET", "/account"): 200, ("GET", "/account/password"): 200}

EVERY: Final = frozenset(Role)
CONFIGURED: Final = "configured-by-hand-16"


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Somebody who calls the api: what he sends, and what is his.

    `only_reads`: what he sends comes from a browser by itself, so that it changes nothing but by our pages'
    own forms.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    roles: frozenset[Role] = frozenset()
    only_reads: bool = False

    @property
    def is_signed_in(self) -> bool:
        """Whether a session makes him known."""
        return "Cookie" in self.headers and bool(self.roles)

    def status(self, route: "Route") -> int:
        """The answer that is expected; a browser that shows nothing is led to sign in."""
        if self.is_signed_in and (route.method, route.path) in SIGNED_IN:
            is_key = route.path == "/account/password" and self.headers == session("key")
            status = route.status if is_key else SIGNED_IN[route.method, route.path]
            return status if route.role in {None, *self.roles} else 403
        if route.role is None:
            # It looks at the cookie alone: nobody sends a key to sign in.
            is_known = self.headers.get("Cookie") == session("admin")["Cookie"]
            return SIGNED_IN.get((route.method, route.path), route.status) if is_known else route.status
        if not self.roles and route.is_page and "Authorization" not in self.headers:
            return 303
        if not self.roles or (self.only_reads and not route.is_page and route.method != "GET"):
            return 401
        return route.status if route.role in self.roles else 403


def session(name: str) -> dict[str, str]:
    """The header of a browser in which this user is signed in."""
    return {"Cookie": f"pisync_session={secret_of(name)}"}


def secret_of(name: str) -> str:
    return name.ljust(43, "_")


def basic(password: str) -> dict[str, str]:
    """The header that a browser sends."""
    return {"Authorization": f"Basic {base64.b64encode(f'x:{password}'.encode()).decode()}"}


# Who may do what is said once more here: `GRANTS` is what is tested.
CALLERS: Final[Mapping[str, Caller]] = {
    "nobody": Caller(),
    "a key to read": Caller(headers=bearer("read0001"), roles=frozenset({Role.READ})),
    "a key to ingest": Caller(headers=bearer("ingest01"), roles=frozenset({Role.INGEST})),
    "a key to operate": Caller(headers=bearer("operate1"), roles=frozenset({Role.READ, Role.OPERATE})),
    "an admin's key": Caller(headers=bearer("admin001"), roles=EVERY),
    "a key to read and ingest": Caller(headers=bearer("both0001"), roles=frozenset({Role.READ, Role.INGEST})),
    "a configured key": Caller(headers={"Authorization": f"Bearer {CONFIGURED}"}, roles=EVERY),
    "a configured key to read": Caller(
        headers={"Authorization": f"Bearer {CONFIGURED}-read"}, roles=frozenset({Role.READ})
    ),
    "a key to read as a password": Caller(
        headers=basic(text("read0001")), roles=frozenset({Role.READ}), only_reads=True
    ),
    "an admin's key as a password": Caller(headers=basic(text("admin001")), roles=EVERY, only_reads=True),
    "a wrong key": Caller(headers=bearer("wrong001")),
    "a right key's id with a wrong secret": Caller(
        headers={"Authorization": f"Bearer {text('admin001')[:-1]}x"}
    ),
    "a wrong password": Caller(headers=basic("wrong")),
    "a revoked key": Caller(headers=bearer("revoked1")),
    "an expired key": Caller(headers=bearer("expired1")),
    "a session to read": Caller(headers=session("read"), roles=frozenset({Role.READ}), only_reads=True),
    "a session to ingest": Caller(headers=session("ingest"), roles=frozenset({Role.INGEST}), only_reads=True),
    "a session to operate": Caller(
        headers=session("operate"), roles=frozenset({Role.READ, Role.OPERATE}), only_reads=True
    ),
    "an admin's session": Caller(headers=session("admin"), roles=EVERY, only_reads=True),
    "a session of a key to read": Caller(
        headers=session("key"), roles=frozenset({Role.READ}), only_reads=True
    ),
    "a session of a revoked key": Caller(headers=session("revoked")),
    "a session of a disabled user": Caller(headers=session("disabled")),
    "a session that is over": Caller(headers=session("over")),
    "a session that nobody began": Caller(headers=session("nobody")),
    "a wrong key beside an admin's session": Caller(headers={**bearer("wrong001"), **session("admin")}),
}


@dataclass(frozen=True, kw_only=True)
class Route:
    """A row: a route with one of its methods."""

    role: Role | None
    method: str
    path: str
    status: int

    @property
    def is_page(self) -> bool:
        """Whether it is answered by a page."""
        return not self.path.startswith("/api/")


def _route(line: str) -> Route:
    role, method, path, status = line.split()
    return Route(role=None if role == "open" else Role(role), method=method, path=path, status=int(status))


ROWS: Final = [_route(line) for line in ROUTES.strip().splitlines()]
# Files of the documentation; what FastAPI mounts there has no methods of its own.
MOUNTED: Final = frozenset({("GET", "/docs/static")})


def kept_keys() -> MemoryKeyStore:
    """The keys of all callers."""
    now = clock.now()
    store = MemoryKeyStore()
    store.keys = {
        each.key_id: each
        for each in (
            key("read0001", Role.READ),
            key("ingest01", Role.INGEST),
            key("operate1", Role.OPERATE),
            key("admin001", Role.ADMIN),
            key("both0001", Role.READ, Role.INGEST),
            key("revoked1", Role.ADMIN, revoked_at=now, revoked_by="sara"),
            key("expired1", Role.ADMIN, expires_at=now - timedelta(seconds=1)),
        )
    }
    return store


async def keep_sessions(pisync: Api) -> None:
    """The users and sessions of all callers."""
    now = clock.now()
    for name in ("read", "ingest", "operate", "admin", "disabled"):
        role = Role.ADMIN if name == "disabled" else Role(name)
        user = User(name=name, role=role, hashed="", created_at=now, disabled=name == "disabled")
        assert await pisync.users.write(user, 0)
    for name, key_id in (
        *((each, None) for each in ("read", "ingest", "operate", "admin", "disabled", "over")),
        ("key", "read0001"),
        ("revoked", "revoked1"),
    ):
        kind = PrincipalKind.USER if key_id is None else PrincipalKind.KEY
        kept = Session(
            session_id=digest(secret_of(name)),
            kind=kind,
            name="admin" if name == "over" else name,
            key_id=key_id,
            created_at=now,
            seen_at=now,
            until=now if name == "over" else ends_at(kind, now),
        )
        await pisync.sessions.add(kept)


def routes_of(pisync: Api) -> set[tuple[str, str]]:
    """Every route of the app with each of its methods; a HEAD is a GET."""
    return {
        (method, str(context.path))
        for context in iter_route_contexts(list(pisync.app.routes))
        for method in (context.methods or {"GET"}) - {"HEAD"}
    }


def test_every_route_is_in_the_matrix() -> None:
    rows = [(row.method, row.path) for row in ROWS]
    assert len(rows) == len(set(rows))
    assert routes_of(Api()) == set(rows) | MOUNTED


@pytest.mark.parametrize("name", CALLERS)
async def test_every_cell_is_answered_as_expected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REFUSED_PER_MINUTE", 10**9)
    caller = CALLERS[name]
    settings = {"api_keys": f"{CONFIGURED},reader:read:{CONFIGURED}-read"}
    async with api(keys=kept_keys(), **settings) as pisync:
        pisync.access._of_keys._per_s = pisync.access._of_addresses._per_s = 1e9
        pisync.app.state.pisync.pages.streams.end()  # so that an answer which stays open ends
        await keep_sessions(pisync)
        await pisync.keep(event("PB-1"))
        await pisync.say(Site(site_id="S-1"))
        await pisync.beat()
        await pisync.feed()
        found = {}
        for row in ROWS:
            headers = {"Sec-Fetch-Site": "same-origin", **caller.headers}
            before = dict(pisync.actions.actions)
            response = await pisync.request(row.method, filled(row.path), headers=headers)
            found[row] = response.status_code
            is_known = bool(caller.roles) and caller.status(row) not in {401, 403}
            assert ("WWW-Authenticate" in response.headers) == (response.status_code == 401)
            if row.method == "GET" and name in {"nobody", "a key to read", "a wrong key"}:
                head = await pisync.request("HEAD", filled(row.path), headers=headers)
                assert head.status_code == response.status_code
            if not is_known:
                new = [act for name, act in pisync.actions.actions.items() if name not in before]
                assert {act.what for act in new} <= {What.REFUSE}, "who is refused changes nothing"
        assert {str(row): status for row, status in found.items()} == {
            str(row): caller.status(row) for row in ROWS
        }


async def test_a_method_that_a_route_has_not_is_nobodys_not_even_an_admins() -> None:
    async with api(keys=kept_keys()) as pisync:
        taken: dict[str, set[str]] = {}
        for row in ROWS:
            taken.setdefault(filled(row.path), set()).add(row.method)
        for path, methods in taken.items():
            for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE"} - methods:
                response = await pisync.request(method, path, headers=bearer("admin001"))
                assert (method, path, response.status_code) == (method, path, 405)
            assert (await pisync.request("OPTIONS", path)).status_code == 204
        assert pisync.actions.actions == {}
