"""Users of MongoDB and Redis may do what the stores do, and no program what is another's."""

import hashlib
import re
from pathlib import Path

import pytest

from pisync.stores.mongodb import access as mongodb_access
from pisync.stores.mongodb import archived
from pisync.stores.redis import access as redis_access

ROOT = Path(__file__).parents[2]
MONGODB = sorted((ROOT / "pisync" / "stores" / "mongodb").glob("*.py"))
LUA = sorted((ROOT / "pisync" / "stores" / "redis" / "lua").glob("*.lua"))


def collections() -> set[str]:
    """Every collection that a store names."""
    found = set()
    for path in MONGODB:
        text = path.read_text()
        found |= set(re.findall(r'get_collection\("(\w+)"\)', text))
        found |= set(re.findall(r'\bCOLLECTION: Final = "(\w+)"', text))
        found |= set(re.findall(r'database\["(\w+)"\]', text))
    return found | {"directory_devices", "directory_sites"}


def test_every_collection_is_somebodys() -> None:
    permitted = {name for privileges in mongodb_access.PRIVILEGES.values() for name in privileges}
    missing = collections() - permitted
    assert not missing, "pisync/stores/mongodb/access.py does not say who uses these collections"


def test_an_archive_has_every_collection_or_leaves_it_out_on_purpose() -> None:
    named = ["sync_events", *archived.KEPT, *archived.LEFT_OUT]
    assert sorted(named) == sorted(
        collections() | {name for own in mongodb_access.PRIVILEGES.values() for name in own}
    )


@pytest.mark.parametrize("program", mongodb_access.PRIVILEGES)
def test_a_role_is_about_collections_of_our_database_alone(program: str) -> None:
    privileges = mongodb_access.role(program, "pisync")
    assert privileges
    for privilege in privileges:
        resource = privilege["resource"]
        assert resource["db"] == "pisync"
        # An empty name would be every collection.
        assert re.fullmatch(r"\w+", resource["collection"])
        assert "find" in privilege["actions"]


def test_who_writes_events_and_who_deletes_what() -> None:
    privileges = mongodb_access.PRIVILEGES
    writes = {
        action: [name for name, own in privileges.items() if action in own.get("sync_events", "")]
        for action in "IUR"
    }
    # Retention is the worker's.
    assert writes == {"I": ["bridge"], "U": ["bridge"], "R": ["worker"]}
    for collection in ("actions", "action_changes", "action_outcomes"):
        assert not set("UR") & set(privileges["api"][collection])
        assert collection not in privileges["bridge"]
        assert collection not in privileges["worker"]
    for secret in ("api_keys", "sessions", "users"):
        assert secret not in privileges["bridge"]
        assert secret not in privileges["worker"]


def test_scripts_call_only_what_their_callers_may() -> None:
    calls = {
        name.lower()
        for path in LUA
        for name in re.findall(r"""(?:\bcall|redis\.call)\(\s*['"](\w+)['"]""", path.read_text())
    }
    assert calls > {"get", "hset", "zadd"}
    assert calls <= set(redis_access.ROLES["bridge"])


def test_only_bridges_write_the_projection() -> None:
    writing = set(redis_access.ROLES["bridge"]) - set(redis_access.ROLES["api"])
    assert {"set", "del", "hset", "zadd", "unlink"} <= writing
    assert redis_access.ROLES["api"] == redis_access.ROLES["worker"]
    assert not [
        command for command in redis_access.ROLES["bridge"] if command in {"eval", "flushall", "keys"}
    ]


def test_the_access_file_lets_nobody_in_without_a_name_and_holds_no_password() -> None:
    passwords = {name: f"pass word/{name}>" for name in redis_access.ROLES}
    lines = redis_access.acl_file(passwords).splitlines()
    assert lines[0] == "user default off resetchannels -@all"
    for line in lines:
        assert line.split()[:1] == ["user"]
        assert " -@all" in line
        # A rule that takes everything anew would stand behind what was taken away.
        assert not re.search(r"\+@|allcommands|allkeys|~\* ", line)
    for name, password in passwords.items():
        assert password not in "".join(lines)
        [line] = [line for line in lines if line.startswith(f"user {name} ")]
        assert f" #{hashlib.sha256(password.encode()).hexdigest()} " in line
        assert " ~pisync:* " in line
    [health] = [line for line in lines if " nopass " in line]
    assert health == f"user {redis_access.HEALTH} on nopass resetchannels -@all +ping"
