"""The `pisync migrate` command."""


def migrate() -> None:
    """Bring what MongoDB holds to the version of this program; bridges and api are stopped meanwhile.

    It may be interrupted at any time: the next run goes on.
    """
    from cli.migrate import run  # noqa: PLC0415
    from pisync import logs, settings  # noqa: PLC0415 - the other commands need none of it

    loaded = settings.load(settings.CommonSettings)
    logs.configure(loaded)
    run(loaded)
