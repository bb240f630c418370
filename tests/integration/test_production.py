"""The production set-up end to end: real servers with what `pisync init-production` made for them."""

import asyncio
import json
import ssl
import string
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiomqtt
import pytest
import pytest_asyncio
from aiomqtt.client import ProtocolVersion
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from cli.production import broker, layout
from cli.production.generate import generate
from local_stack import ports
from local_stack.process import ChildProcess, running
from pisync import clock
from pisync.clock import rfc3339
from pisync.domain import topics
from tests.support.production import DOMAIN, Production, create_users, running_production
from tests.support.samples import members
from tests.support.waiting import until

# Every character that a URL, a shell or a configuration file could take for its own.
NASTY = f"{string.punctuation} äß€"
DEVICE = "PB-000001"


def passwords() -> dict[str, str]:
    """A password of all characters for every account, and each another; the api's key goes into a header."""
    nasty = [account for account in layout.accounts() if account != layout.API_KEY]
    return {account: f"{account}{NASTY}{number}" for number, account in enumerate(nasty)}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def production(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Production]:
    work = tmp_path_factory.mktemp("production")
    async with running_production(work, passwords=passwords()) as found:
        yield found


async def asked(port: int, path: str, key: str | None) -> bytes:
    """The first line that the api answers."""
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Connection: close\r\n\r\n"
    return await ports.first_line(port, head.encode(), timeout_s=5) or b""


async def answered(production: Production, device: ssl.SSLContext, payload: bytes) -> bytes | None:
    """What the device is answered; None while the broker does not let it in."""
    async with aiomqtt.Client(
        "localhost",
        production.devices_port,
        identifier=DEVICE,
        protocol=ProtocolVersion.V311,
        tls_context=device,
    ) as client:
        [granted] = await client.subscribe(topics.receipts(DEVICE, "+"), qos=1)
        if granted != 1:
            return None
        await client.publish(topics.sync(DEVICE, "1"), payload, qos=1)
        async with asyncio.timeout(60):
            async for message in client.messages:
                return bytes(message.payload)
    raise AssertionError


async def test_a_device_is_heard_by_programs_with_no_more_than_they_need(production: Production) -> None:
    key = (production.root / layout.PASSWORDS / layout.API_KEY).read_text().strip()
    port = ports.any_free()
    bridge = production.program("bridge")
    api = production.program("api", http_host=ports.HOST, http_port=port)
    worker = production.program("worker")
    async with running(bridge), running(api), running(worker):
        await until(lambda: _answers(port, "/readyz", key, b" 200 "))
        at = clock.now()
        sent = [members(device_id=DEVICE, timestamp=rfc3339(at))]
        device = await production.device(DEVICE)
        receipts: list[bytes] = []

        async def is_let_in() -> bool:
            with suppress(aiomqtt.MqttError):  # as long as the worker has not told the broker of it
                receipts.extend(filter(None, [await answered(production, device, json.dumps(sent).encode())]))
            return bool(receipts)

        await until(is_let_in)
        assert json.loads(receipts[0])["stored"] == 1
        assert b" 401 " in await asked(port, f"/api/device/{DEVICE}/sync-history", None)
        assert b" 200 " in await asked(port, f"/api/device/{DEVICE}/sync-history", key)
        await until(lambda: _answers(port, f"/api/device/{DEVICE}", key, b" 200 "))
        await until(lambda: b"looking for duties" in _log(worker))
        for child in (bridge, api, worker, *production.servers.values()):
            assert_tells_no_secret(child, key)
        for child in (bridge, api, worker):
            assert b"not authorized" not in _log(child)
            assert b"NOPERM" not in _log(child)
            # uvloop says so of a connection that is closed within its handshake.
            lines = [line for line in _log(child).splitlines() if b"Fatal error on SSL protocol" not in line]
            assert not [line for line in lines if b"Traceback" in line]


async def _answers(port: int, path: str, key: str | None, words: bytes) -> bool:
    return words in await asked(port, path, key)


def _log(child: ChildProcess) -> bytes:
    assert child.log is not None
    return child.log.read_bytes()


