"""From a message to its receipt through an api, where the broker lets devices speak for themselves alone."""

import asyncio
import ssl
from http import HTTPStatus
from random import Random
from typing import Final

import httpx
import msgspec

from pisync import limits, urls
from pisync.domain import receipts
from pisync.domain.events import Rejection
from pisync.domain.receipts import Receipt
from pisync.errors import ConfigurationError

MESSAGES_AT_ONCE: Final = 32
_PATH: Final = "/api/sync-event"
_TIMEOUT: Final = httpx.Timeout(75.0, connect=5.0)
_RETRY_S: Final = 1.0
_REFUSALS: Final = {
    HTTPStatus.UNAUTHORIZED: "the api wants a key: give it with --key, or in PISYNC_API_KEYS",
    HTTPStatus.FORBIDDEN: "the api does not let this key store events",
    HTTPStatus.NOT_FOUND: "what is at --via is not PiSync's api",
}


class _Problem(msgspec.Struct):
    errors: list[Rejection]


class Poster:
    """Posts messages until each is answered. `trouble` is what is wrong now, for people."""

    def __init__(self, url: str, key: str | None, *, retry_s: float = _RETRY_S) -> None:
        """Prepare; nothing is sent yet.

        Raises:
            ConfigurationError: the URL is none.
        """
        self.trouble: str | None = None
        self.sent_again = 0
        self._retry_s = retry_s
        self._random = Random()
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        try:
            urls.parse(url, schemes=("http", "https"))
        except ValueError as error:
            raise ConfigurationError(f"--via: {error}") from None
        verify = ssl.create_default_context() if url.startswith("https:") else True
        try:
            self._http = httpx.AsyncClient(
                base_url=url.rstrip("/"), headers=headers, timeout=_TIMEOUT, verify=verify, trust_env=False
            )
        except (httpx.InvalidURL, ValueError):
            raise ConfigurationError("--via: cannot be understood") from None

    async def run(self) -> None:
        """Close the connections when cancelled."""
        async with self._http:
            await asyncio.Event().wait()

    async def send(self, topic: str, payload: bytes) -> Receipt:  # noqa: ARG002 - the events name the device
        """Post a message, as often as it takes, and return its receipt; sending twice counts once.

        Raises:
            ConfigurationError: the api does not let us in, or is none.
        """
        tries = 0
        while True:
            wait_s = 0.0
            try:
                response = await self._http.post(_PATH, content=payload)
            except httpx.HTTPError as error:
                self.trouble = f"api: {error or type(error).__name__}"
            else:
                receipt = self._receipt(response)
                if receipt is not None:
                    self.trouble = None
                    return receipt
                self.trouble = f"api: {response.status_code}"
                wait_s = _told_to_wait(response)
            doubled_s = min(self._retry_s * (1 << min(tries, 30)), limits.REPLAY_RECEIPT_TIMEOUT_S)
            await asyncio.sleep(max(wait_s, doubled_s * self._random.uniform(0.5, 1.5)))
            tries += 1
            self.sent_again += 1

    def _receipt(self, response: httpx.Response) -> Receipt | None:
        status = response.status_code
        if status in _REFUSALS:
            raise ConfigurationError(_REFUSALS[HTTPStatus(status)])
        try:
            if response.is_success:
                return receipts.decode(response.content)
            if status in {HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY}:
                problem = msgspec.json.decode(response.content, type=_Problem)
                return Receipt(stored=0, duplicates=0, rejected=problem.errors)
        except msgspec.DecodeError:
            raise ConfigurationError("what is at --via answers, but not as PiSync's api does") from None
        if status < HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.TOO_MANY_REQUESTS:
            raise ConfigurationError(f"the api refuses what is sent: {status} {response.text[:200]}")
        return None


def _told_to_wait(response: httpx.Response) -> float:
    """The seconds that the api says in `Retry-After` where requests are too many, else 0."""
    if response.status_code != HTTPStatus.TOO_MANY_REQUESTS:
        return 0.0
    told = response.headers.get("retry-after", "")
    return min(float(told), limits.REPLAY_RECEIPT_TIMEOUT_S) if told.isdecimal() else 0.0
