"""One child process: start until ready, stop, kill, pause. Its handle belongs to no event loop.

The handles are plain `subprocess.Popen` underneath and wait by looking, so that one loop can start a child
and another one stop it (a test run has a loop for every test).
"""

import asyncio
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

from pisync.errors import PiSyncError

READY_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 30.0
LOOK_INTERVAL_S: Final = 0.02
LOG_TAIL_LINES: Final = 15
LOG_TAIL_BYTES: Final = 16 * 1024
OPEN_FILES_MAX: Final = 1_048_576
"""What Linux lets a process open at most, whatever its hard limit says (`fs.nr_open`)."""

# Between fork and `setpriv` the parent may have died already: then nobody will signal this child's death.
_UNLESS_ORPHANED: Final = ("/bin/sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"')


class ChildFailed(PiSyncError):  # noqa: N818 - what happened to it, in the words of the tree
    """A child process could not be started, or keeps dying; the message has the end of its log."""


def allow_open_files() -> None:
    """Raise this process's limit of open files, which its children inherit, as far as the hard limit lets it.

    The usual 1,024 are as many devices as a broker can have connected: it closes every further connection
    without a word.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class ChildProcess:
    """One child process, in a session of its own: the terminal's Ctrl-C does not reach it.

    It dies with its parent, even if that is killed with SIGKILL (Linux: PR_SET_PDEATHSIG, set by util-linux's
    `setpriv` because that needs no Python code between fork and exec, where a lock of another thread can
    hang it). The kernel ties this to the thread that forks, so `start` belongs on the main thread.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path | None,
        environment: Mapping[str, str] | None = None,
        stop_timeout_s: float = STOP_TIMEOUT_S,
    ) -> None:
        """Describe the child; nothing runs yet.

        Args:
            name: what people call it.
            command: the program and its arguments.
            log: the file that its output is appended to; None: it writes where this process writes.
            environment: its whole environment; None: this process's.
            stop_timeout_s: how long it may take to stop after SIGTERM before it is killed.
        """
        self.name = name
        self.log = log
        self._command = command
        self._environment = environment
        self._stop_timeout_s = stop_timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the child that was started last.

        Raises:
            ChildFailed: it was never started.
        """
        return self._started.pid

    @property
    def running(self) -> bool:
        """Whether the child has been started and has not ended (a paused one counts as running)."""
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Start the child and return when it is ready for work.

        Raises:
            ChildFailed: it ended before it was ready, or was not ready in time (it is killed then).
        """
        if self.running:
            raise ChildFailed(f"{self.name} is running already")
        self._spawn()
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not await self.is_ready():
            if not self.running:
                raise ChildFailed(f"{self.name} {self.how_it_ended()} at its start. {self.log_tail()}")
            if time.monotonic() > deadline:
                await self.kill()
                raise ChildFailed(
                    f"{self.name} was not ready within {READY_TIMEOUT_S:g} s. {self.log_tail()}"
                )
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def is_ready(self) -> bool:
        """Whether the child, once started, is ready for work. It is, unless a subclass knows better."""
        return True

    async def wait(self) -> int:
        """Wait until the child, as it was started last, has ended.

        Returns:
            its exit code, or the negative number of the signal that ended it.
        """
        process = self._started  # what watches this child may start it again before we look
        while True:
            code = process.poll()
            if code is not None:
                return code
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def terminate(self) -> None:
        """Ask the child to stop and wait until it has; kill it when it takes too long."""
        if not self.running:
            return
        self._started.terminate()
        self.resume()
        try:
            async with asyncio.timeout(self._stop_timeout_s):
                await self.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """`kill -9` the child and wait until it is gone."""
        if self.running:
            self._started.kill()
            await self.wait()

    async def restart(self) -> None:
        """Start the child again, with the same ports and data; stop it first where it runs."""
        await self.terminate()
        await self.start()

    def pause(self) -> None:
        """Stop the child's clock (SIGSTOP): it holds its sockets and answers nothing."""
        self._started.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused child go on."""
        self._started.send_signal(signal.SIGCONT)

    def how_it_ended(self) -> str:
        """In words, how the child ended: its exit code, or the signal that ended it."""
        code = self._started.poll()
        if code is None:
            return "still runs"
        return f"ended with exit code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"

    def log_tail(self) -> str:
        """Where the child's log is, and its last lines."""
        if self.log is None:
            return ""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join([f"The end of {self.log}:", *(f"  {line}" for line in lines)])

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ChildFailed(f"{self.name} has not been started")
        return self._process

    def _spawn(self) -> None:
        setpriv = shutil.which("setpriv")
        with_parent = (
            [setpriv, "--pdeathsig", "KILL", "--", *_UNLESS_ORPHANED, str(os.getpid())] if setpriv else []
        )
        log = None
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            log = self.log.open("ab")
        try:
            self._process = subprocess.Popen(
                [*with_parent, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=None if log is None else subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        except OSError as error:
            raise ChildFailed(f"{self.name} could not be started: {error}") from None
        finally:
            if log is not None:
                log.close()


Child = TypeVar("Child", bound=ChildProcess)


@asynccontextmanager
async def running(child: Child) -> AsyncIterator[Child]:
    """The child, started and ready; stopped at the end, whatever happens."""
    try:
        await child.start()
        yield child
    finally:
        await child.terminate()
