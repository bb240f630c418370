"""Which Redis process holds which slot: the URL's, the one that Sentinels name, or those of a cluster.

    redis://127.0.0.1:6379/0                               one process
    redis+sentinel://10.0.0.1,10.0.0.2,10.0.0.3/pisync/0   the primary that Sentinels watch under a name
    redis+cluster://10.0.0.1:7000,10.0.0.2:7000            a primary for every slot

A redirect is never followed. While a slot moves key by key, who follows ASK finds a part of a shard, and what
is written there is overwritten by the rest: so ASK is "unavailable", and MOVED "read the topology anew, and
replay what may be missing".
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from pisync import limits
from pisync.errors import RedisUnavailable
from pisync.stores.redis.address import CLUSTER, SENTINEL, driver_scheme

SLOTS: Final = 16_384
_REDIS_PORT: Final = 6379
_SENTINEL_PORT: Final = 26_379


class Slots(NamedTuple):
    """The slots from `first` to `last`, and the driver's URL of the process that holds them."""

    first: int
    last: int
    url: str


class Topology(Protocol):
    """Says where the primaries are."""

    changes: bool
    """Whether another process may come to hold what one holds now."""

    async def read(self) -> Sequence[Slots]:
        """Who holds what now, in the order of the slots.

        Raises:
            RedisUnavailable: nobody says so.
        """

    async def close(self) -> None:
        """Close the connections."""


def topology_of(url: str) -> Topology:
    """The topology that a URL describes, which was checked."""
    scheme = url.partition("://")[0]
    if scheme.endswith(SENTINEL):
        return _Sentinels(url)
    if scheme.endswith(CLUSTER):
        return _Cluster(url)
    return _One(url)


class _One:
    """The process that the URL names."""

    changes = False

    def __init__(self, url: str) -> None:
        self._slots = [Slots(0, SLOTS - 1, url)]

    async def read(self) -> Sequence[Slots]:
        return self._slots

    async def close(self) -> None:
        pass


class _Asked:
    """Processes of which any may be asked, first the one that answered last; and the parts of the URL."""

    changes = True

    def __init__(self, url: str, port: int) -> None:
        scheme, _, rest = url.partition("://")
        rest, _, options = rest.partition("?")
        authority, _, self._path = rest.partition("/")
        self._userinfo, _, hosts = authority.rpartition("@")
        self._scheme = driver_scheme(scheme)
        every = [option for option in options.split("&") if option]
        ours = [option for option in every if option.lower().startswith("sentinel_")]
        self._options = [option for option in every if option not in ours]
        self._sentinels = {name.lower(): value for name, _, value in (each.partition("=") for each in ours)}
        self._addresses = [host if _has_port(host) else f"{host}:{port}" for host in hosts.split(",")]
        self._clients: dict[str, Redis] = {}

    def _url(self, address: str, database: str = "", userinfo: str | None = None) -> str:
        """The driver's URL of the process at an address."""
        who = self._userinfo if userinfo is None else userinfo
        options = f"?{'&'.join(self._options)}" if self._options else ""
        return f"{self._scheme}://{f'{who}@' if who else ''}{address}/{database}{options}"

    async def _ask(self, userinfo: str, *command: str) -> tuple[str, Any]:
        """Who answered, and what."""
        why = "nobody answers"
        for address in list(self._addresses):
            client = self._clients.get(address)
            if client is None:
                client = self._clients[address] = Redis.from_url(
                    self._url(address, userinfo=userinfo),
                    decode_responses=True,
                    socket_timeout=limits.REDIS_TOPOLOGY_TIMEOUT_S,
                    socket_connect_timeout=limits.REDIS_TOPOLOGY_TIMEOUT_S,
                    client_name="pisync",
                    # Another is asked instead.
                    retry=Retry(NoBackoff(), 0),
                )
            try:
                reply = await client.execute_command(*command)  # type: ignore[no-untyped-call]
            except (exceptions.RedisError, OSError) as error:
                why = str(error)[:200]
                continue
            if reply:
                self._addresses.remove(address)
                self._addresses.insert(0, address)
                return address, reply
            why = "it is not known there"
        raise RedisUnavailable(f"nobody says who holds what: {why}")

    def _learn(self, addresses: Sequence[str]) -> None:
        """Others that may be asked: those that the URL names may all be replaced one day."""
        known = set(self._addresses)
        self._addresses += [address for address in addresses if address not in known]

    async def close(self) -> None:
        for client in self._clients.values():
            with suppress(exceptions.RedisError, OSError):
                await client.aclose()


class _Sentinels(_Asked):
    """The primary that Sentinels watch."""

    def __init__(self, url: str) -> None:
        super().__init__(url, _SENTINEL_PORT)
        self._name, _, self._database = self._path.partition("/")
        username = self._sentinels.get("sentinel_username", "")
        password = self._sentinels.get("sentinel_password", "")
        self._sentinel_userinfo = f"{username}:{password}" if username or password else ""

    async def read(self) -> Sequence[Slots]:
        _, (name, port) = await self._ask(
            self._sentinel_userinfo, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name
        )
        return [Slots(0, SLOTS - 1, self._url(_address(name, port), self._database))]


class _Cluster(_Asked):
    """The primaries of a cluster."""

    def __init__(self, url: str) -> None:
        super().__init__(url, _REDIS_PORT)

    async def read(self) -> Sequence[Slots]:
        asked, reply = await self._ask(self._userinfo, "CLUSTER", "SLOTS")
        found = []
        for first, last, (name, port, *_), *_replicas in reply:
            # A node that does not know its own name yet leaves it out.
            address = _address(name or asked.rpartition(":")[0].strip("[]"), port)
            found.append((first, last, address))
        self._learn([address for _, _, address in found])
        return sorted(Slots(first, last, self._url(address)) for first, last, address in found)


def _has_port(host: str) -> bool:
    return ":" in host.rpartition("]")[2]


def _address(name: str, port: int | str) -> str:
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
