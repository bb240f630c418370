"""Which user of Redis may do what: the access file (ACL) of a Redis that asks who somebody is.

A bridge is the only writer of the projection; api and worker read it. Nobody may look at other keys, and
nobody may change what Redis is set to. `ROLES` names each command that our stores send, those inside Lua
scripts too, because Redis asks for the same permission there.
"""

import hashlib
from collections.abc import Mapping
from typing import Final

KEYS: Final = "~pisync:*"
_CONNECTION: Final = (
    *("auth", "hello", "ping", "client|setname", "info", "time"),
    *("evalsha", "script|load"),
)
_READING: Final = (
    *("exists", "get", "getrange", "strlen", "scan"),
    *("hget", "hgetall", "hkeys", "hlen", "hmget", "hscan"),
    *("sismember", "smembers", "smismember", "sscan"),
    *("zcard", "zcount", "zmscore", "zrange", "zrangebyscore", "zrevrange", "zscan", "zscore"),
)
_WRITING: Final = (
    *("del", "expire", "set", "setrange", "unlink", "multi", "exec"),
    *("hdel", "hset", "hsetnx", "sadd", "srem", "zadd", "zrem"),
)
_READER: Final = (*_CONNECTION, *_READING)
_WRITER: Final = (*_READER, *_WRITING)

ROLES: Final[Mapping[str, tuple[str, ...]]] = {"bridge": _WRITER, "api": _READER, "worker": _READER}
"""The commands that each program's user may send."""

HEALTH: Final = "health"
"""A user without a password that may ask whether Redis is there, and nothing else; for probes."""


def acl_file(passwords: Mapping[str, str]) -> str:
    """The access file, in which a password stands as its SHA-256: random ones need no slow hash.

    Args:
        passwords: for each of `ROLES`, that of its user.
    """
    users = [
        f"user {name} on #{hashlib.sha256(passwords[name].encode()).hexdigest()} resetchannels {KEYS} -@all "
        + " ".join(f"+{command}" for command in commands)
        for name, commands in ROLES.items()
    ]
    nobody = "user default off resetchannels -@all"
    probe = f"user {HEALTH} on nopass resetchannels -@all +ping"
    return "".join(f"{line}\n" for line in (nobody, probe, *users))
