"""The `pisync` command. Each program keeps its own command beside its code; here they come together."""

import sys

import typer
from rich.console import Console
from rich.markup import escape

from api.command import api
from bridge.command import bridge
from device_sim.command import simulate
from pisync.dead_letters_command import dead_letters
from pisync.errors import PiSyncError
from pisync.rebuild_command import rebuild
from pisync.stack.command import doctor, up

app = typer.Typer(
    name="pisync",
    help="Sync logs of offline-first learning devices: MQTT in, MongoDB and Redis behind, HTTP out."
    " Settings come from the environment (PISYNC_*); see docs/operations.md.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (up, bridge, api, simulate, doctor, rebuild):
    app.command()(command)
app.add_typer(dead_letters)


def main() -> None:
    """Run the command line; a known error is one message and an exit code, never a traceback."""
    try:
        app()
    except PiSyncError as error:
        Console(stderr=True).print(
            f"[bold red]pisync:[/] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(error.exit_code)
