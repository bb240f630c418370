"""Which archive is meant: addresses, days, and how long a server of S3 may be silent."""

from typing import Any

import pytest
from pyarrow import fs

from cli.archive import places
from cli.archive.places import S3Options
from pisync import limits
from pisync.errors import ConfigurationError, RedisUnavailable
from tests.support.commands import run

HERE = S3Options(endpoint="http://127.0.0.1:9", region="us-east-1")


@pytest.mark.parametrize(
    "address",
    ["", "s3://", "s3://backup/a//b", "s3://no space/x", "gs://backup/x", "file:///tmp/x", "S3://backup/x"],
)
def test_what_is_no_address_of_an_archive(address: str) -> None:
    with pytest.raises(ConfigurationError, match="a directory, or s3://BUCKET/PREFIX"):
        places.at(address, HERE)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("s3://backup", "s3://backup/events"),
        ("s3://backup/", "s3://backup/events"),
        ("s3://backup/one/school/", "s3://backup/one/school/events"),
        ("relative", "relative/events"),
        ("/abs/olute", "/abs/olute/events"),
    ],
)
def test_addresses(address: str, told: str) -> None:
    assert places.at(address, HERE).told("events") == told


def test_a_server_may_be_silent_for_longer_than_the_library_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def files(**options: Any) -> None:
        given.update(options)

    monkeypatch.setattr(fs, "S3FileSystem", files)
    places.at("s3://backup/x", HERE)
    assert given["request_timeout"] == limits.ARCHIVE_S3_TIMEOUT_S >= 30
    assert given["connect_timeout"] == limits.ARCHIVE_S3_CONNECT_TIMEOUT_S


def test_an_import_that_cannot_rebuild_says_what_is_left_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def imported(*_: object) -> int:
        return 0

    def rebuilt(*_: object, **__: object) -> int:
        raise RedisUnavailable("nobody is there")

    monkeypatch.setattr("cli.archive.run._import", imported)
    monkeypatch.setattr("cli.rebuild.run", rebuilt)
    code, out, told = run(capsys, "import", "/nowhere")
    assert (code, "Left to do:" in out, "pisync rebuild" in out, "nobody is there" in told) == (
        1,
        *[True] * 3,
    )


@pytest.mark.parametrize("command", [("export", "archive"), ("import",)])
@pytest.mark.parametrize("until", ["2026-05-01", "2026-05-08"])
def test_days_of_which_there_are_none_are_refused(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...], until: str
) -> None:
    code, _, told = run(capsys, *command, "/nowhere", "--since", "2026-05-08", "--until", until)
    assert (code, "--until" in told) == (2, True)
