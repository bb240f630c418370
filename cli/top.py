"""What `pisync top` does: the screen of `pisync status`, live on a terminal, and else a line each time."""

import itertools
import time
from contextlib import nullcontext
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from cli import screen, status, tables
from cli.api_client import ApiAway, ApiClient
from pisync import clock
from pisync.domain.payloads import printable
from pisync.errors import PiSyncError

INTERVAL_S: Final = 2.0


def run(client: ApiClient, count: int | None) -> None:
    """Show the screen until Ctrl-C, or so many times.

    An api that goes away is waited for; one that is away at the start, or refuses, is an error.

    Raises:
        PiSyncError: the api is away at the start, or refuses.
    """
    target = tables.console()
    last: status.Snapshot | None = None
    live = Live(console=target, screen=True, auto_refresh=False) if target.is_terminal else None
    with live or nullcontext():
        for round_ in itertools.count(1):
            try:
                last = status.ask(client)
                told = _told(last, target, None)
            except ApiAway as away:
                if last is None:
                    raise
                told = _told(last, target, away)
            if live is None:
                tables.show(target, told)
                target.file.flush()
            else:
                live.update(told, refresh=True)
            if round_ == count:
                return
            time.sleep(INTERVAL_S)


def _told(snapshot: status.Snapshot, target: Console, away: PiSyncError | None) -> RenderableType:
    """The newest figures; and, where the api is away, that they are not of now."""
    if away is None:
        return screen.screen(snapshot, target) if target.is_terminal else screen.line(snapshot, target)
    told = Text(f"{clock.rfc3339(clock.now())[:19]}Z {printable(str(away))}", "bold red")
    return Group(told, Text(), screen.screen(snapshot, target)) if target.is_terminal else told
