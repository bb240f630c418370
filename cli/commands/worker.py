"""The `pisync worker` command."""


def worker() -> None:
    """Run one worker: rollups out of MongoDB, and back. Stops cleanly on SIGTERM and Ctrl-C."""
    from pisync import logs, settings  # noqa: PLC0415 - the other commands need none of it
    from worker.service import run  # noqa: PLC0415

    loaded = settings.load(settings.WorkerSettings)
    logs.configure(loaded)
    run(loaded)
