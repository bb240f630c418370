"""What is generated for the broker: roles, accounts, the file of the plugin, and the listeners."""

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisync.broker_access import (
    PROGRAM_ROLES,
    Account,
    DeviceAccount,
    Listeners,
    Password,
    Program,
    configuration,
    device_role_name,
    document,
    has_patterns,
    is_ours,
)
from pisync.broker_access.dynsec import new_password
from pisync.domain import topics

ids = st.from_regex(topics.DEVICE_ID_PATTERN, fullmatch=True)
LISTENERS = Listeners(
    plugin=Path("/plugin.so"),
    state=Path("/dynsec.json"),
    certificate=Path("/server.pem"),
    key=Path("/server.key"),
    authority=Path("/ca.pem"),
    revoked=Path("/crl.pem"),
)


def made(*devices: DeviceAccount, patterns: bool) -> dict[str, Any]:
    account = Account(program=Program.BRIDGE, password=Password.of("word", salt=bytes(12)))
    made: dict[str, Any] = json.loads(document([account], devices, patterns=patterns))
    return made


@given(ids, st.booleans())
def test_no_device_has_the_name_of_a_program_or_its_role(device_id: str, patterns: bool) -> None:
    ours = {role.name for role in PROGRAM_ROLES}
    assert all(is_ours(name) for name in ours)
    assert not is_ours(device_id)
    assert device_id not in ours
    assert device_role_name(device_id, patterns=patterns) not in ours


@given(st.sets(ids, max_size=20), st.booleans())
def test_each_device_has_one_role_that_is_there_and_lets_it_reach_its_own_topics_alone(
    device_ids: set[str], patterns: bool
) -> None:
    file = made(*(DeviceAccount(device_id=each) for each in device_ids), patterns=patterns)
    roles = {role["rolename"]: role["acls"] for role in file["roles"]}
    devices = {client["username"]: client for client in file["clients"] if not is_ours(client["username"])}
    assert set(devices) == device_ids
    for device_id, client in devices.items():
        (role,) = client["roles"]
        subject = "%u" if patterns else device_id
        assert client["clientid"] == device_id
        assert "password" not in client
        for acl in roles[role["rolename"]]:
            assert acl["allow"]
            assert acl["topic"].split("/")[:4] == [*topics.PREFIX.split("/"), "devices", subject]


def test_nothing_is_allowed_by_default_but_to_unsubscribe() -> None:
    allowed = made(patterns=True)["defaultACLAccess"]
    assert {name for name, is_allowed in allowed.items() if is_allowed} == {"unsubscribe"}


def test_a_password_is_hashed_with_a_salt_of_its_own() -> None:
    """That Mosquitto takes it is held by `tests/integration/test_broker_access.py`."""
    hashed = Password.of("word", salt=bytes(range(12)))
    digest = hashlib.pbkdf2_hmac("sha512", b"word", base64.b64decode(hashed.salt), hashed.iterations)
    assert base64.b64decode(hashed.hash) == digest
    assert Password.of("word") != Password.of("word")
    assert len({new_password() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("2.0.11", False),
        ("mosquitto version 2.0.22", False),
        ("mosquitto version 2.1.2", True),
        ("2.1.0", True),
        ("3.0", True),
        ("2.10.1", True),
        ("", False),
    ],
)
def test_patterns_are_known_by_the_version(version: str, expected: bool) -> None:
    assert has_patterns(version) is expected


def listeners(text: str) -> dict[str, list[str]]:
    parts = [part.splitlines() for part in text.split("\nlistener ")[1:]]
    return {part[0]: [line for line in part[1:] if line and not line.startswith("#")] for part in parts}


def test_every_listener_has_tls_and_asks_who_comes() -> None:
    text = configuration(LISTENERS)
    assert "allow_anonymous false" in text
    assert "acl_file" not in text.replace("an acl_file beside", "")
    assert set(listeners(text)) == {"8883", "8885"}
    for lines in listeners(text).values():
        assert {"certfile /server.pem", "keyfile /server.key", "tls_version tlsv1.2"} <= set(lines)
        assert {"require_certificate true", "cafile /ca.pem", "crlfile /crl.pem"} <= set(lines)


def test_devices_with_a_password_have_a_listener_where_that_is_wanted() -> None:
    found = listeners(configuration(replace(LISTENERS, passwords_port=8884)))
    assert set(found) == {"8883", "8884", "8885"}
    assert "use_username_as_clientid true" in found["8884"]
    assert "require_certificate true" not in found["8884"]
