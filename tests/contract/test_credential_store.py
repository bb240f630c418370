"""What every store of devices' credentials does."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest_asyncio

from pisync import limits
from pisync.clock import EPOCH
from pisync.domain.credentials import (
    Credential,
    CredentialCounts,
    DeviceCredentials,
    Kind,
    Source,
    Standing,
)
from pisync.stores import credential_changes
from pisync.stores.interfaces.credentials import (
    CredentialsQuery,
    CredentialStore,
    CredentialsWrite,
    EnrolmentToken,
    EnrolmentTokens,
)
from pisync.stores.memory.credentials import MemoryCredentialStore, MemoryEnrolmentTokens
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.credentials import MongoCredentialStore
from pisync.stores.mongodb.enrolment_tokens import MongoEnrolmentTokens

NOW = datetime(2026, 5, 8, 12, tzinfo=UTC)
HASH, OTHER, NEWER = "$hash", "other", "newer"
Stores = tuple[CredentialStore, EnrolmentTokens]


@pytest_asyncio.fixture
async def stores(event_store_url: str | None) -> AsyncIterator[Stores]:
    if event_store_url is None:
        yield MemoryCredentialStore(), MemoryEnrolmentTokens()
        return
    connection = MongoConnection(event_store_url)
    made = MongoCredentialStore(connection), MongoEnrolmentTokens(connection)
    for each in made * 2:
        await each.prepare()
    yield made
    await connection.close()


@pytest_asyncio.fixture
async def store(stores: Stores) -> CredentialStore:
    return stores[0]


@pytest_asyncio.fixture
async def tokens(stores: Stores) -> EnrolmentTokens:
    return stores[1]


def in_days(days: float) -> datetime:
    return NOW + timedelta(days=days)


def credential(identifier: str = "ab", *, days: float = 100, **members: Any) -> Credential:
    given: dict[str, Any] = {
        "not_before": in_days(-1),
        "not_after": in_days(days),
        "source": Source.ISSUED,
        "given_by": "ann",
        "given_at": NOW,
    }
    return Credential(identifier=identifier, **given | members)


def entry(device_id: str, *credentials: Credential) -> DeviceCredentials:
    return DeviceCredentials(device_id=device_id, credentials=credentials)


async def test_what_goes_in_comes_out(store: CredentialStore) -> None:
    one = entry(
        "PB-1",
        credential("f" * 40, revoked_by="$bob", revoked_at=NOW),
        credential("b", source=Source.IMPORTED, given_by="$$ROOT"),
        credential("p", kind=Kind.PASSWORD, source=Source.ENROLLED, secret="$7$101$a.b==$"),  # noqa: S106
    )
    assert await store.write([CredentialsWrite(entry=one, version=0)]) == {"PB-1"}
    kept = (await store.get(["PB-1", "PB-2"]))["PB-1"]
    assert (kept.entry, kept.version) == (one, 1)
    assert await store.get([]) == {}


async def test_it_is_written_in_place_of_the_version_that_was_read(store: CredentialStore) -> None:
    serials = itertools.count()

    async def write(version: int) -> set[str]:
        writes = [
            CredentialsWrite(entry=entry(name, credential(f"{next(serials)}")), version=written)
            for name, written in (("PB-1", version), (f"PB-1-{version}", 0))
        ]
        return await store.write(writes)

    assert await write(0) == {"PB-1", "PB-1-0"}
    assert await write(0) == set()
    assert await write(2) == {"PB-1-2"}
    assert await write(1) == {"PB-1", "PB-1-1"}
    assert (await store.get(["PB-1"]))["PB-1"].entry.credentials[0].identifier == "6"


async def filled(store: CredentialStore) -> None:
    for device_id, credentials in {
        "active": (credential(days=100),),
        "renewed": (credential("1", days=-1), credential("2", days=5)),
        "soon": (credential(days=20),),
        "expired": (credential(days=0),),
        "expired-2": (credential("1", days=900, revoked_at=NOW, revoked_by="x"), credential("2", days=-9)),
        "revoked": (credential(days=100, revoked_at=NOW, revoked_by="x"),),
    }.items():
        await store.write([CredentialsWrite(entry=entry(device_id, *credentials), version=0)])


async def test_pages_go_by_id_and_by_standing(store: CredentialStore) -> None:
    await filled(store)

    async def found(**members: Any) -> list[str]:
        names: list[str] = []
        while page := await store.page(
            CredentialsQuery(limit=2, now=NOW, after=names[-1] if names else None, **members)
        ):
            names += [kept.entry.device_id for kept in page]
        return names

    assert await found() == ["active", "expired", "expired-2", "renewed", "revoked", "soon"]
    assert await found(standing=Standing.ACTIVE) == ["active", "renewed", "soon"]
    assert await found(standing=Standing.EXPIRED) == ["expired", "expired-2"]
    assert await found(standing=Standing.REVOKED) == ["revoked"]
    assert await found(until=in_days(30)) == ["renewed", "soon"]
    assert await found(until=in_days(30), standing=Standing.ACTIVE) == ["renewed", "soon"]
    assert await found(until=in_days(7)) == ["renewed"]
    assert await found(until=in_days(7), standing=Standing.EXPIRED) == []


async def test_the_counts_are_those_of_the_pages(store: CredentialStore) -> None:
    nothing = CredentialCounts(active=0, expired=0, revoked=0, expiring={30: 0, 7: 0})
    assert await store.counts(NOW) == nothing
    await filled(store)
    assert await store.counts(NOW) == CredentialCounts(active=3, expired=2, revoked=1, expiring={30: 2, 7: 1})


async def test_what_changed_since_a_moment(store: CredentialStore) -> None:
    async def changed(moment: datetime) -> list[str]:
        return [kept.entry.device_id async for kept in store.changed_since(moment)]

    await filled(store)
    moments = {name: kept.changed_at for name, kept in (await store.get(["active", "revoked"])).items()}
    assert len(await changed(EPOCH)) == 6
    assert "revoked" in await changed(moments["revoked"])
    while True:  # by its own clock a change comes last, once the clock has moved on
        await credential_changes.give(
            store, {"active": credential(f"{len(await changed(EPOCH))}")}, NOW, beside=True
        )
        kept = (await store.get(["active"]))["active"]
        if kept.changed_at > moments["revoked"]:
            break
        await store.write([CredentialsWrite(entry=entry("active", credential()), version=kept.version)])
    assert (await changed(EPOCH))[-1] == "active"


async def test_of_many_who_issue_for_a_device_at_once_one_does(store: CredentialStore) -> None:
    refused = await asyncio.gather(
        *(
            credential_changes.give(store, {"PB-1": credential(f"{number}")}, NOW, beside=False)
            for number in range(8)
        )
    )
    assert [bool(each) for each in refused].count(False) == 1
    [kept] = (await store.get(["PB-1"])).values()
    [given] = kept.entry.credentials
    assert refused[int(given.identifier)] == {}
    assert all(each["PB-1"] == kept.entry for each in refused if each)


async def test_all_who_renew_at_once_do_and_none_is_lost(store: CredentialStore) -> None:
    await asyncio.gather(
        *(
            credential_changes.give(
                store, {name: credential(f"{number}") for name in ("PB-1", "PB-2")}, NOW, beside=True
            )
            for number in range(6)
        )
    )
    for kept in (await store.get(["PB-1", "PB-2"])).values():
        assert {each.identifier for each in kept.entry.credentials} == set("012345")


async def test_what_a_device_has_it_is_given_again_and_an_expired_one_keeps_nobody_out(
    store: CredentialStore,
) -> None:
    first = {"PB-1": credential("a", days=-1)}
    assert await credential_changes.give(store, first, NOW, beside=False) == {}
    assert await credential_changes.give(store, first, NOW, beside=False) == {}
    assert (await store.get(["PB-1"]))["PB-1"].version == 1
    assert await credential_changes.give(store, {"PB-1": credential("b")}, NOW, beside=False) == {}
    refused = await credential_changes.give(store, {"PB-1": credential("c")}, NOW, beside=False)
    assert [each.identifier for each in refused["PB-1"].credentials] == ["a", "b"]


async def test_what_is_revoked_stays_as_it_was_revoked(store: CredentialStore) -> None:
    await credential_changes.give(store, {"PB-1": credential("a")}, NOW, beside=False)
    await credential_changes.give(store, {"PB-1": credential("b")}, NOW, beside=True)
    some = await credential_changes.revoke(store, ["PB-1"], by="ann", now=NOW, only=["a"])
    assert [each.revoked_by for each in some["PB-1"].credentials] == ["ann", None]
    later = await credential_changes.revoke(store, ["PB-1", "none"], by="bob", now=in_days(1))
    assert set(later) == {"PB-1"}
    assert [(each.revoked_by, each.revoked_at) for each in later["PB-1"].credentials] == [
        ("ann", NOW),
        ("bob", in_days(1)),
    ]
    version = (await store.get(["PB-1"]))["PB-1"].version
    await credential_changes.revoke(store, ["PB-1"], by="eve", now=in_days(2))
    assert (await store.get(["PB-1"]))["PB-1"].version == version
    assert await store.get(["none"]) == {}


async def test_more_devices_than_one_command_takes(store: CredentialStore) -> None:
    many = {f"PB-{number:05d}": credential(f"{number + 1:x}") for number in range(1203)}
    assert await credential_changes.give(store, many, NOW, beside=False) == {}
    assert await credential_changes.give(store, many, NOW, beside=False) == {}
    assert (await store.counts(NOW)).active == 1203


async def test_valid_ones_are_never_forgotten_and_others_in_time(store: CredentialStore) -> None:
    for number in range(limits.DEVICE_CREDENTIALS_MAX):
        assert not await credential_changes.give(store, {"PB-1": credential(f"{number}")}, NOW, beside=True)
    refused = await credential_changes.give(store, {"PB-1": credential("more")}, NOW, beside=True)
    assert set(refused) == {"PB-1"}
    await credential_changes.revoke(store, ["PB-1"], by="ann", now=NOW, only=["3"])
    assert not await credential_changes.give(store, {"PB-1": credential("more")}, NOW, beside=True)
    kept = (await store.get(["PB-1"]))["PB-1"].entry
    assert len(kept.credentials) == limits.DEVICE_CREDENTIALS_MAX
    assert "3" not in {each.identifier for each in kept.credentials}


def token(device_id: str = "PB-1", **members: Any) -> EnrolmentToken:
    given: dict[str, Any] = {"token_hash": HASH, "expires_at": in_days(1), "given_by": "ann"}
    return EnrolmentToken(device_id=device_id, **given | members)


async def test_a_token_is_one_keys_and_may_be_asked_again_with_that(tokens: EnrolmentTokens) -> None:
    await tokens.put([])
    await tokens.put([token(), token("PB-2", token_hash=OTHER)])
    claim = await tokens.claim("PB-1", HASH, "key", NOW)
    assert claim is not None
    assert (claim.token, claim.certificate) == (token(), None)
    assert await tokens.claim("PB-1", HASH, "another key", NOW) is None
    assert await tokens.answer(claim, b"first") == b"first"
    assert await tokens.answer(claim, b"second") == b"first"
    again = await tokens.claim("PB-1", HASH, "key", NOW)
    assert again is not None
    assert again.certificate == b"first"


async def test_only_the_devices_own_token_counts_and_only_in_time(tokens: EnrolmentTokens) -> None:
    await tokens.put([token(), token("PB-2", token_hash=OTHER)])
    for device_id, token_hash, now in (
        ("PB-1", OTHER, NOW),
        ("PB-3", HASH, NOW),
        ("PB-1", HASH, in_days(1)),
    ):
        assert await tokens.claim(device_id, token_hash, "key", now) is None
    claim = await tokens.claim("PB-2", OTHER, "key", NOW)
    assert claim is not None
    await tokens.put([token(token_hash=NEWER)])
    assert await tokens.claim("PB-1", HASH, "key", NOW) is None
    assert await tokens.claim("PB-1", NEWER, "key", NOW) is not None
    await tokens.withdraw(["PB-2", "none"])
    assert await tokens.claim("PB-2", OTHER, "key", NOW) is None
    assert await tokens.answer(claim, b"late") is None


async def test_of_many_keys_at_once_one_gets_the_token(tokens: EnrolmentTokens) -> None:
    await tokens.put([token()])
    claims = await asyncio.gather(*(tokens.claim("PB-1", HASH, f"{key}", NOW) for key in range(8)))
    assert sum(claim is not None for claim in claims) == 1


async def test_a_write_that_was_lost_to_another_is_told_from_ones_own(store: CredentialStore) -> None:
    mine, other = entry("PB-1", credential("mine")), entry("PB-1", credential("other"))
    for winner, loser in itertools.permutations((mine, other)):
        kept = (await store.get(["PB-1"])).get("PB-1")
        version = 0 if kept is None else kept.version
        assert await store.write([CredentialsWrite(entry=winner, version=version)]) == {"PB-1"}
        assert await store.write([CredentialsWrite(entry=loser, version=version)]) == set()
    assert (await store.get(["PB-1"]))["PB-1"].entry == replace(other)
