"""The programs as deploy/kubernetes/ runs them, against real servers with TLS and access control; no cluster.

Environment, arguments, secrets and probes are the manifests'; only places and ports differ.
"""

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import aiomqtt
import pytest
import pytest_asyncio
from aiomqtt.client import ProtocolVersion
from pymongo import AsyncMongoClient

from local_stack import ports
from local_stack.process import ChildProcess, running
from pisync import clock
from pisync.clock import rfc3339
from pisync.domain import topics
from tests.support import kubernetes
from tests.support.production import Production, running_production
from tests.support.programs import program
from tests.support.samples import members
from tests.support.waiting import until

OVERLAY: Final = "small"
DEVICE: Final = "PB-000001"
MESSAGES: Final = 6
# As kubelet asks where a probe names no other host.
POD_ADDRESS: Final = "10.244.1.7"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def production(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Production]:
    work = tmp_path_factory.mktemp("kubernetes")
    async with running_production(work, passwords={}) as found:
        yield found


class Pod:
    """A pod of the overlay as a process of this machine."""

    def __init__(
        self,
        production: Production,
        secrets: dict[str, dict[str, bytes]],
        name: str,
        pod_name: str,
        *arguments: str,
    ) -> None:
        root = production.work / pod_name
        for path, content in kubernetes.mounted_files(OVERLAY, name, secrets).items():
            local = root / path.removeprefix("/")
            local.parent.mkdir(parents=True, exist_ok=True)
            local.write_text(production.localized(content.decode(), "bridge"))
        self._described = kubernetes.container(OVERLAY, name)
        environment = {
            key.removeprefix("PISYNC_").lower(): f"{root}{value}" if key.endswith("_FILE") else value
            for key, value in kubernetes.environment(OVERLAY, name, pod_name).items()
        }
        self.ports = {port["name"]: ports.any_free() for port in self._described.get("ports", [])}
        environment |= {f"{kind}_port": str(port) for kind, port in self.ports.items()}
        environment |= {key: ports.HOST for key in ("http_host", "metrics_host") if key in environment}
        command, *options = arguments or self._described["args"]
        self.child: ChildProcess = program(
            command, production.work / f"{pod_name}.log", *options, **environment
        )

    async def is_probed(self, kind: str) -> bool:
        """Whether kubelet's probe would succeed."""
        asked: dict[str, Any] = self._described[f"{kind}Probe"]["httpGet"]
        headers = {each["name"]: each["value"] for each in asked.get("httpHeaders", [])}
        return await self.answers(asked["port"], asked["path"], headers.get("Host", POD_ADDRESS)) in range(
            200, 400
        )

    async def answers(self, port: str, path: str, host: str) -> int:
        """The status with which it answers; 0 where it does not."""
        head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        line = await ports.first_line(self.ports[port], head.encode(), timeout_s=5)
        return int(line.split()[1]) if line else 0

    def log(self) -> str:
        assert self.child.log is not None
        return self.child.log.read_text()


async def test_pods_answer_their_probes_and_one_beyond_the_wanted_number_retires(
    production: Production, tmp_path: Path
) -> None:
    secrets = kubernetes.secrets(production.root, tmp_path)
    # One more than the overlay has, as after a scale-in.
    [kept] = kubernetes.pod_names(OVERLAY, "bridge")
    beyond = "bridge-1"
    first, second = (Pod(production, secrets, "bridge", name) for name in (kept, beyond))
    api = Pod(production, secrets, "api", "api-0")
    worker = Pod(production, secrets, "worker", "worker-0")

    async def retired(name: str) -> str:
        job = Pod(production, secrets, "retirement", name)
        await job.child.start()
        await until(lambda: not job.child.running)
        assert await job.child.wait() == 0, job.log()
        return job.log()

    async with running(first.child), running(second.child), running(api.child), running(worker.child):
        for pod in (first, second, api, worker):
            for kind in ("startup", "liveness", "readiness"):
                await until(lambda pod=pod, kind=kind: pod.is_probed(kind))  # type: ignore[misc]
        # Without the header of its probe the api would not be asked: a pod's address is no name of it.
        assert await api.answers("http", "/readyz", POD_ADDRESS) == 421
        assert f"{beyond} is beyond the wanted number, 1, but runs" in await retired("too-early")
        await second.child.terminate()
        # The broker goes on giving it its share, which waits. The worker has told the broker of the device.
        device = await production.device(DEVICE)
        at = clock.now()
        await until(lambda: published(production, device, at))
        url = production.secret("bridge", "mongodb_url")
        async with AsyncMongoClient[dict[str, Any]](url) as client:
            database = client.get_default_database()

            async def stored() -> int:
                count: int = await database.sync_events.count_documents({})
                return count

            async def some_are_stored() -> bool:
                return await stored() > 0

            await until(some_are_stored)
            assert await stored() < MESSAGES
            assert f"{beyond} is retired." in await retired("in-time")
            # All of its share; and the other one's own was stored meanwhile.
            assert await stored() == MESSAGES
            assert [each["_id"] async for each in database.bridges.find()] == [kept]
        assert first.child.running
        for pod in (first, second, api, worker):
            assert not [words for words in ("not authorized", "NOPERM", "Traceback") if words in pod.log()]


async def published(production: Production, device: ssl.SSLContext, at: datetime) -> bool:
    """Messages of a device that does not wait for receipts; False while the broker does not let it in."""
    with suppress(aiomqtt.MqttError):
        async with aiomqtt.Client(
            "localhost",
            production.devices_port,
            identifier=DEVICE,
            protocol=ProtocolVersion.V311,
            tls_context=device,
        ) as client:
            [granted] = await client.subscribe(topics.receipts(DEVICE, "+"), qos=1)
            if granted != 1:
                return False
            for number in range(MESSAGES):
                sent = members(device_id=DEVICE, timestamp=rfc3339(at.replace(microsecond=number * 1000)))
                await client.publish(topics.sync(DEVICE), json.dumps(sent).encode(), qos=1)
        return True
    return False
