"""Answers about a small fleet in the shapes of the api, and a server that gives them to a command."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pisync import clock

Json = dict[str, Any]
NOW = clock.rfc3339(clock.now())
TRUTH: Json = {"as_of": NOW, "complete": True, "loading": None, "stale_since": None, "stale_why": None}
# A name as somebody could write it who wants to steer the terminal, the table or the spreadsheet.
HOSTILE = "=cmd [bold]x[/bold]\x1b[2J\u202e"


def device(device_id: str = "PB-1", **members: Any) -> Json:
    """A row of `/api/devices`."""
    return {
        "device_id": device_id,
        "name": None,
        "site": None,
        "labels": [],
        "type": "PiBook",
        "state": "good",
        "streak": 0,
        "failures": 0,
        "cause": None,
        "last_received": "2026-05-03T08:12:00.000Z",
        "last_seen": "2026-05-03T08:00:00.000Z",
        "last_success": "2026-05-03T08:00:00.000Z",
        "last_failure": None,
        "habit_days": 2,
        "partial": False,
        "late": False,
        "clock_suspect": False,
        "muted_until": None,
        "retired": False,
        **members,
    }


def cause(code: str = "E_TIMEOUT", **members: Any) -> Json:
    """A row of `/api/causes`."""
    return {
        "code": code,
        "devices": 3,
        "failing": 2,
        "wobbly": 1,
        "sites": 2,
        "first_seen": "2026-05-01T00:00:00.000Z",
        "last_seen": "2026-05-03T08:00:00.000Z",
        "trend": "spreading",
        "standing": "ongoing",
        "failures_today": 9,
        "failures_week_ago": 2,
        **members,
    }


def site(site_id: str | None = "S-17", **members: Any) -> Json:
    """A row of `/api/sites`."""
    return {
        "site_id": site_id,
        "name": "Kampala Primary",
        "devices": 40,
        "failing": 1,
        "wobbly": 2,
        "overdue": 3,
        "never_heard": 4,
        "good": 30,
        "heard_today": 22,
        "worst_cause": "E_TIMEOUT",
        "time_zone": "Africa/Kampala",
        **members,
    }


def alert(device_id: str = "PB-1", **members: Any) -> Json:
    """A row of `/api/alerts`."""
    return {
        "id": f"alert-{device_id}",
        "device_id": device_id,
        "rule": "streak",
        "streak": 3,
        "streak_now": 7,
        "failures_now": 19,
        "opened_at": "2026-05-03T08:12:00.000Z",
        "closed_at": None,
        "close_reason": None,
        "incident_id": None,
        "acknowledged": None,
        **members,
    }


def incident(**members: Any) -> Json:
    """A row of `/api/incidents`."""
    return {
        "id": "incident-1",
        "kind": "site_failing",
        "site": "S-17",
        "site_name": "Kampala Primary",
        "code": "E_TIMEOUT",
        "since": "2026-05-03T08:12:00.000Z",
        "resumed_at": None,
        "opened_at": "2026-05-03T08:24:00.000Z",
        "updated_at": "2026-05-03T08:30:00.000Z",
        "closed_at": None,
        "devices": 38,
        "of": 40,
        "peak": 39,
        "sites": 1,
        "usual": None,
        "evidence": "38 of the 40 that tried, E_TIMEOUT, since 3 May 08:12 UTC",
        "reopened": 0,
        "devices_url": "/api/devices?site=S-17&cause=E_TIMEOUT",
        "acknowledged": None,
        **members,
    }


def sync(timestamp: str = "2026-05-03T08:00:00.000Z", **members: Any) -> Json:
    """A row of a history."""
    return {
        "timestamp": timestamp,
        "outcome": "failed",
        "total_files_synced": 0,
        "total_errors": 2,
        "internet_speed": 0.4,
        "device_type": None,
        "sync_duration_ms": 5400,
        "errors": [{"code": "E_TIMEOUT", "message": "took too long"}],
        "received_at": "2026-05-03T09:00:00.000Z",
        **members,
    }


ACTIVITY: Json = {
    "site_id": "S-17",
    "name": "Kampala Primary",
    "device_count": 40,
    "days": [
        {
            "day": f"2026-05-{day:02}",
            "events": 100 * day,
            "failures": day,
            "partial": 1,
            "files": 9,
            "devices": 3,
            "heard": 4,
            "speed": 0.4,
        }
        for day in range(1, 29)
    ],
    "usual_speed": 3.1,
    "why": None,
    **TRUTH,
}


def one_cause(**members: Any) -> Json:
    """The answer of `/api/cause/{code}`."""
    return {
        **cause(),
        "by_site": [{"site": "S-17", "devices": 2, "of": 40}, {"site": None, "devices": 1, "of": 3}],
        "days": [{"day": f"2026-05-{day:02}", "failures": None if day < 5 else day} for day in range(1, 29)],
        "samples": ["no answer from #.#.#.#"],
        "devices_url": "/api/devices?cause=E_TIMEOUT",
        **TRUTH,
        **members,
    }


def one_site(*device_ids: str, **members: Any) -> Json:
    """The answer of `/api/site/{id}`."""
    devices = site()["devices"]
    return {
        **{name: value for name, value in site().items() if name != "devices"},
        "device_count": devices,
        "days": [f"2026-05-{day:02}" for day in range(1, 29)],
        "causes": [{"code": "E_TIMEOUT", "devices": 3, "failing": 2, "wobbly": 1}],
        "devices": [
            {"device_id": each, "name": None, "state": "failing", "cells": "oxmh." + "." * 23}
            for each in device_ids
        ],
        **TRUTH,
        "next": None,
        **members,
    }


def acknowledgement(**members: Any) -> Json:
    """A row of `/api/acknowledgements`."""
    return {
        "id": "a-1",
        "kind": "causes",
        "alert_id": None,
        "device_id": None,
        "rule": None,
        "code": "E_TIMEOUT",
        "incident_id": None,
        "by": "unknown",
        "at": "2026-05-03T08:12:00.000Z",
        "reason": "Ada: They know",
        "until": {"more_devices": 10},
        "devices": 38,
        "devices_now": 41,
        "back_at": 48,
        "ended": None,
        **members,
    }


def command(command_id: str = "019dffba7e400123456789abcdef", **members: Any) -> Json:
    """A row of `/api/commands`."""
    return {
        "id": command_id,
        "device_id": "PB-1",
        "command": "sync_now",
        "state": "queued",
        "site": "S-17",
        "who": "unknown",
        "requested_at": "2026-05-08T12:00:00.000Z",
        "expires_at": "2026-05-09T12:00:00.000Z",
        "history": [{"state": "queued", "at": "2026-05-08T12:00:00.000Z"}],
        "detail": None,
        "proof": None,
        **members,
    }


STATES: Json = {"failing": 0, "wobbly": 0, "overdue": 0, "never_heard": 0, "good": 8}
STATS: Json = {
    "states": STATES,
    "devices": 8,
    "retired": 1,
    "muted": 0,
    "incidents": 0,
    "unit": "hour",
    "since": "2026-05-03T00:00:00.000Z",
    "until": "2026-05-04T00:00:00.000Z",
    "received": [
        {
            "start": NOW,
            "events": events,
            "failures": 3,
            "partial": 1,
            "files": 900,
            "late": 2,
            "in_time": 8,
            "closed": True,
        }
        for events in (10, 40)
    ],
    "dead_letters": {"open": 0, "received": 0, "counted_max": 1000, "by_reason": []},
    **TRUTH,
}
HEALTH: Json = {
    "parts": {
        name: {"ok": True, "why": None}
        for name in (
            *("mongodb", "redis", "broker", "bridges", "projection", "worker", "rollups", "fleet"),
            "notifications",
        )
    },
    "projection": {"complete": True, "replayed": 0, "to_replay": 0, "behind": []},
    "bridges": [
        {
            "bridge_id": bridge_id,
            "last_sign": NOW,
            "watermark": NOW,
            "behind_s": behind_s,
            "listening": not stopped,
            "catching_up": False,
            "stopped": stopped,
            "gone": False,
        }
        for bridge_id, behind_s, stopped in (("bridge-0", 0.8, False), ("bridge-1", None, True))
    ],
    "listening_gaps": [],
    "worker": [],
    "reads": {"source": "primary", "behind_s": None},
    "rollups": {"lag_s": 2.0, "until": NOW, "closed_until": NOW, "reaches_back": False},
    "retention": {"days": None, "kept_since": None, "oldest_received": NOW, "waits_for": None, "as_of": NOW},
    "fleet": {"devices": 8, **TRUTH},
    "broker": {
        "held": 0,
        "retained": 61,
        "stored_bytes": 4096,
        "dropped": 0,
        "connected": 12,
        "as_of": NOW,
        "why": None,
    },
    "notifications": {"lag_s": 0.0, "failing": []},
    "credentials": None,
    "certificates": [],
    "not_kept": [],
}

Answer = Json | bytes | tuple[int, Json]


@dataclass
class FakeApi:
    """Answers by path, or by method and path; a function is given the query, and where one came the body.

    What was asked is in `asked`, and what was sent with another method than GET in `sent`.
    """

    answers: dict[str, Any]
    url: str = ""
    asked: list[tuple[str, dict[str, list[str]]]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    sent: list[tuple[str, str, dict[str, list[str]], Any]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    def answer(self, path: str, query: dict[str, list[str]]) -> Answer:
        self.asked.append((path, query))
        return self._found(path, query)

    def take(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Answer:
        self.sent.append((method, path, query, body))
        return self._found(f"{method} {path}", query, *([] if body is None else [body]))

    def _found(self, name: str, *given: Any) -> Answer:
        found = self.answers.get(name, (404, {"detail": "There is nothing at this path."}))
        answer: Answer = found(*given) if callable(found) else found
        return answer

    def query(self, path: str) -> dict[str, list[str]]:
        """What the path was asked with last."""
        return [query for asked, query in self.asked if asked == path][-1]


def calm() -> dict[str, Any]:
    """The answers of a fleet of which nothing needs anybody."""
    return deepcopy(
        {
            "/api/stats": STATS,
            "/api/health": HEALTH,
            "/api/devices": {"devices": [device()], "counts": STATES, **TRUTH, "next": None},
            "/api/causes": {"causes": [], **TRUTH, "next": None},
            "/api/sites": {"sites": [], **TRUTH, "next": None},
            "/api/alerts": {"alerts": [], "next": None},
        }
    )


def paged(
    name: str, rows: list[Json], path: str, /, **members: Any
) -> Callable[[dict[str, list[str]]], Answer]:
    """A list that gives as many rows a page as it is asked for."""

    def answer(query: dict[str, list[str]]) -> Answer:
        start, limit = int(query.get("cursor", ["0"])[0]), int(query["limit"][0])
        end = start + limit
        following = f"{path}?limit={limit}&cursor={end}" if end < len(rows) else None
        return {name: rows[start:end], **members, "next": following}

    return answer


@contextmanager
def serving(answers: dict[str, Any]) -> Iterator[FakeApi]:
    """The fake api at an address of its own."""
    fake = FakeApi(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            fake.keys.append(self.headers["Authorization"])
            parts = urlsplit(self.path)
            self._give(fake.answer(parts.path, parse_qs(parts.query)))

        def do_POST(self) -> None:
            parts = urlsplit(self.path)
            content = self.rfile.read(int(self.headers["Content-Length"] or 0))
            body = json.loads(content) if content else None
            self._give(fake.take(self.command, parts.path, parse_qs(parts.query), body))

        def do_PUT(self) -> None:
            self.do_POST()

        def do_DELETE(self) -> None:
            self.do_POST()

        def _give(self, found: Answer) -> None:
            status, body = found if isinstance(found, tuple) else (200, found)
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            for name, value in fake.headers.items():
                self.send_header(name, value)
            # A client whose patience ended has closed its connection.
            with suppress(ConnectionError):
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        # Closing the server waits for its answers, so that none of them ends in the test after this one.
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        fake.url = f"http://127.0.0.1:{server.server_port}"
        yield fake
        server.shutdown()
        thread.join()
