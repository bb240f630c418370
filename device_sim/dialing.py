"""Who may connect now: at most so many connections, at most so many a second, and few at one time."""

import asyncio
import errno
import itertools
import os
import resource
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from device_sim.connection import Connection, Ended
from device_sim.runner import Runner
from pisync import limits
from pisync.errors import ConfigurationError
from pisync.mqtt.address import MqttAddress

CONNECT_RATE: Final = 2000.0
"""Connections a second. Debian's Mosquitto needs about 77 µs of a core for each: that is a sixth of one."""
DIALING_MAX: Final = 100
"""Connections that are being made at one time: Mosquitto lets so many wait to be accepted (its `listen`)."""
LEAVING_INTERVAL_S: Final = 0.01
BURST_S: Final = 0.02
"""How much of a second's connections may be made at once, for want of a finer timer."""
FILE_DESCRIPTORS_BESIDE: Final = 64
"""What the process opens beside its connections."""
CONNECTIONS_PER_ADDRESS: Final = 10_000
"""Connections from one local address, where there is a choice. Linux looks for a free port among one half of
them first, so that beyond some 14,000 it takes milliseconds to find one."""
IP_BIND_ADDRESS_NO_PORT: Final = 24
"""Linux's; Python has no name for it before 3.12."""
PORT_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")

TlsContextOf = Callable[[str], ssl.SSLContext | None]
"""What the device of this id connects with; None: without TLS."""


