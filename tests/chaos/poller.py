"""Asks the api all the time, and holds what it calls complete to what receipts said before.

An event that a device had the receipt of more than LATE_S before the question was asked is in MongoDB for
longer than that, so an answer that says `complete` must contain what it comes to. What it comes to can only
grow: counts of failures, and the times of the newest failure, success and event.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Any, Final

import httpx

from pisync import limits
from tests.chaos.ledger import Known, Ledger, epoch_ms

LATE_S: Final = limits.PROJECTION_YOUNG_S + 2
"""What counts as young, a second until a bridge notices an open batch, and one for a slow machine."""
WORKERS: Final = 3
INTERVAL_S: Final = 0.6
"""Of each worker: five questions a second in all."""
ANSWER_TIMEOUT_S: Final = 15.0
PAGE: Final = 1000
FALSE_MAX: Final = 20
"""How many false answers are told in words; all are counted."""

FALSE: Final = "false"

Row = Mapping[str, Any]


class Poller:
    """Asks for the repeated failures and for single devices' histories until it is cancelled.

    `answers` counts what came back, by what it was; `false` has those that were called complete and lacked
    something, in words, and `broken` the answers that no fault excuses.
    """

    def __init__(self, api_url: str, ledger: Ledger, random: Random) -> None:
        self.answers: Counter[str] = Counter()
        self.false: list[str] = []
        self.broken: list[str] = []
        self._api_url = api_url
        self._ledger = ledger
        self._random = random

    async def run(self) -> None:
        """Ask, until cancelled."""
        async with (
            httpx.AsyncClient(base_url=self._api_url, timeout=ANSWER_TIMEOUT_S, trust_env=False) as http,
            asyncio.TaskGroup() as group,
        ):
            for number in range(WORKERS):
                group.create_task(self._work(http, number * INTERVAL_S / WORKERS), name=f"poller-{number}")

    async def _work(self, http: httpx.AsyncClient, after_s: float) -> None:
        await asyncio.sleep(after_s)
        while True:
            try:
                if missing := await self._failures(http):
                    self._tell(missing)
                await self._history(http)
            except httpx.TransportError:
                self.answers["no answer"] += 1
            await asyncio.sleep(INTERVAL_S)

    def _tell(self, missing: list[str]) -> None:
        self.answers[FALSE] += 1
        if len(self.false) < FALSE_MAX:
            self.false.append(f"called complete, with {len(missing)} devices wrong, such as: {missing[0]}")

    async def _failures(self, http: httpx.AsyncClient) -> list[str]:
        """What an answer lacks that is called complete; nothing for any other."""
        known, at_rest = self._known_by_now(), self._ledger.at_rest()
        rows: dict[str, Row] = {}
        pages = 0
        page: str | None = f"/api/devices/repeated-failures?more_than=0&limit={PAGE}"
        while page is not None:
            answer = await self._ask(http, page)
            if answer is None:
                return []
            if not answer["projection"]["complete"]:
                self.answers["incomplete"] += 1
                return []
            rows |= {row["device_id"]: row for row in answer["devices"]}
            pages += 1
            page = answer["next"]
        self.answers["complete"] += 1
        if pages > 1:
            # Between two pages a device with more failures may have moved from a later to an earlier one.
            after = self._ledger.at_rest()
            stayed = {device_id for device_id, sent in at_rest.items() if after.get(device_id) == sent}
            known = {device_id: known[device_id] for device_id in known if device_id in stayed | rows.keys()}
        lacks = (lack(device_id, device, rows.get(device_id)) for device_id, device in known.items())
        return [text for text in lacks if text is not None]

    async def _history(self, http: httpx.AsyncClient) -> None:
        """A device's history comes from MongoDB and has to have everything."""
        known = self._known_by_now()
        if not known:
            return
        device_id = self._random.choice(list(known))
        moments = self._ledger.moments(device_id, known[device_id])
        page: str | None = f"/api/device/{device_id}/sync-history?limit={PAGE}"
        while page is not None:
            answer = await self._ask(http, page)
            if answer is None:
                return
            moments -= {epoch_ms(event["timestamp"]) for event in answer["events"]}
            page = answer["next"]
        self.answers["history"] += 1
        if moments:
            self._tell([f"the history of {device_id} lacks {len(moments)} events"])

    def _known_by_now(self) -> dict[str, Known]:
        return self._ledger.known(asyncio.get_running_loop().time() - LATE_S)

    async def _ask(self, http: httpx.AsyncClient, path: str) -> dict[str, Any] | None:
        answer = await http.get(path)
        if answer.status_code == httpx.codes.OK:
            found: dict[str, Any] = answer.json()
            return found
        self.answers[str(answer.status_code)] += 1
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE and len(self.broken) < FALSE_MAX:
            self.broken.append(f"GET {path} was answered {answer.status_code}: {answer.text[:200]}")
        return None


def lack(device_id: str, known: Known, row: Row | None) -> str | None:
    """In words, what the row of a device lacks; None where it lacks nothing."""
    if not known.failures:
        return None  # it need not be listed
    if row is None:
        return f"{device_id}, which failed {known.failures} times, is not there"
    answered = {name: epoch_ms(row[name]) if row[name] else 0 for name in ("last_failure", "last_success")}
    seen = epoch_ms(row["last_seen"]) if row["last_seen"] else 0
    short = (
        row["failures"] < known.failures
        or row["streak"] is None
        or answered["last_failure"] < known.last_failure_ms
        or answered["last_success"] < known.last_success_ms
        or seen < known.last_seen_ms
    )
    return f"{device_id}: {dict(row)} lacks some of {known.failures} failures" if short else None
