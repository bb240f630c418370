"""The `pisync replay` command."""

from pathlib import Path
from typing import Annotated

import typer

from cli.commands.options import Key
from device_sim.replay.reading import Format

WHAT = "What the files hold"
WHICH = "Which events, and when"
WHERE = "Where they go"
AFTER = "What is left behind"


def replay(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="A recording, or events as NDJSON or CSV, one after the other; `-`: standard input.",
            show_default=False,
        ),
    ],
    *,
    speed: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="With the file's own spacing, so many times as fast; without it, as fast as receipts come.",
            show_default=False,
            rich_help_panel=WHICH,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Events (of a recording: messages) a second.",
            show_default=False,
            rich_help_panel=WHICH,
        ),
    ] = None,
    rewrite_time: Annotated[
        bool,
        typer.Option(
            "--rewrite-time",
            help="Move all times by one amount, so that the newest is now (with --speed: when the replay"
            " ends). Events with other times are other events: run twice, they are stored twice.",
            rich_help_panel=WHICH,
        ),
    ] = False,
    devices: Annotated[
        list[str] | None,
        typer.Option(
            help="Only devices whose id is like this, such as 'PB-1*'; may be given several times.",
            show_default=False,
            rich_help_panel=WHICH,
        ),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Only events from this time on, by the device's clock, such as 2026-05-08T12:00:00Z or, with"
            " --zone, 2026-05-08; of a recording, messages recorded then.",
            show_default=False,
            rich_help_panel=WHICH,
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(help="Only events before this time.", show_default=False, rich_help_panel=WHICH),
    ] = None,
    file_format: Annotated[
        Format | None,
        typer.Option(
            "--format", help="Without it, as the first line looks.", show_default=False, rich_help_panel=WHAT
        ),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="MEMBER=COLUMN,…: where a member comes from. `Date+Time` joins two columns, `Down/1e6`"
            " scales. Columns that are called as a member need none.",
            show_default=False,
            rich_help_panel=WHAT,
        ),
    ] = None,
    constants: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="MEMBER=VALUE,…: what a member is where the file has nothing.",
            show_default=False,
            rich_help_panel=WHAT,
        ),
    ] = None,
    zone: Annotated[
        str | None,
        typer.Option(
            help="The clock of times without an offset, such as Europe/Paris. What comes twice in autumn is"
            " the first, until a device's times fall back; what never comes in spring is as if the clock"
            " had not been put forward.",
            show_default=False,
            rich_help_panel=WHAT,
        ),
    ] = None,
    time_format: Annotated[
        str | None,
        typer.Option(
            help="How times are written, as strptime has it, such as '%d/%m/%Y %H:%M'; or unix, unix_ms.",
            show_default=False,
            rich_help_panel=WHAT,
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="The columns of a CSV file that has no header, with commas between them.",
            show_default=False,
            rich_help_panel=WHAT,
        ),
    ] = None,
    mqtt_url: Annotated[
        str | None,
        typer.Option(help="Broker; without it, PISYNC_MQTT_URL.", show_default=False, rich_help_panel=WHERE),
    ] = None,
    via: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Through a running api instead, where the broker lets devices publish for themselves alone.",
            show_default=False,
            rich_help_panel=WHERE,
        ),
    ] = None,
    key: Key = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Send nothing: say what would be sent and what is left out.",
            rich_help_panel=WHERE,
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="A file for all that is rejected or left out: a line of JSON each.",
            show_default=False,
            rich_help_panel=AFTER,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Where to note how far the replay is, and to go on from; without it, beside the first file.",
            show_default=False,
            rich_help_panel=AFTER,
        ),
    ] = None,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Begin anew, whatever was noted before.", rich_help_panel=AFTER),
    ] = False,
) -> None:
    """Send the events of files, each confirmed by a receipt: a recording, NDJSON, CSV, an export of PiSync.

    A device's events keep their order. An interrupted replay goes on when the command is repeated. Exits
    with 0 when every event was confirmed, 1 when something was rejected or left out.

    A log of a broadband monitor, first only looked at: pisync replay log.csv --dry-run --zone Europe/Paris
    --map timestamp=Date,internet_speed=Down --set device_id=PB-9,total_files_synced=0,total_errors=0
    """
    from cli.replay import Asked, run  # noqa: PLC0415 - the other commands need none of it

    if speed is not None and rate is not None:
        raise typer.BadParameter("give either --speed or --rate")
    raise typer.Exit(
        run(
            Asked(
                files=files,
                speed=speed,
                rate=rate,
                rewrite_time=rewrite_time,
                devices=tuple(devices or ()),
                from_=from_,
                until=until,
                file_format=file_format,
                mapping=mapping or [],
                constants=constants or [],
                zone=zone,
                time_format=time_format,
                columns=columns,
                mqtt_url=mqtt_url,
                via=via,
                key=key,
                dry_run=dry_run,
                report=report,
                resume=resume,
                restart=restart,
            )
        )
    )
