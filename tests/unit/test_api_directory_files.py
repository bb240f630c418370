"""`/api/directory/import` and `export`: whole files or nothing, every fault with its line, and back again."""

import csv
import io
import json
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pisync import limits
from pisync.domain import directory
from pisync.domain.directory import Entry, Kind
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.directory import EntryWrite
from pisync.stores.memory.directory import MemoryDirectoryStore
from tests.support.api_client import Api, api, is_problem
from tests.support.directory import entries, entry

TYPES = {"csv": "text/csv", "ndjson": "application/x-ndjson"}
COLUMNS = "device_id,name,site,labels,note,habit_days,muted_until,retired"


async def send(
    pisync: Api,
    body: str | bytes | AsyncIterator[bytes],
    query: str = "kind=devices",
    form: str = "csv",
    **headers: str,
) -> httpx.Response:
    content = body.encode() if isinstance(body, str) else body
    given_headers = {"content-type": TYPES[form]} | {
        name.replace("_", "-"): text for name, text in headers.items()
    }
    return await pisync.request(
        "POST", f"/api/directory/import?{query}", content=content, headers=given_headers
    )


async def counts(
    pisync: Api, body: str | bytes, query: str = "kind=devices", form: str = "csv"
) -> tuple[int, ...]:
    """Created, changed, unchanged."""
    response = await send(pisync, body, query, form)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["refused"] == 0
    return answer["created"], answer["changed"], answer["unchanged"]


def kept(pisync: Api, kind: Kind = Kind.DEVICES) -> dict[str, Entry]:
    return {name: each.entry for name, each in pisync.directory.kept[kind].items() if not each.is_deleted}


def device(identifier: str, **said: Any) -> Entry:
    return entry(Kind.DEVICES, identifier, **said)


async def faults(
    pisync: Api, body: str | bytes, query: str = "kind=devices", form: str = "csv"
) -> list[tuple[Any, ...]]:
    """Line, member and detail of each fault; nothing was applied."""
    before = kept(pisync)
    document = is_problem(await send(pisync, body, query, form), 422)
    assert kept(pisync) == before
    assert document["refused"] == len({fault["line"] for fault in document["errors"]})
    return [(fault["line"], fault["member"], fault["detail"]) for fault in document["errors"]]


async def test_a_file_of_csv_creates_changes_and_takes_back() -> None:
    async with api() as pisync:
        assert await counts(pisync, "site_id,name\nS-1,School\n", "kind=sites") == (1, 0, 0)
        file = (
            "\ufeffname, device_id ,site,labels,retired,habit_days\r\n"
            '"Room 2, left ""wing""",PB-1,S-1,b; a,TRUE,7\r\n'
            "\r\n"
            ",,,,,\r\n"
            "'=cmd,PB-2,,,,"
        )
        assert await counts(pisync, file, "kind=devices&dry_run=true") == (2, 0, 0)
        assert kept(pisync) == {}
        assert await counts(pisync, file) == (2, 0, 0)
        assert kept(pisync) == {
            "PB-1": device(
                "PB-1", name='Room 2, left "wing"', site="S-1", labels=["a", "b"], retired=True, habit_days=7
            ),
            "PB-2": device("PB-2", name="=cmd"),
        }
        # A column that is not there leaves what there is; an empty cell takes it back.
        assert await counts(pisync, "device_id,habit_days,note\nPB-1,,n\nPB-2,,\n") == (0, 1, 1)
        assert kept(pisync)["PB-1"] == device(
            "PB-1", name='Room 2, left "wing"', site="S-1", labels=["a", "b"], retired=True, note="n"
        )


