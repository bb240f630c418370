"""The production set-up without containers: what docker-compose.production.yml starts, on loopback.

Commands, settings and secrets are read from the compose file and from what `pisync init-production` made
for it; only the places differ: a container's path becomes the file that is mounted there, a service's name
localhost.
"""

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from cli.production import broker, layout
from cli.production.generate import generate
from local_stack import ports, programs
from local_stack.process import ChildProcess, running
from local_stack.servers import MongodbServer, MosquittoServer, RedisServer, Server
from pisync import clock
from pisync.domain.credentials import Credential, Source
from pisync.pki import Authority, Usage
from pisync.stores.credential_changes import give
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.credentials import MongoCredentialStore
from tests.support.programs import program
from tests.support.waiting import until

ROOT: Final = Path(__file__).parents[2]
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.production.yml").read_text())
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
DOMAIN: Final = "pisync.example.org"
_MOUNTED: Final = "/run/secrets/"
# Where the servers of the compose file listen, for the other containers.
_PORTS: Final = {"mosquitto": 8885, "mongodb": 27017, "redis": 6379}


def secret_files(service: str, root: Path) -> dict[str, Path]:
    """The files that a service has as secrets, by the path in its container."""
    found = {}
    for entry in SERVICES[service].get("secrets", []):
        source, target = (entry, entry) if isinstance(entry, str) else (entry["source"], entry["target"])
        target = target if target.startswith("/") else f"{_MOUNTED}{target}"
        file = COMPOSE["secrets"][source]["file"]
        found[target] = Path(re.sub(r"^\$\{PISYNC_PRODUCTION\}", str(root), file))
    return found


def environment(service: str) -> dict[str, Any]:
    """The settings of a service."""
    return {name: value for name, value in SERVICES[service]["environment"].items() if value is not None}


@dataclass(kw_only=True)
class Production:
    """What runs, and what it was made of."""

    root: Path
    work: Path
    servers: dict[str, Server]
    devices_port: int

    def localized(self, text: str, service: str) -> str:
        """A text with this machine's places instead of the containers'."""
        for target, path in secret_files(service, self.root).items():
            text = text.replace(target, str(path))
        for name, port in _PORTS.items():
            text = text.replace(f"@{name}:{port}", f"@localhost:{self.port(name)}")
        return text

    def port(self, name: str) -> int:
        """Where programs reach a server."""
        server = self.servers[name]
        return server.programs_port if isinstance(server, _Mosquitto) else server.port

    def secret(self, service: str, target: str) -> str:
        """The content of a secret, with this machine's places."""
        path = secret_files(service, self.root)[f"{_MOUNTED}{target}"]
        return self.localized(path.read_text(), service).strip()

    def program(self, name: str, **changes: object) -> ChildProcess:
        """A program with the settings that its service has, and secrets from files as there."""
        settings: dict[str, object] = {}
        for variable, value in environment(name).items():
            setting = variable.removeprefix("PISYNC_").lower()
            if setting.endswith("_file"):
                path = secret_files(name, self.root)[value]
                local = self.work / f"{name}-{setting}"
                # The same content, but for the places; keys and certificates stay as they are.
                local.write_text(self.localized(path.read_text(), name))
                local.chmod(0o600)
                settings[setting] = local
            else:
                text = re.sub(r"\$\{PISYNC_DOMAIN[^}]*\}", DOMAIN, str(value))
                settings[setting] = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)
        settings |= {"metrics_port": ports.any_free(), "metrics_host": ports.HOST} | changes
        return program(name, self.work / f"{name}.log", **settings)

    def operator(self, name: str, *arguments: str) -> ChildProcess:
        """A command that ends, with no settings."""
        return program(name, self.work / f"{name}.log", *arguments)

    def trusts(self) -> ssl.SSLContext:
        """What a client trusts."""
        return ssl.create_default_context(cafile=self.root / layout.AUTHORITY / "ca.pem")

    async def device(self, device_id: str) -> ssl.SSLContext:
        """What a device speaks to the broker: with a certificate of its own, which MongoDB is told of."""
        issued = Authority.open(self.root / layout.DEVICE_AUTHORITY).issue(device_id, usage=Usage.DEVICE)
        assert issued.key is not None
        pem = self.work / f"{device_id}.pem"
        pem.write_bytes(issued.key + issued.certificate)
        context = self.trusts()
        context.load_cert_chain(pem)
        credential = Credential(
            identifier=issued.serial,
            not_before=issued.not_before,
            not_after=issued.not_after,
            source=Source.ISSUED,
            given_by="test",
            given_at=clock.now(),
        )
        connection = MongoConnection(self.secret(layout.OPERATOR, "mongodb_url"))
        try:
            await give(MongoCredentialStore(connection), {device_id: credential}, clock.now(), beside=True)
        finally:
            await connection.close()
        return context


