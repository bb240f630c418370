"""The `pisync bridge` command."""


def bridge() -> None:
    """Run one bridge: MQTT in, MongoDB and Redis out, receipts back. Stops cleanly on SIGTERM and Ctrl-C."""
    from bridge.service import run  # noqa: PLC0415 - the other commands need none of it
    from pisync import logs, settings  # noqa: PLC0415

    loaded = settings.load()
    logs.configure(loaded)
    run(loaded)