async def test_a_file_of_ndjson_changes_the_members_that_it_gives() -> None:
    async with api() as pisync:
        file = '{"device_id":"PB-1","name":"a","labels":["x"]}\n\n{"device_id":"PB-2"}'
        assert await counts(pisync, file, form="ndjson") == (2, 0, 0)
        assert await counts(pisync, '{"device_id":"PB-1","labels":null}\r\n', form="ndjson") == (0, 1, 0)
        assert kept(pisync) == {"PB-1": device("PB-1", name="a"), "PB-2": device("PB-2")}
        assert await counts(pisync, "", form="ndjson") == (0, 0, 0)


async def test_an_import_is_one_action_and_one_that_changes_nothing_is_none() -> None:
    async with api() as pisync:
        file = "device_id,name\n" + "".join(
            f"PB-{number},a\n" for number in range(limits.DIRECTORY_BATCH + 60)
        )
        for query in ("kind=devices&dry_run=true", "kind=devices"):
            await counts(pisync, file, query)
        before = dict(pisync.directory.kept[Kind.DEVICES])
        assert await counts(pisync, file) == (0, 0, limits.DIRECTORY_BATCH + 60)
        assert pisync.directory.kept[Kind.DEVICES] == before
        [act] = (await pisync.get("/api/actions")).json()["actions"]
        assert {each.action_id for each in before.values()} == {act["id"]}
        assert (act["what"], act["kind"], act["target"], act["progress"]) == (
            "import",
            "devices",
            None,
            "done",
        )
        details = act["details"]
        assert (details["created"], details["bytes"]) == (limits.DIRECTORY_BATCH + 60, len(file))
        assert len(details["changes"]) == limits.IMPORT_CHANGES_TOLD_MAX
        assert details["changes"][0] | {"after": 0} == {"id": "PB-0", "before": None, "after": 0}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], [(1, None, "there is no header: it has device_id and any of name, site")]),
        (["name,note", "x,y"], [(1, None, "the column device_id is not there: it has device_id and any of")]),
        (
            ["", "device_id,colour", "PB-1,x"],
            [(2, None, "'colour' is no column: it has device_id and any of name")],
        ),
        (["device_id;name"], [(1, None, "'device_id;name' is no column")]),
        (["device_id,name,name"], [(1, None, "the column name stands twice")]),
        (['device_id,"na'], [(1, None, "is not CSV")]),
        (["device_id,name", "PB-1,a,b"], [(2, None, "has 3 cells below a header of 2")]),
        (["device_id,name", "PB-1"], [(2, None, "has 1 cells")]),
        (["device_id,name", ",x"], [(2, "device_id", "is needed")]),
        (["device_id,name", "-1,x"], [(2, "device_id", "must be the device's id")]),
        (
            ["device_id,note", 'PB-1,"two', 'lines"'],
            [(2, None, "end on the same line"), (3, None, "1 cells")],
        ),
        (["device_id,note", 'PB-1,say "x"', 'PB-2,"x"y'], [(3, None, "is not CSV")]),
        (["device_id,note", "PB-1,a\tb"], [(2, "note", "U+0009")]),
        (["device_id,note", "PB-1,a\rb"], [(2, None, "is not CSV")]),
        (
            ["device_id,habit_days,retired,muted_until", "PB-1,seven,perhaps,today"],
            [(2, "habit_days", "whole"), (2, "retired", "true or false"), (2, "muted_until", "RFC 3339")],
        ),
        (
            ["device_id,habit_days", "PB-1,1e2", "PB-2,-3"],
            [(2, "habit_days", "whole"), (3, "habit_days", "whole")],
        ),
        (
            ["device_id,name", "PB-1,a", "PB-2,b", "PB-1,c", "PB-1,a"],
            [(4, "device_id", "PB-1 stands on line 2, too"), (5, "device_id", "line 2, too")],
        ),
        (
            ["device_id,site", "PB-1,S-9", "PB-2,S-1", "PB-3,S-9", "PB-4,S 9"],
            [(2, "site", "no site S-9"), (4, "site", "no site S-9"), (5, "site", "must be the site's id")],
        ),
    ],
)
async def test_each_fault_of_csv_is_told_with_its_line_and_nothing_is_applied(
    lines: Sequence[str], expected: list[tuple[int, str | None, str]]
) -> None:
    async with api() as pisync:
        await counts(pisync, "site_id\nS-1\n", "kind=sites")
        for query in ("kind=devices", "kind=devices&dry_run=true"):
            found = await faults(pisync, "\n".join(lines), query)
            assert [fault[:2] for fault in found] == [(line, member) for line, member, _ in expected]
            for (_, _, detail), (_, _, words) in zip(found, expected, strict=True):
                assert words in detail
        assert len((await pisync.get("/api/actions")).json()["actions"]) == 1


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        ("device_id,name\nPB-1,naïve\n".encode("latin-1"), 2, "is not UTF-8 (at byte 8)"),
        ("device_id,name\nPB-1,x\n".encode("utf-16"), 1, "is not UTF-8"),
        (b"device_id,name\nPB-1," + b"x" * limits.IMPORT_LINE_BYTES_MAX + b"\nPB-2,x", 2, "65536 bytes"),
        (b"device_id,name\nPB-1,x\nPB-2," + b"x" * (3 * limits.IMPORT_LINE_BYTES_MAX), 3, "65536 bytes"),
        (b"device_id,name\nPB-1,\x00", 2, "U+0000"),
    ],
)
async def test_what_is_no_text_is_told_with_its_line(body: bytes, line: int, words: str) -> None:
    async with api() as pisync:
        [found] = await faults(pisync, body)
    assert found[0] == line
    assert words in found[2]