def assert_tells_no_secret(child: ChildProcess, key: str) -> None:
    """Neither its log nor what the system tells of it: its arguments and its environment."""
    proc = Path("/proc") / str(child.pid)
    told = _log(child) + (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
    for secret in (key, *passwords().values()):
        for text in {secret, quote(secret, safe=""), json.dumps(secret)[1:-1]}:
            assert text.encode() not in told, child.name


def mongodb(production: Production, program: str) -> AsyncMongoClient[dict[str, Any]]:
    return AsyncMongoClient(production.secret(program, "mongodb_url"), serverSelectionTimeoutMS=10_000)


async def test_mongodb_permits_each_program_what_it_does_and_no_more(production: Production) -> None:
    async with mongodb(production, "api") as client:
        actions = client.pisync.actions
        await actions.insert_one({"_id": "1", "progress": "begun"})
        await client.pisync.action_outcomes.insert_one({"_id": "1"})
        for refused in (
            actions.update_one({"_id": "1"}, {"$set": {"who": "another"}}),
            actions.delete_one({"_id": "1"}),
            client.pisync.action_outcomes.update_one({"_id": "1"}, {"$set": {"progress": "done"}}),
            client.pisync.action_outcomes.delete_one({"_id": "1"}),
            actions.drop(),
            client.pisync.sync_events.insert_one({"_id": 1}),
            client.pisync.sync_events.delete_many({}),
            client.pisync.command("usersInfo", 1),
            client.pisync.command("dropDatabase"),
            client.other.things.find_one(),
        ):
            await _is_refused(refused)
    async with mongodb(production, "bridge") as client:
        await client.pisync.sync_events.insert_one({"_id": 1})
        for refused in (
            client.pisync.sync_events.delete_one({"_id": 1}),
            client.pisync.recipients.find_one(),
            client.pisync.actions.find_one(),
        ):
            await _is_refused(refused)
    async with mongodb(production, "worker") as client:
        await client.pisync.sync_events.delete_one({"_id": 1})
        await _is_refused(client.pisync.sync_events.insert_one({"_id": 2}))
    open_url = f"mongodb://localhost:{production.port('mongodb')}/pisync?tls=true"
    authority = str(production.root / layout.AUTHORITY / "ca.pem")
    async with AsyncMongoClient[dict[str, Any]](open_url, tlsCAFile=authority) as client:
        await _is_refused(client.pisync.sync_events.find_one())
        await _is_refused(client.admin.command("createUser", "me", roles=["root"]))


async def _is_refused(command: Any) -> None:
    with pytest.raises(OperationFailure) as refused:
        await command
    assert refused.value.code == 13


async def test_redis_permits_each_program_what_it_does_and_no_more(production: Production) -> None:
    async with Redis.from_url(production.secret("bridge", "redis_url")) as client:
        await client.set("pisync:replay", "1")
        for refused in (("SET", "other", "1"), ("CONFIG", "GET", "*"), ("FLUSHALL",), ("ACL", "LIST")):
            await _is_not_permitted(client, *refused)
    async with Redis.from_url(production.secret("api", "redis_url")) as client:
        assert await client.get("pisync:replay") == b"1"
        await _is_not_permitted(client, "SET", "pisync:replay", "2")
        await _is_not_permitted(client, "EVAL", "return redis.call('SET', 'pisync:replay', '2')", "0")
    authority = str(production.root / layout.AUTHORITY / "ca.pem")
    unnamed = Redis(
        host="localhost",
        port=production.port("redis"),
        ssl=True,
        ssl_ca_certs=authority,
        retry=Retry(NoBackoff(), 0),
    )
    with pytest.raises(exceptions.AuthenticationError):
        await unnamed.ping()
    await unnamed.aclose()


async def _is_not_permitted(client: Any, *command: str) -> None:
    with pytest.raises(exceptions.NoPermissionError):
        await client.execute_command(*command)


@pytest.mark.parametrize("server", ["mosquitto", "mongodb", "redis"])
async def test_every_server_shows_a_certificate_of_our_authority_and_speaks_nothing_else(
    production: Production, server: str
) -> None:
    port = production.port(server)
    reader, writer = await asyncio.open_connection("localhost", port, ssl=production.trusts())
    writer.close()
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection("localhost", port, ssl=ssl.create_default_context())
    reader, writer = await asyncio.open_connection("localhost", port)
    # Silence is as good an answer as the end of the connection.
    with suppress(ConnectionError, TimeoutError):
        writer.write(b"PING\r\n" * 20)
        async with asyncio.timeout(0.5):
            assert b"PONG" not in await reader.read(64)
    writer.close()


async def test_a_password_is_changed_by_the_next_start(production: Production) -> None:
    before = production.secret("bridge", "mongodb_url")
    rotated = ("mongodb-admin", "mongodb-bridge")
    generate(production.root, DOMAIN, broker.IMAGES["2.0"], rotate=rotated)
    await create_users(production)
    async with mongodb(production, "bridge") as client:
        await client.pisync.bridges.find_one()
    async with AsyncMongoClient[dict[str, Any]](before) as client:
        with pytest.raises(OperationFailure):
            await client.pisync.bridges.find_one()
    # The administrator's former password is no longer needed.
    (production.root / layout.PASSWORDS / "mongodb-admin.former").unlink()
    generate(production.root, DOMAIN, broker.IMAGES["2.0"])
    await create_users(production)
