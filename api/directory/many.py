"""A change of many devices of the directory as one action: each entry as it is when it is written."""

from collections.abc import Callable, Collection, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from starlette.exceptions import HTTPException

from api.directory.changes import new_action, told_why
from api.state import State
from pisync import limits, logs
from pisync.domain import directory
from pisync.domain.actions import Action, Progress, What
from pisync.domain.directory import DirectoryDevice, Kind
from pisync.stores.interfaces import actions
from pisync.stores.interfaces.directory import EntryWrite

log = logs.get("api.directory")

# The entry of a device as it is to be.
Change = Callable[[DirectoryDevice], DirectoryDevice]
_KIND: Final = Kind.DEVICES


class Changed(NamedTuple):
    """What became of it; `action_id` None: nothing had to change."""

    changed: int
    action_id: str | None


async def change_many(  # noqa: C901 - one loop within another, nothing shared
    state: State, device_ids: Sequence[str], change: Change, *, who: str, why: str, details: dict[str, Any]
) -> Changed:
    """Make the change in each; one that is interrupted may be repeated.

    Raises:
        HTTPException: 503, others change these entries all the time.
    """
    action: Action | None = None
    changed, told = 0, list[dict[str, Any]]()
    waiting: Collection[str] = device_ids
    for _ in range(limits.DIRECTORY_CHANGE_TRIES):
        missed: list[str] = []
        every = list(waiting)
        for start in range(0, len(every), limits.DIRECTORY_BATCH):
            some = every[start : start + limits.DIRECTORY_BATCH]
            kept = await state.directory.get(_KIND, some)
            writes, differences = list[EntryWrite](), dict[str, actions.Change]()
            for device_id in some:
                found = kept.get(device_id)
                present = DirectoryDevice(device_id=device_id)
                if found is not None and not found.is_deleted and isinstance(found.entry, DirectoryDevice):
                    present = found.entry
                after = change(present)
                if after == present:
                    continue
                writes.append(EntryWrite(entry=after, version=0 if found is None else found.version))
                then, now = directory.differences(present, after)
                differences[device_id] = actions.Change(then or {}, now)
            if not writes:
                continue
            if action is None:
                meant = {**told_why(why), **details, "devices": len(device_ids)}
                action = new_action(who, What.PATCH, _KIND, None, details=meant)
                await state.actions.begin(action)
            await state.actions.keep_changes(action.action_id, differences)
            written = await state.directory.write(_KIND, writes, action.action_id)
            changed += len(written)
            missed += [each for each in differences if each not in written]
            told += [
                {"id": name, "before": each.before, "after": each.after}
                for name, each in differences.items()
                if name in written
            ]
            del told[limits.IMPORT_CHANGES_TOLD_MAX :]
        waiting = missed
        if not waiting:
            break
    if action is None:
        return Changed(0, None)
    progress = Progress.NOT_DONE if waiting and not changed else Progress.DONE
    told_all = {**action.details, "changed": changed, "changes": told}
    await state.actions.settle(action.action_id, progress, told_all)
    if waiting:
        raise HTTPException(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"Others change these entries all the time; {changed} are changed: repeat it for the rest.",
            {"Retry-After": str(limits.RETRY_AFTER_S)},
        )
    log.info("devices changed", action=action.action_id, changed=changed)
    return Changed(changed, action.action_id)
