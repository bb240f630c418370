"""Roles, keys, token buckets, refused credentials, and from which address a request comes."""

import base64
import math
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request
from hypothesis import given, settings
from hypothesis import strategies as st

from api.auth.addresses import address_of, limited_as
from api.auth.buckets import Buckets
from api.auth.refusals import Refusal, Refusals
from pisync import limits
from pisync.domain import access
from pisync.domain.access import KeyParts, KeyState, Principal, PrincipalKind, Role
from pisync.settings import ApiSettings
from tests.support.keys import key, parts
from tests.support.samples import NOW

# Who may do what: the roles that a route may ask for, by the role that is given.
MAY = {
    Role.READ: {Role.READ},
    Role.INGEST: {Role.INGEST},
    Role.OPERATE: {Role.READ, Role.OPERATE},
    Role.ADMIN: {Role.READ, Role.INGEST, Role.OPERATE, Role.ADMIN},
}


@given(st.sets(st.sampled_from(Role)))
def test_roles_grant_what_each_of_them_grants_and_nothing_else(roles: set[Role]) -> None:
    principal = Principal(name="x", kind=PrincipalKind.KEY, roles=frozenset(roles))
    expected = {each for role in roles for each in MAY[role]}
    assert principal.grants == expected
    assert {role for role in Role if principal.holds(role)} == expected


@given(
    st.text(access.KEY_ID_CHARACTERS, min_size=8, max_size=8),
    st.binary(min_size=32, max_size=32),
)
def test_the_text_of_a_key_is_read_as_it_was_written(key_id: str, secret: bytes) -> None:
    made = KeyParts(key_id, base64.urlsafe_b64encode(secret).decode().rstrip("="))
    assert access.key_parts(access.key_text(made)) == made


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pisync_",
        "pisync_a0000001_" + "a" * 42,
        "pisync_a0000001_" + "a" * 44,
        "pisync_A0000001_" + "a" * 43,
        "pisync_a000001_" + "a" * 43,
        "pisync_a0000001_" + "a" * 43 + "\n",
        "Pisync_a0000001_" + "a" * 43,
        "pisync_a0000001_" + "ä" * 43,
    ],
)
def test_what_is_no_key_has_no_parts(text: str) -> None:
    assert access.key_parts(text) is None


def test_a_key_is_proven_by_its_whole_secret_alone() -> None:
    made = key("a0000001")
    secret = parts("a0000001").secret
    assert made.fits(secret)
    assert not any(made.fits(each) for each in ("", secret[:-1], secret + "a", "b" + secret[1:]))
    assert secret.encode() not in made.digest
    assert len(made.digest) == 32


def test_a_key_expires_at_its_moment_and_stays_revoked() -> None:
    second = timedelta(seconds=1)
    assert key("a0000001").state(NOW) is KeyState.VALID
    assert key("a0000001", expires_at=NOW + second).state(NOW) is KeyState.VALID
    assert key("a0000001", expires_at=NOW).state(NOW) is KeyState.EXPIRED
    assert key("a0000001", expires_at=NOW, revoked_at=NOW).state(NOW) is KeyState.REVOKED


@pytest.mark.parametrize("name", ["a", "Gateway Kampala 7", "ключ", "x" * 64, "configured", "local-7"])
def test_names_that_can_be_seen_are_taken(name: str) -> None:
    assert access.read_name(name) == name


