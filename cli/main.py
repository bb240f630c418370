"""The `pisync` command: all commands together, and what becomes of an error."""

import sys
from importlib import import_module
from typing import Any, Final

import typer

from pisync.errors import PiSyncError

RUN: Final = "Run"
LOOK: Final = "Look (asks a running api)"
ACT: Final = "Act (asks a running api)"
MAINTAIN: Final = "Maintain and try out"
# Each command, the module of `cli.commands` that has it, its panel in the help, and an example.
_COMMANDS: Final[tuple[tuple[str, str, str, str], ...]] = (
    ("up", "stack", RUN, "pisync up --data .pisync --devices 50"),
    ("bridge", "bridge", RUN, "PISYNC_BRIDGE_ID=bridge-1 pisync bridge"),
    ("api", "api", RUN, "PISYNC_HTTP_PORT=8081 pisync api"),
    ("worker", "worker", RUN, "PISYNC_METRICS_PORT=9102 pisync worker"),
    ("status", "status", LOOK, "pisync status || echo 'look at it'"),
    ("top", "status", LOOK, "pisync top"),
    ("device", "device", LOOK, "pisync device PB-000123"),
    ("history", "history", LOOK, "pisync history PB-000123 --since 7d --outcome failure"),
    ("failures", "failures", LOOK, "pisync failures --since 30d --sort streak"),
    ("causes", "causes", LOOK, "pisync causes --site S-17"),
    ("cause", "cause", LOOK, "pisync cause E_TIMEOUT"),
    ("sites", "sites", LOOK, "pisync sites --label pilot"),
    ("site", "site", LOOK, "pisync site S-17"),
    ("incidents", "incidents", LOOK, "pisync incidents --state all --site S-17"),
    ("alerts", "alerts", LOOK, "pisync alerts --state all --device PB-000123"),
    ("audit", "audit", LOOK, "pisync audit --who office --since 7d"),
    ("sync-now", "commands", ACT, "pisync sync-now --site S-17 --state failing --dry-run"),
    ("doctor", "stack", MAINTAIN, "pisync doctor"),
    (
        "init-production",
        "production",
        MAINTAIN,
        "pisync init-production production --domain pisync.example.org",
    ),
    ("init-mongodb", "production", MAINTAIN, "pisync init-mongodb production/secrets/mongodb_users.json"),
    ("init-db", "init_db", MAINTAIN, "pisync init-db --shard"),
    ("rebuild", "rebuild", MAINTAIN, "pisync rebuild --check"),
    ("migrate", "migrate", MAINTAIN, "pisync migrate"),
    ("import", "importing", MAINTAIN, "pisync import /backup/pisync"),
    (
        "gateway",
        "gateway",
        MAINTAIN,
        "pisync gateway PX-000001 PB-000123 PB-000124 --mqtt-url mqtts://mqtt.example.org",
    ),
    ("conformance", "conformance", MAINTAIN, "pisync conformance --device PB-000123 --duration 30m"),
    ("record", "record", MAINTAIN, "pisync record hour.ndjson --duration 1h"),
    ("replay", "replay", MAINTAIN, "pisync replay hour.ndjson --speed 60 --rewrite-time"),
    ("simulate", "simulate", MAINTAIN, "pisync simulate --devices 50 --events 40 --seed 1"),
    ("scenarios", "scenarios", MAINTAIN, "pisync scenarios school-day > mine.toml"),
)
# Each group of commands likewise.
_GROUPS: Final[tuple[tuple[str, str, str], ...]] = (
    ("devices", "devices", LOOK),
    ("export", "export", LOOK),
    ("acknowledgements", "acknowledgements", ACT),
    ("commands", "commands", ACT),
    ("dead-letters", "dead_letters", ACT),
    ("directory", "directory", ACT),
    ("recipients", "recipients", ACT),
    ("bridges", "bridges", MAINTAIN),
    ("keys", "keys", MAINTAIN),
    ("users", "users", MAINTAIN),
)
NAMES: Final = frozenset(name for name, *_ in (*_COMMANDS, *_GROUPS))


def build(only: str | None = None) -> typer.Typer:
    """The command line, with every command or only the one of this name.

    To import them all takes longer than most commands run.
    """
    app = typer.Typer(
        name="pisync",
        help="Sync logs of offline-first learning devices: MQTT in, MongoDB and Redis behind, HTTP out."
        " Settings come from the environment (PISYNC_*); see docs/operations.md.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_names_a_command)
    for name, module, panel, example in _COMMANDS:
        if only in {None, name}:
            command = _found(name, module)
            app.command(name, rich_help_panel=panel, epilog=f"Example: {example}")(command)
    for name, module, panel in _GROUPS:
        if only in {None, name}:
            app.add_typer(_found(name, module), rich_help_panel=panel)
    return app


def _names_a_command() -> None:
    """Keeps a command line of one command from being that command itself."""


def _found(name: str, module: str) -> Any:
    """What has this name in a module of `cli.commands`, where no name may be a word of Python."""
    found = vars(import_module(f"cli.commands.{module}"))
    attribute = name.replace("-", "_")
    return found[attribute] if attribute in found else found[f"{attribute}_"]


def main() -> None:
    """Run the command line; a known error is one message and an exit code, never a traceback."""
    named = sys.argv[1] if len(sys.argv) > 1 else None
    try:
        build(named if named in NAMES else None)()
    except PiSyncError as error:
        from rich.console import Console  # noqa: PLC0415 - most commands write nothing by it
        from rich.markup import escape  # noqa: PLC0415

        Console(stderr=True).print(
            f"[bold red]pisync:[/] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(error.exit_code)
