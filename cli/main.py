"""The `pisync` command: all commands together, and what becomes of an error."""

import sys

import typer
from rich.console import Console
from rich.markup import escape

from cli.commands.api import api
from cli.commands.bridge import bridge
from cli.commands.bridges import bridges
from cli.commands.dead_letters import dead_letters
from cli.commands.directory import directory
from cli.commands.migrate import migrate
from cli.commands.rebuild import rebuild
from cli.commands.simulate import simulate
from cli.commands.stack import doctor, up
from cli.commands.worker import worker
from pisync.errors import PiSyncError

app = typer.Typer(
    name="pisync",
    help="Sync logs of offline-first learning devices: MQTT in, MongoDB and Redis behind, HTTP out."
    " Settings come from the environment (PISYNC_*); see docs/operations.md.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (up, bridge, api, worker, simulate, doctor, rebuild, migrate):
    app.command()(command)
app.add_typer(bridges)
app.add_typer(dead_letters)
app.add_typer(directory)


def main() -> None:
    """Run the command line; a known error is one message and an exit code, never a traceback."""
    try:
        app()
    except PiSyncError as error:
        Console(stderr=True).print(
            f"[bold red]pisync:[/] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(error.exit_code)
