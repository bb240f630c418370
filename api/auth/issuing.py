"""How a key comes to be and ends, each with its action: by the api's endpoints, and by `pisync keys`.

The action is written before the change, so that no key is there which nobody knows of.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from api.directory.changes import FaultyMembersError, new_action
from pisync import clock, limits, logs
from pisync.clock import rfc3339
from pisync.domain import access
from pisync.domain.access import Key, KeyParts, KeyState, Role
from pisync.domain.actions import About, Progress, What
from pisync.domain.directory import Fault
from pisync.stores.interfaces.actions import ActionStore
from pisync.stores.interfaces.keys import Creation, KeyStore

log = logs.get("api.keys")

_SECRET_BYTES: Final = 32
_ID_TRIES: Final = 3


class NameTakenError(Exception):
    """Another key has the name, and is not revoked."""


class Created(NamedTuple):
    """A key, and its text, which is told only once; whether it is the first that there ever was."""

    key: Key
    text: str
    is_first: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A key that somebody asks for."""

    who: str
    name: str
    roles: frozenset[Role]
    expires_at: datetime | None = None


async def create(keys: KeyStore, actions: ActionStore, wanted: Wanted) -> Created:
    """Make a key.

    Raises:
        FaultyMembersError: it would be expired, or there are too many.
        NameTakenError: its name is another's.
        MongodbUnavailable: it may be made or not; nobody has its text.
    """
    now = clock.now()
    there_are = await keys.all()
    faults = []
    if wanted.expires_at is not None and wanted.expires_at <= now:
        faults.append(Fault("expires_at", "must be a moment to come"))
    if sum(key.state(now) is not KeyState.REVOKED for key in there_are) >= limits.KEYS_MAX:
        faults.append(Fault(None, f"there are {limits.KEYS_MAX} keys already: revoke some"))
    if faults:
        raise FaultyMembersError(faults)
    for _ in range(_ID_TRIES):
        parts = _new_parts()
        key = Key(
            key_id=parts.key_id,
            name=wanted.name,
            roles=wanted.roles,
            digest=access.digest(parts.secret.encode()),
            created_at=now,
            created_by=wanted.who,
            expires_at=wanted.expires_at,
        )
        action = new_action(wanted.who, What.CREATE, About.KEYS, key.key_id, before=None, after=_members(key))
        await actions.begin(action)
        outcome = await keys.create(key)
        if outcome is Creation.CREATED:
            await actions.settle(action.action_id, Progress.DONE)
            log.info("key created", id=key.key_id, name=key.name, by=wanted.who)
            return Created(key, access.key_text(parts), is_first=not there_are)
        await actions.settle(action.action_id, Progress.NOT_DONE)
        if outcome is Creation.NAME_TAKEN:
            raise NameTakenError
    raise RuntimeError("random ids of keys are taken again and again")


async def revoke(keys: KeyStore, actions: ActionStore, *, who: str, key_id: str) -> Key | None:
    """Revoke a key for good, and return it; one that is revoked stays as it is. None: there is none.

    Raises:
        MongodbUnavailable: it may be revoked or not.
    """
    found = next((key for key in await keys.all() if key.key_id == key_id), None)
    if found is None or found.revoked_at is not None:
        return found
    state = {"state": found.state(clock.now())}
    action = new_action(
        who, What.REVOKE, About.KEYS, key_id, before=state, after={"state": KeyState.REVOKED.value}
    )
    await actions.begin(action)
    revoked = await keys.revoke(key_id, clock.now(), who)
    await actions.settle(action.action_id, Progress.DONE, {"name": found.name})
    log.info("key revoked", id=key_id, name=found.name, by=who)
    return revoked


def _new_parts() -> KeyParts:
    key_id = "".join(secrets.choice(access.KEY_ID_CHARACTERS) for _ in range(access.KEY_ID_CHARS))
    return KeyParts(key_id, secrets.token_urlsafe(_SECRET_BYTES))


def _members(key: Key) -> Mapping[str, Any]:
    return {
        "name": key.name,
        "roles": sorted(key.roles),
        "expires_at": None if key.expires_at is None else rfc3339(key.expires_at),
    }
