"""The `pisync` command: all commands together, and what becomes of an error."""

import sys
from collections.abc import Callable
from typing import Final

import typer
from rich.console import Console
from rich.markup import escape

from cli.commands.acknowledgements import acknowledgements
from cli.commands.alerts import alerts
from cli.commands.api import api
from cli.commands.bridge import bridge
from cli.commands.bridges import bridges
from cli.commands.cause import cause
from cli.commands.causes import causes
from cli.commands.commands import commands, sync_now
from cli.commands.conformance import conformance
from cli.commands.dead_letters import dead_letters
from cli.commands.device import device
from cli.commands.devices import devices
from cli.commands.directory import directory
from cli.commands.export import export
from cli.commands.failures import failures
from cli.commands.gateway import gateway
from cli.commands.history import history
from cli.commands.incidents import incidents
from cli.commands.migrate import migrate
from cli.commands.rebuild import rebuild
from cli.commands.recipients import recipients
from cli.commands.record import record
from cli.commands.replay import replay
from cli.commands.scenarios import scenarios
from cli.commands.simulate import simulate
from cli.commands.site import site
from cli.commands.sites import sites
from cli.commands.stack import doctor, up
from cli.commands.status import status, top
from cli.commands.worker import worker
from pisync.errors import PiSyncError

app = typer.Typer(
    name="pisync",
    help="Sync logs of offline-first learning devices: MQTT in, MongoDB and Redis behind, HTTP out."
    " Settings come from the environment (PISYNC_*); see docs/operations.md.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
RUN: Final = "Run"
LOOK: Final = "Look (asks a running api)"
ACT: Final = "Act (asks a running api)"
MAINTAIN: Final = "Maintain and try out"
# Each command with its panel in the help, and an example.
_COMMANDS: Final[tuple[tuple[Callable[..., None], str, str], ...]] = (
    (up, RUN, "pisync up --data .pisync --devices 50"),
    (bridge, RUN, "PISYNC_BRIDGE_ID=bridge-1 pisync bridge"),
    (api, RUN, "PISYNC_HTTP_PORT=8081 pisync api"),
    (worker, RUN, "PISYNC_METRICS_PORT=9102 pisync worker"),
    (status, LOOK, "pisync status || echo 'look at it'"),
    (top, LOOK, "pisync top"),
    (devices, LOOK, "pisync devices --state overdue --site S-17 --all"),
    (device, LOOK, "pisync device PB-000123"),
    (history, LOOK, "pisync history PB-000123 --since 7d --outcome failure"),
    (failures, LOOK, "pisync failures --since 30d --sort streak"),
    (causes, LOOK, "pisync causes --site S-17"),
    (cause, LOOK, "pisync cause E_TIMEOUT"),
    (sites, LOOK, "pisync sites --label pilot"),
    (site, LOOK, "pisync site S-17"),
    (incidents, LOOK, "pisync incidents --state all --site S-17"),
    (alerts, LOOK, "pisync alerts --state all --device PB-000123"),
    (sync_now, ACT, "pisync sync-now --site S-17 --state failing --dry-run"),
    (doctor, MAINTAIN, "pisync doctor"),
    (rebuild, MAINTAIN, "pisync rebuild --check"),
    (migrate, MAINTAIN, "pisync migrate"),
    (gateway, MAINTAIN, "pisync gateway PX-000001 PB-000123 PB-000124 --mqtt-url mqtts://mqtt.example.org"),
    (conformance, MAINTAIN, "pisync conformance --device PB-000123 --duration 30m"),
    (record, MAINTAIN, "pisync record hour.ndjson --duration 1h"),
    (replay, MAINTAIN, "pisync replay hour.ndjson --speed 60 --rewrite-time"),
    (simulate, MAINTAIN, "pisync simulate --devices 50 --events 40 --seed 1"),
    (scenarios, MAINTAIN, "pisync scenarios school-day > mine.toml"),
)
_GROUPS: Final = (
    (export, LOOK),
    (acknowledgements, ACT),
    (commands, ACT),
    (dead_letters, ACT),
    (directory, ACT),
    (recipients, ACT),
    (bridges, MAINTAIN),
)
for command, panel, example in _COMMANDS:
    name = command.__name__.replace("_", "-")
    app.command(name, rich_help_panel=panel, epilog=f"Example: {example}")(command)
for group, panel in _GROUPS:
    app.add_typer(group, rich_help_panel=panel)


def main() -> None:
    """Run the command line; a known error is one message and an exit code, never a traceback."""
    try:
        app()
    except PiSyncError as error:
        Console(stderr=True).print(
            f"[bold red]pisync:[/] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(error.exit_code)
