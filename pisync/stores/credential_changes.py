"""Changes of devices' credentials, each made again where somebody else changed the same device meanwhile."""

from collections.abc import Callable, Collection, Mapping
from datetime import datetime

from pisync import limits
from pisync.domain import credentials as rules
from pisync.domain.credentials import Credential, DeviceCredentials, Standing
from pisync.stores.interfaces.credentials import CredentialStore, CredentialsWrite

Change = Callable[[DeviceCredentials], DeviceCredentials]


async def give(
    store: CredentialStore, credentials: Mapping[str, Credential], now: datetime, *, beside: bool
) -> dict[str, DeviceCredentials]:
    """Give devices a credential each; returns those that did not get it, as they are.

    `beside` one that is valid; otherwise a device that has one gets none, so that of two who issue for a
    device at once one does. What a device has already, it is given again.
    """
    refused: dict[str, DeviceCredentials] = {}

    def change(entry: DeviceCredentials) -> DeviceCredentials:
        credential = credentials[entry.device_id]
        changed = rules.added(entry, credential, now)
        if changed is entry:
            return entry
        is_taken = entry.standing(now) is Standing.ACTIVE and not beside
        if is_taken or not rules.has_room(entry, now):
            refused[entry.device_id] = entry
            return entry
        return changed

    await _change(store, credentials, change)
    return refused


async def revoke(
    store: CredentialStore,
    device_ids: Collection[str],
    *,
    by: str,
    now: datetime,
    only: Collection[str] | None = None,
) -> dict[str, DeviceCredentials]:
    """Revoke all credentials of devices, or `only` these; returns what is kept of each that ever had one.

    Nothing is made of those that never had one. May be repeated.
    """
    known = await store.get(device_ids)
    return await _change(store, known, lambda entry: rules.revoked(entry, by=by, now=now, only=only))


async def _change(
    store: CredentialStore, device_ids: Collection[str], change: Change
) -> dict[str, DeviceCredentials]:
    """Change these devices, some at a time; returns what is kept of them then."""
    done: dict[str, DeviceCredentials] = {}
    waiting = list(device_ids)
    while waiting:
        some, waiting = waiting[: limits.CREDENTIALS_AT_ONCE], waiting[limits.CREDENTIALS_AT_ONCE :]
        kept = await store.get(some)
        writes = []
        for device_id in some:
            present = kept.get(device_id)
            entry = DeviceCredentials(device_id=device_id) if present is None else present.entry
            done[device_id] = changed = change(entry)
            if changed != entry:
                writes.append(
                    CredentialsWrite(entry=changed, version=0 if present is None else present.version)
                )
        written = await store.write(writes)
        waiting += [write.entry.device_id for write in writes if write.entry.device_id not in written]
    return done
