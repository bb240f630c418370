"""The `pisync api` command."""


def api() -> None:
    """Run the HTTP api: sync events in, history out. Stops cleanly on SIGTERM and Ctrl-C."""
    from api.processes import run  # noqa: PLC0415 - the other commands need none of it
    from pisync import logs, settings  # noqa: PLC0415

    loaded = settings.load(settings.ApiSettings)
    logs.configure(loaded)
    run(loaded)