@pytest.mark.parametrize(
    "name", ["", " a", "a ", "x" * 65, "a\nb", "a\u202eb", "a\x00", "local", "unknown", "configured-3"]
)
def test_other_names_are_not(name: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        access.read_name(name)


class Clock:
    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


@settings(max_examples=60)
@given(
    st.integers(1, 50),
    st.integers(1, 20),
    st.lists(st.floats(0, 3, allow_nan=False), max_size=80),
)
def test_a_bucket_gives_no_more_than_its_burst_and_what_it_filled_by(
    per_s: int, burst: int, pauses: list[float]
) -> None:
    clock = Clock()
    buckets = Buckets(per_s=per_s, burst=burst, now=clock)
    taken = 0
    for pause in pauses:
        clock.s += pause
        wait_s = buckets.take("a")
        taken += wait_s == 0
        assert taken <= burst + per_s * clock.s + 1e-6
        assert 0 <= wait_s <= 1 / per_s
        if wait_s:  # who waits as long as he is told gets one
            clock.s += wait_s + 1e-9
            assert buckets.take("a") == 0
            taken += 1
    # What one takes is not another's.
    assert buckets.take("b") == 0


def test_of_too_many_names_the_ones_that_did_nothing_for_longest_are_forgotten() -> None:
    buckets = Buckets(per_s=1, burst=1, names_max=2, now=Clock())
    assert [buckets.take(name) == 0 for name in "abaccab"] == [True, True, False, True, False, False, True]
    assert len(buckets) == 2


def test_wrong_keys_of_an_address_are_slowed_beyond_ten_in_a_minute() -> None:
    clock = Clock()
    refusals = Refusals(now=clock)
    waits = [refusals.add("10.0.0.1", Refusal.WRONG) for _ in range(12)]
    assert waits == [0.0] * 10 + [6.0, 6.0]
    assert refusals.add("10.0.0.2", Refusal.WRONG) == 0
    clock.s = 6.0
    assert refusals.add("10.0.0.1", Refusal.WRONG) == 0
    assert refusals.add("10.0.0.1", Refusal.WRONG) > 0
    assert refusals.total == {Refusal.WRONG: 15}


def test_an_address_is_told_of_once_a_minute_with_a_count_of_what_came_since() -> None:
    clock = Clock()
    refusals = Refusals(now=clock)
    refusals.add("10.0.0.1", Refusal.WRONG)
    refusals.add("10.0.0.1", Refusal.EXPIRED, "gateway")
    [report] = refusals.due()
    assert (report.address, report.refused, report.names) == (
        "10.0.0.1",
        {Refusal.WRONG: 1, Refusal.EXPIRED: 1},
        ("gateway",),
    )
    for number in range(30):
        clock.s += 1
        refusals.add("10.0.0.1", Refusal.WRONG)
        refusals.add(f"10.0.1.{number}", Refusal.REVOKED, f"key {number % 9}")
        assert {each.address for each in refusals.due()} == {f"10.0.1.{number}"}
    clock.s = 60
    assert [(each.address, each.refused) for each in refusals.due()] == [("10.0.0.1", {Refusal.WRONG: 30})]
    clock.s = 200
    assert list(refusals.due()) == []
    assert refusals._of_address == {}, "what has nothing to tell is forgotten"


def test_what_is_remembered_of_addresses_and_names_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CALLER_BUCKETS_MAX", 3)
    refusals = Refusals(now=Clock())
    for number in range(20):
        refusals.add("10.0.0.1", Refusal.REVOKED, f"key {number}")
    for number in range(5):
        refusals.add(f"10.0.0.{number + 2}", Refusal.WRONG)
    reports = {each.address: each for each in refusals.due()}
    assert list(reports) == ["10.0.0.4", "10.0.0.5", "10.0.0.6"]
    refusals.add("10.0.0.1", Refusal.REVOKED, "z")
    assert math.isclose(sum(refusals.total.values()), 26)


PROXY, OTHER_PROXY = "10.0.0.7", "10.0.0.8"


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),  # of somebody who is no proxy it is made up
        (PROXY, [], PROXY),
        (PROXY, ["198.51.100.1"], "198.51.100.1"),
        (PROXY, ["192.0.2.1, 198.51.100.1"], "198.51.100.1"),  # what the client itself said
        (PROXY, ["192.0.2.1", "198.51.100.1"], "198.51.100.1"),
        (PROXY, [f"192.0.2.1, 198.51.100.1, {OTHER_PROXY}"], "198.51.100.1"),
        (PROXY, [OTHER_PROXY], OTHER_PROXY),
        (PROXY, ["nonsense"], PROXY),
        (PROXY, ["198.51.100.1, "], PROXY),
        (PROXY, [f"192.0.2.1, nonsense, {OTHER_PROXY}"], OTHER_PROXY),
        (PROXY, ["2001:DB8::1"], "2001:db8::1"),
        (PROXY, ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.0.0.7", ["198.51.100.1"], "198.51.100.1"),
        (PROXY, ["198.51.100.1, " + ", ".join([OTHER_PROXY] * 1000)], OTHER_PROXY),
        (None, ["198.51.100.1"], "none"),
    ],
)
def test_an_address_is_the_last_that_no_trusted_proxy_has(
    peer: str | None, forwarded: list[str], address: str
) -> None:
    configured = ApiSettings(trusted_proxies="10.0.0.0/28")
    scope: dict[str, Any] = {
        "type": "http",
        "client": None if peer is None else (peer, 1),
        "headers": [(b"x-forwarded-for", each.encode()) for each in forwarded],
        "app": SimpleNamespace(state=SimpleNamespace(settings=configured)),
    }
    assert address_of(Request(scope)) == address


def test_of_ipv6_a_network_counts_as_one() -> None:
    assert limited_as("2001:db8:0:1::1") == limited_as("2001:db8:0:1:ffff::2") == "2001:db8:0:1::/64"
    assert limited_as("2001:db8:0:2::1") != limited_as("2001:db8:0:1::1")
    assert limited_as("198.51.100.1") == "198.51.100.1"
    assert limited_as("none") == "none"
