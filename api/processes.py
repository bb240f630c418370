"""The processes of one api: one, or several that take the connections of one port between them.

The process that listens then serves nobody: it has no event loop, no connection and no threads, so that it
may fork. It begins a process again where one ends, and stops them together. What waits to be taken waits at
the port, and so is not lost with a process.
"""

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Final

import structlog

from pisync import backoff, limits, logs
from pisync.errors import ConfigurationError, PiSyncError
from pisync.settings import ApiSettings

log = logs.get("api.processes")

_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
_AWAITED: Final = frozenset({*_STOPPING, signal.SIGCHLD})


def run(settings: ApiSettings) -> None:
    """Serve until SIGTERM or SIGINT, by as many processes as are set.

    Raises:
        PiSyncError: the address cannot be listened on, or a process ended with what trying again cannot mend.
    """
    with _listen(settings.http_host, settings.http_port) as listener:
        if settings.api_workers == 1:
            _serve(settings, listener, None)
        else:
            _Processes(settings, listener).run()


def settings_of(settings: ApiSettings, number: int) -> ApiSettings:
    """A process's own: a receipts topic that no other has, and a port for its metrics."""
    port = settings.metrics_port
    own = {
        "api_id": f"{settings.api_id}-{number}",
        "metrics_port": None if port is None else port + number,
    }
    return settings.model_copy(update=own)


def _serve(settings: ApiSettings, listener: socket.socket, parent: int | None) -> None:
    # What it loads starts threads: only the process that serves loads it.
    from api.service import serve  # noqa: PLC0415

    serve(settings, listener, parent)


@dataclass(slots=True)
class _Place:
    """Where one process runs after the other: its number, since when, and how long the next waits."""

    number: int
    delays: Iterator[float]
    began_at: float = 0.0
    begins_at: float = 0.0


class _Processes:
    """The processes of one api, as the one that listens sees them."""

    def __init__(self, settings: ApiSettings, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._running: dict[int, _Place] = {}
        self._waiting = [_Place(number, backoff.delays()) for number in range(settings.api_workers)]
        self._is_stopping = False
        self._fault: PiSyncError | None = None

    def run(self) -> None:
        """Begin them, and begin each again that ends, until told to stop; in a new process: serve.

        Signals stay blocked there until it has its own way with them, so that none ends it before.

        Raises:
            PiSyncError: one ended with what trying again cannot mend, or did not stop cleanly.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
        # Nobody writes into it: its end is that of this process, however that ends.
        read_end, write_end = os.pipe()
        while self._running or not self._is_stopping:
            for place in self._due():
                if not self._begin(place):
                    os.close(write_end)
                    structlog.contextvars.bind_contextvars(process=place.number)
                    _serve(settings_of(self._settings, place.number), self._listener, read_end)
                    return
            told = signal.sigtimedwait(_AWAITED, self._patience_s())
            if told is not None and told.si_signo in _STOPPING:
                self._stop()
            self._reap()
        if self._fault is not None:
            raise self._fault

    def _begin(self, place: _Place) -> bool:
        """Fork; False: this is the new process."""
        pid = os.fork()
        if pid:
            place.began_at = monotonic()
            self._running[pid] = place
        return bool(pid)

    def _due(self) -> list[_Place]:
        """Those that begin now; they wait no longer."""
        now = monotonic()
        due = [place for place in self._waiting if place.begins_at <= now]
        self._waiting = [place for place in self._waiting if place.begins_at > now]
        return due

    def _patience_s(self) -> float:
        """How long nothing is to be done unless a signal comes."""
        begins_at = min((place.begins_at for place in self._waiting), default=None)
        return limits.API_PROCESSES_LOOK_S if begins_at is None else max(0.0, begins_at - monotonic())

    def _reap(self) -> None:
        """Take note of each process that ended.

        Others than ours may end here, too: the first process of a container inherits what lost its parent.
        """
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            place = self._running.pop(pid, None)
            if place is not None:
                self._ended(place, os.waitstatus_to_exitcode(status))

    def _ended(self, place: _Place, code: int) -> None:
        if self._is_stopping:
            if code and self._fault is None:
                self._fault = PiSyncError(
                    f"process {place.number} of the api ended with {code} as it stopped"
                )
            return
        if code == ConfigurationError.exit_code:
            self._fault = ConfigurationError(f"process {place.number} of the api has said what is wrong")
            self._stop()
            return
        if monotonic() - place.began_at > limits.API_PROCESS_STEADY_S:
            place.delays = backoff.delays()
        delay_s = next(place.delays)
        log.error("a process of the api ended", number=place.number, code=code, again_in_s=round(delay_s, 2))
        place.begins_at = monotonic() + delay_s
        self._waiting.append(place)

    def _stop(self) -> None:
        """Have all finish what is under way; none begins again."""
        self._is_stopping = True
        self._waiting = []
        for pid in self._running:
            os.kill(pid, signal.SIGTERM)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigurationError(
            f"PISYNC_HTTP_HOST={host}, PISYNC_HTTP_PORT={port}: {error.strerror or error}"
        ) from None