class Dialer:
    """Connects devices in the order in which they ask."""

    def __init__(
        self,
        address: MqttAddress,
        tls_context: TlsContextOf,
        *,
        connections: int,
        connect_rate: float,
        local_addresses: Sequence[str],
    ) -> None:
        """Without local addresses the system chooses the one to connect from."""
        self._address = address
        self._tls_context = tls_context
        self._local_addresses = itertools.cycle(local_addresses or [None])
        self._free = connections
        self._rate = connect_rate
        self._burst = max(1.0, connect_rate * BURST_S)
        self._credit = self._burst
        self._loop = asyncio.get_running_loop()
        self._credited_s = self._loop.time()
        self._waiting: deque[Runner] = deque()
        self._dialing: set[asyncio.Task[None]] = set()
        self._connected: set[Runner] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def dial(self, runner: Runner) -> None:
        """Connect this device when it is its turn."""
        self._waiting.append(runner)
        self._go_on()

    def hung_up(self, runner: Runner) -> None:
        """Its connection has ended."""
        if runner in self._connected:
            self._connected.discard(runner)
            self._free += 1
            self._go_on()

    async def leave(self, within_s: float) -> None:
        """Take leave of the broker with every connection, as far as it takes that in time."""
        for runner in list(self._connected):
            runner.leave()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._connected:  # noqa: ASYNC110 - thousands, of which each is soon closed
                    await asyncio.sleep(LEAVING_INTERVAL_S)

    async def close(self) -> None:
        """Close all connections without a word, and make none any more."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._dialing:
            task.cancel()
        await asyncio.gather(*self._dialing, return_exceptions=True)
        # What is not made, or is cancelled before it began, does not hear of its end.
        opened = [each.connection for each in self._connected if each.connection is not None]
        made = [connection for connection in opened if connection.was_made]
        for connection in made:
            connection.end(Ended(why="the fleet ended", is_wanted=True))
            connection.abort()
        while any(connection.is_there for connection in made):  # noqa: ASYNC110 - in a turn of the loop or two
            await asyncio.sleep(0)

    def _go_on(self) -> None:
        now_s = self._loop.time()
        self._credit = min(self._burst, self._credit + (now_s - self._credited_s) * self._rate)
        self._credited_s = now_s
        while self._waiting and self._free and len(self._dialing) < DIALING_MAX and not self._is_closed:
            if self._credit < 1:
                self._try_later((1 - self._credit) / self._rate)
                return
            self._credit -= 1
            self._free -= 1
            runner = self._waiting.popleft()
            self._connected.add(runner)
            task = self._loop.create_task(self._connect(runner), name=f"{runner.device_id}-connects")
            self._dialing.add(task)
            task.add_done_callback(self._dialed)

    def _try_later(self, delay_s: float) -> None:
        if self._timer is None:

            def again() -> None:
                self._timer = None
                self._go_on()

            self._timer = self._loop.call_later(max(delay_s, BURST_S / 2), again)

    def _dialed(self, task: asyncio.Task[None]) -> None:
        self._dialing.discard(task)
        self._go_on()

    async def _connect(self, runner: Runner) -> None:
        try:
            await self._make(runner, runner.new_connection())
        except Exception as error:  # noqa: BLE001 - of a task that nobody awaits
            runner.crashed(error)

    async def _make(self, runner: Runner, connection: Connection) -> None:
        failed: Ended | None = None
        try:
            async with asyncio.timeout(limits.CONNECT_TIMEOUT_S):
                tls = self._tls_context(runner.device_id)
                await self._open(connection, next(self._local_addresses), tls)
        except OSError as error:  # TimeoutError and ssl.SSLError are among them
            failed = Ended(why=_told(error), for_good=isinstance(error, ssl.SSLCertVerificationError))
        except asyncio.CancelledError:
            failed = Ended(why="the fleet ended", is_wanted=True)
        if failed is not None:
            connection.end(failed)  # also where the event loop has begun to make it
            connection.abort()
        if connection.ended is not None and not connection.was_made:
            runner.is_down(connection.ended)  # what was never made does not tell of its end

    async def _open(self, connection: Connection, local: str | None, tls: ssl.SSLContext | None) -> None:
        host, port = self._address.host, self._address.port
        if local is None:
            await self._loop.create_connection(lambda: connection, host, port, ssl=tls)
            return
        family = socket.AF_INET6 if ":" in local else socket.AF_INET
        found = await self._loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.setblocking(False)
            # Else `bind` looks for a port that is free for every peer: milliseconds among thousands.
            made.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            made.bind((local, 0))
            await self._loop.sock_connect(made, found[0][4])
        except BaseException:
            made.close()
            raise
        name = None if tls is None else host
        await self._loop.create_connection(lambda: connection, sock=made, ssl=tls, server_hostname=name)


def _told(error: OSError) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return f"no port is free to connect from: {_WHAT_TO_DO}"
    if isinstance(error, ConnectionError):  # whose text is the event loop's, and not the same in all of them
        return os.strerror(error.errno or errno.ECONNABORTED)
    return str(error) or "no answer in time"


_WHAT_TO_DO: Final = (
    "name more addresses of this machine with --local-address, or widen net.ipv4.ip_local_port_range"
)


def local_addresses(address: MqttAddress, connections: int) -> list[str]:
    """The addresses to connect from where the broker is on this machine, and there are many connections."""
    parts = -(-connections // CONNECTIONS_PER_ADDRESS)
    if parts <= 1 or address.host != "127.0.0.1":
        return []
    return [f"127.0.0.{number}" for number in range(1, parts + 1)]


def check_local_addresses(addresses: Sequence[str]) -> None:
    """Whether connections can be made from these addresses.

    Raises:
        ConfigurationError: one is no address, or not one of this machine.
    """
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as made:
                made.bind((address, 0))
        except OSError as error:
            raise ConfigurationError(f"--local-address {address}: {error.strerror}") from None


def check_ports(connections: int, addresses: int) -> None:
    """Whether the system has a port for each connection to one address, from so many of its own.

    Raises:
        ConfigurationError: it has not.
    """
    try:
        first, last = map(int, PORT_RANGE.read_text().split())
    except (OSError, ValueError):  # not Linux
        return
    ports = last - first + 1
    if connections > ports * max(1, addresses):
        raise ConfigurationError(
            f"{connections:,} connections need as many ports to connect from, and this system gives {ports:,}"
            f" ({first} to {last}) for each local address: {_WHAT_TO_DO}"
        )


def allow_file_descriptors(connections: int) -> None:
    """Raise the limit of open files as far as the connections need it.

    Raises:
        ConfigurationError: the hard limit is too low.
    """
    needed = connections + FILE_DESCRIPTORS_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise ConfigurationError(
            f"{connections} connections need {needed} file descriptors, but this process may open {hard}:"
            f" use at most {max(1, hard - FILE_DESCRIPTORS_BESIDE)} connections a process (--processes), or"
            " raise the hard limit"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