class _Mongodb(MongodbServer):
    def __init__(self, root: Path, directory: Path) -> None:
        self._root = root
        super().__init__(directory)

    def _arguments(self) -> list[str]:
        given = [_with_files(each, "mongodb", self._root) for each in SERVICES["mongodb"]["command"]]
        given = [
            each for each in given if "eviction" not in each and each != "--wiredTigerEngineConfigString"
        ]
        return [*super()._arguments(), *given]


class _Redis(RedisServer):
    def __init__(self, root: Path, directory: Path) -> None:
        self._root = root
        super().__init__(directory)

    async def is_ready(self) -> bool:
        return await Server.is_ready(self)

    def _arguments(self) -> list[str]:
        given = [_with_files(str(each), "redis", self._root) for each in SERVICES["redis"]["command"][1:]]
        given[given.index("--tls-port") + 1] = str(self.port)
        return ["--dir", str(self.directory), "--bind", ports.HOST, *given]


class _Mosquitto(MosquittoServer):
    def __init__(self, root: Path, directory: Path) -> None:
        self._root = root
        self.programs_port = ports.any_free()
        super().__init__(directory)

    def _access(self) -> list[str]:
        text = (self._root / layout.BROKER / layout.BROKER_LISTENERS).read_text()
        text = _with_files(text, "mosquitto", self._root)
        text = text.replace("/mosquitto/access", str(self._root / layout.BROKER))
        text = text.replace("/mosquitto/data", str(self._root / layout.DATA / "mosquitto"))
        text = re.sub(r"(?m)^plugin .*$", f"plugin {programs.dynamic_security_plugin()}", text)
        text = text.replace("listener 8883", f"listener {self.port} {ports.HOST}")
        return [text.replace("listener 8885", f"listener {self.programs_port} {ports.HOST}")]


def _with_files(text: str, service: str, root: Path) -> str:
    for target, path in sorted(secret_files(service, root).items(), reverse=True):
        text = text.replace(target, str(path))
    return text


@asynccontextmanager
async def running_production(work: Path, *, passwords: dict[str, str]) -> AsyncIterator[Production]:
    """The servers with what was generated for them, and MongoDB's users; the test starts the programs.

    Args:
        work: an empty directory.
        passwords: those that are there before anything is generated, by account.
    """
    root = work / "production"
    (root / layout.PASSWORDS).mkdir(mode=0o700, parents=True)
    for account, password in passwords.items():
        path = root / layout.PASSWORDS / account
        path.write_text(password + "\n")
        path.chmod(0o600)
    generate(root, DOMAIN, broker.IMAGES["2.0"])
    async with AsyncExitStack() as stack:
        mosquitto = _Mosquitto(root, work / "mosquitto")
        servers: dict[str, Server] = {
            "mosquitto": mosquitto,
            "mongodb": _Mongodb(root, work / "mongodb"),
            "redis": _Redis(root, work / "redis"),
        }
        for server in servers.values():
            await stack.enter_async_context(running(server))
        found = Production(root=root, work=work, servers=servers, devices_port=mosquitto.port)
        await create_users(found)
        yield found


async def create_users(production: Production) -> None:
    """What the one-shot service does at every start."""
    service = SERVICES["mongodb-users"]
    name, *arguments = (_with_files(each, "mongodb-users", production.root) for each in service["command"])
    url = f"mongodb://localhost:{production.port('mongodb')}"
    child = program(name, production.work / f"{name}.log", *arguments, "--url", url)
    await child.start()
    await until(lambda: not child.running)
    assert await child.wait() == 0, child.log_tail()