async def test_each_fault_of_ndjson_is_told_with_its_line() -> None:
    async with api() as pisync:
        file = "\n".join(
            [
                '{"device_id":"PB-1"}',
                "{",
                '["PB-2"]',
                '{"device_id":"PB-3","device_id":"PB-4"}',
                '{"name":"x"}',
                '{"device_id":null}',
                '{"device_id":"PB-5","colour":1,"name":2}',
                "[" * 60_000,
                '{"device_id":"PB-6","note":"\\udc00"}',
                '{"device_id":"PB-1"}',
            ]
        )
        found = await faults(pisync, file, form="ndjson")
    assert [fault[:2] for fault in found] == [
        (2, None),
        (3, None),
        (4, None),
        (5, "device_id"),
        (6, "device_id"),
        (7, "colour"),
        (7, "name"),
        (8, None),
        (9, "note"),
        (10, "device_id"),
    ]


async def test_of_many_faults_the_first_are_told_and_the_others_counted() -> None:
    async with api() as pisync:
        many = limits.IMPORT_FAULTS_TOLD_MAX + 7
        document = is_problem(
            await send(
                pisync, "device_id,retired\nPB-0,true\n" + "".join(f"PB-{n},?\n" for n in range(1, many + 1))
            ),
            422,
        )
    assert (document["refused"], document["created"], document["more"]) == (many, 1, 7)
    assert [fault["line"] for fault in document["errors"]] == list(
        range(3, limits.IMPORT_FAULTS_TOLD_MAX + 3)
    )
    assert f"Line 3 and {many - 1} other lines: retired" in document["detail"]


async def test_a_line_at_fault_counts_as_refused_and_as_nothing_else() -> None:
    async with api() as pisync:
        await counts(pisync, "device_id\nPB-1\n")
        file = "device_id,site,retired\nPB-1,,\nPB-2,,\nPB-3,S-9,\nPB-4,,?\nPB-2,,\n"
        document = is_problem(await send(pisync, file), 422)
    told = [document[name] for name in ("created", "changed", "unchanged", "refused")]
    assert told == [1, 0, 1, 3]
    assert [fault["line"] for fault in document["errors"]] == [4, 5, 6]


