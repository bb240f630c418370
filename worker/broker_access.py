"""The duty of access: makes each broker's list of devices equal to the credentials in MongoDB.

It compares everything with each connection and every few minutes, and takes up changes in between. Removals
go first: a device whose credentials were revoked is to be out within seconds. The broker stands still while
it changes its list, so that after each change it has several times as long for everybody else.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Protocol

from pisync import backoff, limits, logs
from pisync.domain import topics
from pisync.errors import BrokerUnavailable, PublishRefused
from pisync.mqtt.address import MqttAddress
from pisync.mqtt.dynamic_security import DynamicSecurity
from pisync.settings import WorkerSettings
from pisync.stores.interfaces.credentials import CredentialStore
from pisync.tasks import supervise
from worker.access_credentials import Access, ActiveCredentials
from worker.metrics import Metrics

log = logs.get(__name__)

_LOOK_S: Final = 0.02
REFUSED: Final[frozenset[int]] = frozenset({0x87})
"""Reason codes by which a broker says that an account may not do this (MQTT 5, 3.4.2.1)."""


class AccessList(Protocol):
    """The broker's list; each call may raise BrokerUnavailable."""

    connections: int
    refusal: str | None

    @property
    def is_ready(self) -> bool:
        """Whether it can be asked."""

    async def devices_at_once(self) -> int:
        """How many devices one call should change."""

    async def listed(self) -> tuple[set[str], set[str]]:
        """The devices that are let in, and those of which something is left."""

    async def allow(self, device_ids: Sequence[str]) -> int:
        """Let these in; how many failed."""

    async def remove(self, device_ids: Sequence[str]) -> int:
        """Let these in no more; how many failed."""


