"""TLS and access control of a chaos run: who is let in, whose credentials are revoked, and what is lost."""

import asyncio
import json
import ssl
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from pymongo import AsyncMongoClient

from local_stack import services
from local_stack.broker_credentials import BrokerCredentials
from local_stack.secure_broker import STATE, SecureMosquittoServer
from pisync import clock
from pisync.broker_access import Program, is_ours
from pisync.domain.credentials import Credential, Source, Standing
from pisync.errors import MongodbUnavailable
from pisync.pki import Usage, read_certificate
from pisync.stores.credential_changes import give, revoke
from pisync.stores.interfaces.credentials import CredentialsQuery
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.credentials import MongoCredentialStore

Answer = TypeVar("Answer")

BY: Final = "chaos"
LOOK_S: Final = 0.1
LET_IN_TIMEOUT_S: Final = 90.0
"""Longer than a lease that a worker had which was killed, and than a broker that was away."""
EQUAL_TIMEOUT_S: Final = 90.0
ALL: Final = 100_000
# The worker does one duty here: an alert about a silent device would be none of the fleet's.
OTHER_DUTIES: Final = (
    *("rollups", "acknowledgements", "commands", "presence", "incidents", "overdue", "notifications"),
    "retention",
)


class Access:
    """The broker's authority, list and warden. Devices are let in by credentials in MongoDB alone."""

    def __init__(self, data: Path, *, port: int, programs_port: int, logs: Path) -> None:
        self.credentials = BrokerCredentials(data / "credentials")
        self.broker = SecureMosquittoServer(
            data / "mosquitto",
            self.credentials,
            port=port,
            programs_port=programs_port,
            log=logs / "mosquitto.log",
        )
        self._logs = logs
        self._files: dict[str, tuple[Path, Path]] = {}
        self._generations = 0
        self._mongodb_url = ""
        self.worker: services.Worker

    def prepare(self, urls: Mapping[str, str]) -> services.Worker:
        """The worker between these servers, which it reaches past any link."""
        self._mongodb_url = urls["mongodb_url"]
        settings = {
            **urls,
            **self.credentials.settings(Program.WORKER, self.broker.programs_port),
            "broker_admin_url": self.credentials.url(Program.WARDEN, self.broker.programs_port),
        }
        self.worker = services.Worker(settings, log=self._logs / "worker.log")
        return self.worker

    async def hold_other_duties(self) -> None:
        """Have the worker find all other duties taken."""
        async with AsyncMongoClient[dict[str, Any]](self._mongodb_url) as client:
            end = clock.from_ms(4_000_000_000_000)
            leases = [{"_id": duty, "holder": BY, "until": end, "term": 1} for duty in OTHER_DUTIES]
            await client.get_default_database().leases.insert_many(leases)

    def tls_context(self, device_id: str) -> ssl.SSLContext:
        """What a device connects with now."""
        context = ssl.create_default_context(cafile=self.credentials.ca_file)
        context.load_cert_chain(*self._files[device_id])
        return context

    async def let_in(self, device_ids: Sequence[str]) -> None:
        """Issue a certificate for each that has none, and wait until the broker lets all in."""
        await self._give([each for each in device_ids if each not in self._files])
        async with asyncio.timeout(LET_IN_TIMEOUT_S):
            while not self._listed().issuperset(device_ids):
                await asyncio.sleep(LOOK_S)

    async def revoke_for(self, device_ids: Sequence[str], seconds: float) -> None:
        """Revoke the credentials of these, and give them others after a while."""

        async def revoked(store: MongoCredentialStore) -> None:
            await revoke(store, device_ids, by=BY, now=clock.now())

        await self._in_store(revoked)
        serials = [read_certificate(self._files[each][0].read_bytes()).serial for each in device_ids]
        # The broker reads this list when it starts; to have a 2.0 read it anew by a signal crashes it
        # (docs/operations.md). What acts at once is that the device is on its list no more.
        await asyncio.to_thread(self.credentials.authority.revoke, serials)
        await asyncio.sleep(seconds)
        await self._give(device_ids)

    async def lose_list(self, seconds: float) -> None:
        """Kill the broker, and start it with nobody but the programs on its list."""
        await self.broker.kill()
        self.broker.write_state()
        await asyncio.sleep(seconds)
        await self.broker.start()

    async def differences(self) -> list[str]:
        """Where the broker's list and the credentials differ for good."""
        try:
            async with asyncio.timeout(EQUAL_TIMEOUT_S):
                while True:
                    active = await self._in_store(_active)
                    listed = self._listed()
                    if listed == active:
                        return []
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            more, missing = sorted(listed - active), sorted(active - listed)
            return [f"the broker's list differs from the credentials: {more} are more, {missing} are missing"]

    def _listed(self) -> set[str]:
        try:
            state = json.loads((self.broker.directory / STATE).read_bytes())
        except (FileNotFoundError, ValueError):  # it is written anew just now
            return set()
        return {each["username"] for each in state["clients"] if not is_ours(each["username"])}

    async def _give(self, device_ids: Collection[str]) -> None:
        self._generations += 1
        directory = self.credentials.directory / f"devices-{self._generations}"
        issued = await asyncio.to_thread(self._issue, directory, device_ids)

        async def given(store: MongoCredentialStore) -> None:
            await give(store, issued, clock.now(), beside=True)

        await self._in_store(given)
        self._files |= {each: (directory / f"{each}.pem", directory / f"{each}.key") for each in device_ids}

    def _issue(self, directory: Path, device_ids: Collection[str]) -> dict[str, Credential]:
        directory.mkdir(mode=0o700)
        given = {}
        for device_id in device_ids:
            issued = self.credentials.authority.issue(device_id, usage=Usage.DEVICE)
            (directory / f"{device_id}.pem").write_bytes(issued.certificate)
            (directory / f"{device_id}.key").write_bytes(issued.key or b"")
            given[device_id] = Credential(
                identifier=issued.serial,
                not_before=issued.not_before,
                not_after=issued.not_after,
                source=Source.ISSUED,
                given_by=BY,
                given_at=clock.now(),
            )
        return given

    async def _in_store(self, work: Callable[[MongoCredentialStore], Any]) -> Any:
        """Do something in MongoDB, as often as it takes."""
        connection = MongoConnection(self._mongodb_url)
        try:
            while True:
                try:
                    return await work(MongoCredentialStore(connection))
                except MongodbUnavailable:
                    await asyncio.sleep(LOOK_S)
        finally:
            await connection.close()


async def _active(store: MongoCredentialStore) -> set[str]:
    query = CredentialsQuery(limit=ALL, now=clock.now(), standing=Standing.ACTIVE)
    return {kept.entry.device_id for kept in await store.page(query)}