@pytest.mark.parametrize("dies_after", [0, 1, 2])
async def test_the_same_import_again_finishes_one_that_was_cut_off(dies_after: int) -> None:
    """As by a crash: its action says what was meant, and stays as it is."""

    class DyingStore(MemoryDirectoryStore):
        writes = 0

        async def write(self, kind: Kind, writes: Sequence[EntryWrite], action_id: str) -> set[str]:
            if self.writes == dies_after:
                raise MongodbUnavailable("gone")
            self.writes += 1
            return await super().write(kind, writes, action_id)

    store = DyingStore()
    total = 3 * limits.DIRECTORY_BATCH
    file = "device_id,name\n" + "".join(f"PB-{number},a\n" for number in range(total))
    async with api(directory=store) as pisync:
        is_problem(await send(pisync, file), 503)
        assert len(kept(pisync)) == dies_after * limits.DIRECTORY_BATCH
        [act] = (await pisync.get("/api/actions")).json()["actions"]
        assert (act["progress"], act["details"]["created"]) == ("begun", total)
        store.writes = -total
        done = dies_after * limits.DIRECTORY_BATCH
        assert await counts(pisync, file) == (total - done, 0, done)
        assert len(kept(pisync)) == total
        acts = (await pisync.get("/api/actions")).json()["actions"]
        assert [each["progress"] for each in acts] == ["done", "begun"]
        assert acts[0]["details"]["sha256"] == acts[1]["details"]["sha256"]
        assert acts[0]["details"]["created"] == total - dies_after * limits.DIRECTORY_BATCH


async def test_entries_that_others_change_meanwhile_are_compared_again() -> None:
    class MeddlingStore(MemoryDirectoryStore):
        meddles = 1

        async def write(self, kind: Kind, writes: Sequence[EntryWrite], action_id: str) -> set[str]:
            if self.meddles:
                self.meddles -= 1
                theirs = [
                    EntryWrite(entry=device(name, note="theirs", name="b"), version=0)
                    for name in ("PB-1", "PB-2")
                ]
                await super().write(kind, theirs, "theirs")
            return await super().write(kind, writes, action_id)

    async with api(directory=MeddlingStore()) as pisync:
        answer = (await send(pisync, "device_id,name\nPB-1,a\nPB-2,b\nPB-3,c\n")).json()
        assert (answer["created"], answer["changed"], answer["unchanged"]) == (1, 1, 1)
        assert kept(pisync)["PB-1"] == device("PB-1", name="a", note="theirs")
        assert pisync.directory.kept[Kind.DEVICES]["PB-2"].action_id == "theirs"


async def test_a_file_is_bounded_by_bytes_and_by_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IMPORT_BYTES_MAX", 1000)
    monkeypatch.setattr(limits, "IMPORT_ENTRIES_MAX", 20)
    async with api() as pisync:
        few = "device_id\n" + "".join(f"PB-{number}\n" for number in range(20))
        assert await counts(pisync, few, "kind=devices&dry_run=true") == (20, 0, 0)
        assert "20 entries" in is_problem(await send(pisync, few + "PB-20\n"), 413)["detail"]
        assert "1000 bytes" in is_problem(await send(pisync, "device_id\n" + "\n" * 1000), 413)["detail"]
        assert kept(pisync) == {}


async def test_other_wrong_requests() -> None:
    async with api() as pisync:
        for content_type in ("application/json", "", "text/plain"):
            is_problem(await send(pisync, "device_id\n", content_type=content_type), 415)
        response = await send(pisync, "device_id\n", content_encoding="gzip")
        is_problem(response, 415)
        assert response.headers["accept-encoding"] == "identity"
        for query in ("", "kind=schools", "kind=devices&dry_run=perhaps", "kind=devices&partial=true"):
            is_problem(await send(pisync, "device_id\n", query), 422)
        for _ in range(limits.IMPORTS_AT_ONCE):
            await pisync.app.state.pisync.imports.acquire()
        assert "under way" in is_problem(await send(pisync, "device_id\n"), 503)["detail"]
        is_problem(await pisync.get("/api/directory/export"), 422)
        is_problem(await pisync.get("/api/directory/export?kind=sites&format=xml"), 422)


