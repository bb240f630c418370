"""The broker's list of devices becomes the credentials that there are, whatever happens in between."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pisync import clock, limits
from pisync.domain.credentials import Kind
from pisync.errors import BrokerUnavailable, MongodbUnavailable, PublishRefused
from tests.support import virtual_time
from tests.support.credentials import MemoryAccessList, MemoryCredentials
from tests.support.samples import NOW
from worker.access_credentials import Access, ActiveCredentials
from worker.broker_access import BrokerAccess

SOON_S = 3 * limits.BROKER_ACCESS_INTERVAL_S
ALL_AGAIN_S = limits.BROKER_ACCESS_COMPARED_S + limits.BACKOFF_CAP_S + SOON_S


@asynccontextmanager
async def at_work(credentials: MemoryCredentials, broker: MemoryAccessList) -> AsyncIterator[BrokerAccess]:
    duty = BrokerAccess(credentials, broker)
    working = asyncio.create_task(duty.run())
    try:
        yield duty
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working


class SlowList(MemoryAccessList):
    """Stands still for some time at each change, and knows for how long it did in all."""

    def __init__(self, *device_ids: str, takes_s: float, at_once: int = 1) -> None:
        super().__init__(*device_ids, at_once=at_once)
        self.takes_s = takes_s
        self.busy_s = 0.0

    async def allow(self, device_ids: Sequence[str]) -> int:
        await self._work()
        return await super().allow(device_ids)

    async def remove(self, device_ids: Sequence[str]) -> int:
        await self._work()
        return await super().remove(device_ids)

    async def _work(self) -> None:
        self.busy_s += self.takes_s
        await asyncio.sleep(self.takes_s)


EVENTS = st.one_of(
    st.tuples(st.sampled_from(["issue", "revoke"]), st.sampled_from(["PB-1", "PB-2", "PB-3"])),
    st.tuples(st.sampled_from(["lose", "away", "back", "strange", "wait"]), st.just("")),
)


@settings(max_examples=60)
@given(events=st.lists(EVENTS, max_size=12), at_once=st.sampled_from([1, 200]))
def test_the_list_becomes_the_credentials_in_any_order_of_changes_and_losses(
    events: list[tuple[str, str]], at_once: int
) -> None:
    async def main() -> None:
        credentials, broker = MemoryCredentials(), MemoryAccessList("PB-9", at_once=at_once)
        credentials.issue("PB-0")
        async with at_work(credentials, broker) as duty:
            for kind, device_id in events:
                match kind:
                    case "issue":
                        credentials.issue(device_id)
                    case "revoke":
                        credentials.revoke(device_id)
                    case "lose":
                        broker.lose()
                    case "away":
                        broker.error = BrokerUnavailable("away")
                    case "back":
                        broker.error = None
                    case "strange":  # by somebody else, and nothing tells of it
                        broker.devices = (broker.devices | {"PB-8"}) - {"PB-0"}
                    case _:
                        await asyncio.sleep(SOON_S)
            broker.error = None
            await asyncio.sleep(ALL_AGAIN_S)
            assert broker.devices == credentials.active()
            assert duty.devices == len(broker.devices)
            assert duty.waiting == 0
            assert duty.lag_s() <= limits.BROKER_ACCESS_INTERVAL_S

    virtual_time.run(main)


def test_a_device_that_is_revoked_is_out_within_seconds_while_thousands_wait_to_be_let_in() -> None:
    async def main() -> None:
        credentials, broker = MemoryCredentials(), SlowList("PB-1", takes_s=0.1)
        credentials.issue("PB-1", *(f"PX-{number}" for number in range(5000)))
        async with at_work(credentials, broker) as duty:
            await asyncio.sleep(10)
            assert duty.waiting > 4000
            credentials.revoke("PB-1")
            await asyncio.sleep(SOON_S)
            assert "PB-1" not in broker.devices
            assert duty.waiting > 4000

    virtual_time.run(main)


def test_the_broker_has_three_quarters_of_its_time_for_others() -> None:
    async def main() -> None:
        credentials, broker = MemoryCredentials(), SlowList(takes_s=0.1)
        credentials.issue(*(f"PX-{number}" for number in range(5000)))
        async with at_work(credentials, broker):
            await asyncio.sleep(100)
        assert 0.2 < broker.busy_s / 100 < 0.27

    virtual_time.run(main)


def test_a_broker_that_writes_its_list_once_a_message_is_told_many_at_once() -> None:
    async def main() -> None:
        credentials, broker = MemoryCredentials(), MemoryAccessList(at_once=200)
        credentials.issue(*(f"PX-{number}" for number in range(450)))
        async with at_work(credentials, broker):
            await asyncio.sleep(SOON_S)
        assert [len(devices) for call, devices in broker.calls if call == "allow"] == [200, 200, 50]

    virtual_time.run(main)


def test_where_no_credentials_were_ever_written_no_device_is_put_out() -> None:
    async def main() -> None:
        credentials, broker = MemoryCredentials(), MemoryAccessList("PB-1", "PB-2")
        async with at_work(credentials, broker) as duty:
            await asyncio.sleep(60)
            assert broker.devices == {"PB-1", "PB-2"}
            assert not duty.was_equal
            credentials.issue("PB-1")
            await asyncio.sleep(ALL_AGAIN_S)
            assert broker.devices == {"PB-1"}

    virtual_time.run(main)


def test_where_mongodb_lost_most_credentials_nobody_is_put_out_but_those_revoked() -> None:
    async def main() -> None:
        fleet = [f"PB-{number}" for number in range(2 * limits.BROKER_ACCESS_STRANGE_MAX)]
        credentials, broker = MemoryCredentials(), MemoryAccessList(*fleet)
        credentials.issue("PB-0", "PB-1", "PB-NEW")
        credentials.revoke("PB-1")
        async with at_work(credentials, broker) as duty:
            await asyncio.sleep(ALL_AGAIN_S)
            assert broker.devices == {*fleet, "PB-NEW"} - {"PB-1"}
            assert not duty.was_equal
            credentials.issue(*fleet[2:])  # from a backup
            credentials.revoke(*fleet[2:])
            await asyncio.sleep(ALL_AGAIN_S)
            assert broker.devices == {"PB-0", "PB-NEW"}
            assert duty.was_equal

    virtual_time.run(main)


def test_a_few_devices_that_nobody_knows_are_put_out() -> None:
    async def main() -> None:
        strange = [f"PX-{number}" for number in range(limits.BROKER_ACCESS_STRANGE_MAX)]
        credentials, broker = MemoryCredentials(), MemoryAccessList("PB-1", *strange)
        credentials.issue("PB-1")
        async with at_work(credentials, broker):
            await asyncio.sleep(SOON_S)
            assert broker.devices == {"PB-1"}

    virtual_time.run(main)


def test_the_last_device_that_is_revoked_is_out_although_nobody_is_left() -> None:
    async def main() -> None:
        credentials, broker = MemoryCredentials(), MemoryAccessList("PB-1")
        credentials.issue("PB-1")
        async with at_work(credentials, broker):
            credentials.revoke("PB-1")
            await asyncio.sleep(SOON_S)
            assert broker.devices == set()

    virtual_time.run(main)


def test_a_broker_that_lost_its_list_has_it_again_as_soon_as_it_is_back() -> None:
    async def main() -> None:
        credentials, broker = MemoryCredentials(), MemoryAccessList()
        credentials.issue("PB-1", "PB-2")
        async with at_work(credentials, broker):
            await asyncio.sleep(SOON_S)
            broker.lose()
            await asyncio.sleep(SOON_S)
            assert broker.devices == {"PB-1", "PB-2"}

    virtual_time.run(main)


def test_what_is_left_of_a_device_by_a_worker_that_was_killed_goes() -> None:
    async def main() -> None:
        credentials, broker = MemoryCredentials(), MemoryAccessList("PB-1")
        credentials.issue("PB-1")
        broker.left = {"PB-7"}
        async with at_work(credentials, broker):
            await asyncio.sleep(SOON_S)
            assert broker.left == set()
            assert broker.devices == {"PB-1"}

    virtual_time.run(main)


def test_an_account_without_the_right_is_told_and_asked_again() -> None:
    async def main() -> None:
        credentials, broker = MemoryCredentials(), MemoryAccessList()
        credentials.issue("PB-1")
        broker.error = PublishRefused(0x87)
        async with at_work(credentials, broker) as duty:
            await asyncio.sleep(SOON_S)
            assert duty.refusal == "The MQTT broker refused a message: 0x87."
            broker.error = BrokerUnavailable("away")
            await asyncio.sleep(2 * limits.BACKOFF_CAP_S)
            assert duty.refusal is None
            broker.error = None
            await asyncio.sleep(limits.BACKOFF_CAP_S + SOON_S)
            assert duty.refusal is None
            assert broker.devices == {"PB-1"}

    virtual_time.run(main)


def test_a_device_that_the_broker_did_not_take_keeps_the_list_unequal_and_is_tried_again() -> None:
    async def main() -> None:
        credentials, broker = MemoryCredentials(), MemoryAccessList()
        credentials.issue("PB-1", "PB-2")
        broker.refused = {"PB-2"}
        async with at_work(credentials, broker) as duty:
            await asyncio.sleep(SOON_S)
            assert (broker.devices, duty.failed, duty.changed) == ({"PB-1"}, 1, 1)
            assert not duty.was_equal
            broker.refused = set()
            await asyncio.sleep(ALL_AGAIN_S)
            assert broker.devices == {"PB-1", "PB-2"}
            assert duty.was_equal

    virtual_time.run(main)


def test_what_is_not_known_changes_nothing() -> None:
    async def main() -> None:
        credentials, broker = MemoryCredentials(), MemoryAccessList("PB-1")
        credentials.is_away = True
        with pytest.raises(MongodbUnavailable):
            await BrokerAccess(credentials, broker).run()
        assert broker.devices == {"PB-1"}

    virtual_time.run(main)


def test_a_credential_that_ended_is_no_change_and_is_found_by_the_next_comparison() -> None:
    async def main() -> None:
        credentials, broker = MemoryCredentials(), MemoryAccessList("PB-1", "PB-2")
        credentials.issue("PB-1", days=0)
        credentials.issue("PB-2")
        async with at_work(credentials, broker):
            await asyncio.sleep(ALL_AGAIN_S)
            assert broker.devices == {"PB-2"}

    virtual_time.run(main)


def test_a_device_with_a_password_alone_stays_where_it_is_and_is_no_fault_of_the_others() -> None:
    """MongoDB has a hash of it, and the broker's commands take none."""

    async def main() -> None:
        credentials, broker = MemoryCredentials(), MemoryAccessList("PB-1")
        credentials.issue("PB-1", "PB-2", kind=Kind.PASSWORD)
        credentials.issue("PB-3")
        async with at_work(credentials, broker) as duty:
            await asyncio.sleep(SOON_S)
            assert broker.devices == {"PB-1", "PB-3"}
            assert not duty.was_equal
            credentials.revoke("PB-1", "PB-2")
            await asyncio.sleep(SOON_S)
            assert broker.devices == {"PB-3"}

    virtual_time.run(main)


def test_a_change_is_read_once_and_not_again_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: NOW + timedelta(seconds=asyncio.get_running_loop().time()))

    async def main() -> None:
        credentials = MemoryCredentials()
        credentials.issue(*(f"PB-{number}" for number in range(50)))
        reader = ActiveCredentials(credentials)
        await reader.all()
        assert len(await reader.changes()) == 50  # those of before, which may have been written meanwhile
        assert await reader.changes() == {}
        await asyncio.sleep(limits.BROKER_ACCESS_OVERLAP_S + 1)
        await reader.changes()
        read = [kept async for kept in credentials.changed_since(reader._since)]
        assert read == []
        credentials.revoke("PB-7")
        assert await reader.changes() == {"PB-7": Access.NONE}
        assert await reader.changes() == {}

    virtual_time.run(main)