class BrokerAccess:
    """One term of the duty, in one worker."""

    def __init__(self, store: CredentialStore, broker: AccessList) -> None:
        """Without having compared anything."""
        self._credentials = ActiveCredentials(store)
        self._broker = broker
        self._allowed = set[str]()
        # In the order in which they came.
        self._to_allow = dict[str, None]()
        self._to_remove = dict[str, None]()
        self._began_at = asyncio.get_running_loop().time()
        self._equal_at: float | None = None
        self._is_incomplete = False
        self._refused: str | None = None
        self.changed = 0
        self.failed = 0

    @property
    def devices(self) -> int:
        """How many devices the broker lets in, as far as is known."""
        return len(self._allowed)

    @property
    def waiting(self) -> int:
        """How many devices are to be let in, or no more, and are not yet."""
        return len(self._to_allow) + len(self._to_remove)

    @property
    def refusal(self) -> str | None:
        """Why the broker does not let us change its list; None where it does, or is away."""
        return self._broker.refusal or self._refused

    @property
    def was_equal(self) -> bool:
        """Whether the broker's list has been equal since this worker has the duty."""
        return self._equal_at is not None

    def lag_s(self) -> float:
        """How long ago the broker's list was known to be equal, or this worker took the duty."""
        since = self._began_at if self._equal_at is None else self._equal_at
        return asyncio.get_running_loop().time() - since

    async def run(self) -> None:
        """Do it until cancelled.

        Raises:
            MongodbUnavailable: it is not known who has credentials.
        """
        delays = backoff.delays()
        await self._wait_for_connection()
        while True:
            try:
                await self._compare_and_follow()
                delays = backoff.delays()
            except BrokerUnavailable as error:
                self._refused = (
                    str(error) if isinstance(error, PublishRefused) and error.reason_code in REFUSED else None
                )
                delay_s = next(delays)
                log.warning("the broker's access list is not equal", why=self.refusal or str(error))
                await asyncio.sleep(delay_s)

    async def _wait_for_connection(self) -> None:
        """Let the first connection be made, which is no trouble that anybody should be told of."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + limits.BROKER_ACCESS_INTERVAL_S
        while not self._broker.is_ready and self._broker.refusal is None and loop.time() < ends_at:  # noqa: ASYNC110 - once
            await asyncio.sleep(_LOOK_S)

    async def _compare_and_follow(self) -> None:
        """Compare everything, and follow the changes until it is time to compare again."""
        loop, broker = asyncio.get_running_loop(), self._broker
        connection, ends_at = broker.connections, loop.time() + limits.BROKER_ACCESS_COMPARED_S
        at_once = await broker.devices_at_once()
        await self._compare()
        followed_at = loop.time()
        while broker.connections == connection and (self.waiting or loop.time() < ends_at):
            if self.waiting and loop.time() < followed_at + limits.BROKER_ACCESS_INTERVAL_S:
                await self._step(at_once)
                continue
            followed_at = loop.time()
            await self._follow()
            if self.waiting:
                continue
            if broker.is_ready and not self._is_incomplete:
                self._equal_at = loop.time()
            await asyncio.sleep(limits.BROKER_ACCESS_INTERVAL_S)

    async def _compare(self) -> None:
        listed, left = await self._broker.listed()
        self._refused, self._is_incomplete = None, False
        active = await self._credentials.all()
        self._allowed = listed
        self._to_allow, self._to_remove = {}, {}
        if active is None and listed:
            # Another database than the fleet's, or one that was lost: nobody is put out by that.
            log.error("no credentials are known at all: the broker's devices stay", devices=len(listed))
            self._is_incomplete = True
            return
        active = active or {}
        gone = (listed | left) - active.keys()
        self._to_remove = dict.fromkeys(sorted(gone - await self._lost(gone, listed)))
        for device_id in sorted(active.keys() - listed):
            self._allow_soon(device_id, active[device_id])
        if self.waiting:
            log.info(
                "the broker's access list differs", missing=len(self._to_allow), more=len(self._to_remove)
            )

    async def _lost(self, gone: set[str], listed: set[str]) -> set[str]:
        """Devices whose credentials MongoDB lost: they stay, so that not most of the fleet is put out."""
        most = max(limits.BROKER_ACCESS_STRANGE_MAX, len(listed) // 2)
        if len(gone) <= most or len(unknown := await self._credentials.unknown(gone)) <= most:
            return set()
        log.error(
            "most of the broker's devices have no credentials, revoked or not: they stay",
            devices=len(unknown),
            hint="restore MongoDB's collection device_credentials, or import their certificates; to put them"
            " out, import and revoke them",
        )
        self._is_incomplete = True
        return unknown

    async def _follow(self) -> None:
        """Take up what changed."""
        for device_id, access in (await self._credentials.changes()).items():
            if access is Access.NONE:
                self._to_allow.pop(device_id, None)
                if device_id in self._allowed:
                    self._to_remove[device_id] = None
            else:
                self._to_remove.pop(device_id, None)
                if device_id not in self._allowed:
                    self._allow_soon(device_id, access)

    def _allow_soon(self, device_id: str, access: Access) -> None:
        if access is Access.CERTIFICATE:
            self._to_allow[device_id] = None
        else:
            log.warning("a password is let in by the broker's file alone", device_id=device_id)
            self._is_incomplete = True

    async def _step(self, at_once: int) -> None:
        """Change some, removals before all else, and leave the broker to everybody else for a while."""
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        removes = bool(self._to_remove)
        queue = self._to_remove if removes else self._to_allow
        some = list(queue)[:at_once]
        failed = await (self._broker.remove(some) if removes else self._broker.allow(some))
        for device_id in some:
            del queue[device_id]
        if removes:
            self._allowed.difference_update(some)
        else:
            self._allowed.update(some)
        self._is_incomplete |= failed > 0  # what failed is found by the next comparison
        self.failed += failed
        self.changed += len(some) - failed
        took_s = loop.time() - began_at
        await asyncio.sleep(min(took_s * limits.BROKER_ACCESS_REST, limits.BROKER_ACCESS_REST_S_MAX))


class AccessDuty:
    """The duty as a worker has it, over all its terms."""

    def __init__(
        self, settings: WorkerSettings, credentials: CredentialStore, *, holder: str, metrics: Metrics
    ) -> None:
        """Prepare; `holder` is this worker's own name.

        Raises:
            ConfigurationError: not every broker would be told.
        """
        self._settings = settings
        self._credentials = credentials
        self._holder = holder
        self._present: dict[MqttAddress, BrokerAccess] = {}
        self._ended_changed = self._ended_failed = 0
        self._tell(metrics)
        settings.check_every_broker_is_told()

    @property
    def refusal(self) -> str | None:
        """Why a broker does not let this worker do it; None where all do, or another has the duty."""
        for address, access in self._present.items():
            if access.refusal is not None:
                return access.refusal if len(self._present) == 1 else f"{address}: {access.refusal}"
        return None

    async def work(self, _term: int) -> None:
        """Do it until cancelled, for each broker by itself, so that none waits for another that is away."""
        works: dict[str, Coroutine[Any, Any, None]] = {}
        for address in self._settings.broker_admins:
            broker = DynamicSecurity(
                address=address,
                ca_file=self._settings.mqtt_ca_file,
                client_id=topics.program_client_id(f"worker@access-{self._holder}"),
            )
            self._present[address] = access = BrokerAccess(self._credentials, broker)
            works |= {f"access to {address}": access.run(), f"link to {address}": broker.run()}
        try:
            async with supervise(works) as running:
                await running.until(asyncio.Event())
        finally:
            self._ended_changed += sum(access.changed for access in self._present.values())
            self._ended_failed += sum(access.failed for access in self._present.values())
            self._present.clear()

    def _tell(self, metrics: Metrics) -> None:
        """Tell sums of what is done, and of the brokers the one that is worst off."""

        def changed() -> int:
            return self._ended_changed + sum(access.changed for access in self._present.values())

        def failed() -> int:
            return self._ended_failed + sum(access.failed for access in self._present.values())

        def present(
            of_all: Callable[[Iterable[float]], float], value: Callable[[BrokerAccess], float]
        ) -> Callable[[], float | None]:
            return lambda: of_all(map(value, self._present.values())) if self._present else None

        metrics.access_changed.set_function(changed)
        metrics.access_failed.set_function(failed)
        metrics.access_devices.set_function(present(min, lambda access: access.devices))
        metrics.access_waiting.set_function(present(max, lambda access: access.waiting))
        metrics.access_lag.set_function(present(max, BrokerAccess.lag_s))
        metrics.access_refused.set_function(present(max, lambda access: access.refusal is not None))