async def test_an_export_is_what_an_import_takes() -> None:
    async with api() as pisync:
        empty = await pisync.get("/api/directory/export?kind=devices")
        assert empty.text == COLUMNS + "\r\n"
        assert empty.headers["content-type"] == "text/csv; charset=utf-8"
        assert empty.headers["content-disposition"] == 'attachment; filename="devices.csv"'
        assert await counts(pisync, empty.text) == (0, 0, 0)
        await counts(pisync, "site_id,time_zone,days_off\nS-1,Africa/Kampala,Sunday;saturday\n", "kind=sites")
        await counts(pisync, 'device_id,site,name,habit_days,labels\nPB-2,S-1,\'=1,7,b;a\nPB-1,,"a,b",,\n')
        assert (await pisync.get("/api/directory/export?kind=devices")).text == (
            f'{COLUMNS}\r\nPB-1,"a,b",,,,,,false\r\nPB-2,\'=1,S-1,a;b,,7,,false\r\n'
        )
        lines = (await pisync.get("/api/directory/export?kind=sites&format=ndjson")).text.splitlines()
        assert list(map(json.loads, lines)) == [
            {
                "site_id": "S-1",
                "name": "",
                "time_zone": "Africa/Kampala",
                "days_off": ["saturday", "sunday"],
                "holidays": [],
                "note": "",
                "labels": [],
            }
        ]


async def test_an_export_has_all_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DIRECTORY_BATCH", 3)
    async with api() as pisync:
        for total in (3, 7):
            await counts(pisync, "device_id\n" + "".join(f"PB-{number}\n" for number in range(total)))
            exported = (await pisync.get("/api/directory/export?kind=devices&format=ndjson")).text
            assert [json.loads(line)["device_id"] for line in exported.splitlines()] == sorted(kept(pisync))


# Made once: each example has them emptied.
HERE, ELSEWHERE = Api(), Api()


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(Kind).flatmap(
        lambda kind: st.tuples(
            st.just(kind), st.lists(entries(kind), max_size=5, unique_by=directory.entry_id)
        )
    ),
    st.sampled_from(sorted(TYPES)),
)
async def test_an_export_that_is_imported_changes_nothing_there_and_makes_the_same_elsewhere(
    said: tuple[Kind, list[Entry]], form: str
) -> None:
    kind, all_of_it = said
    for used in (HERE, ELSEWHERE):
        used.directory.kept[kind].clear()
    await HERE.directory.write(kind, [EntryWrite(entry=one, version=0) for one in all_of_it], "a1")
    url = f"/api/directory/export?kind={kind.value}&format={form}"
    exported = await HERE.get(url)
    if form == "csv":
        cells = [cell for row in csv.reader(io.StringIO(exported.text, newline="")) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert await counts(HERE, exported.content, f"kind={kind.value}", form) == (0, 0, len(all_of_it))
    assert await counts(ELSEWHERE, exported.content, f"kind={kind.value}", form) == (len(all_of_it), 0, 0)
    assert kept(ELSEWHERE, kind) == kept(HERE, kind)
    assert (await ELSEWHERE.get(url)).content == exported.content


async def test_a_large_import_holds_little_of_it_in_memory() -> None:
    """10,000 lines of which nothing is applied; what is held is less than the file."""
    line = b"PB-%d," + b"x" * 190 + b"\n"
    total = 10_000

    async def pieces() -> AsyncIterator[bytes]:
        yield b"device_id,name\n"
        for start in range(0, total, 100):
            yield b"".join(line % number for number in range(start, start + 100))

    async with api() as pisync:
        await counts(pisync, "device_id\nPB-1\n", "kind=devices&dry_run=true")  # what is imported once
        tracemalloc.start()
        try:
            response = await send(pisync, pieces(), "kind=devices&dry_run=true")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert response.json()["created"] == total
    assert peak < total * len(line) / 2
