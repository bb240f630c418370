"""A rule of the tests' own, beside those that there are."""

from collections.abc import Collection, Sequence

import pytest

from pisync.domain.alerts import AlertChange, CloseReason, Rule


def another_rule(monkeypatch: pytest.MonkeyPatch, value: str = "test-only") -> Rule:
    """A member of `Rule` while the test lasts: an enumeration cannot be extended, and stores look it up."""
    member = str.__new__(Rule, value)
    member._name_, member._value_ = value.upper(), value
    monkeypatch.setitem(Rule._value2member_map_, value, member)
    return member


class NamedDevices:
    """A rule by which an alert is due for the devices that a test names; `confirmed` is what it was told."""

    opened = "device is named"
    closed = "device is named no longer"
    close_reason = CloseReason.RECOVERED

    def __init__(self, rule: Rule, devices: set[str]) -> None:
        self.rule = rule
        self.devices = devices
        self.confirmed: list[AlertChange] = []

    async def due(self, device_ids: Collection[str]) -> set[str]:
        return self.devices & set(device_ids)

    async def compare(self, open_devices: Collection[str]) -> list[AlertChange]:
        return [
            AlertChange(device_id=device_id, rule=self.rule, streak=0, opens=device_id in self.devices)
            for device_id in sorted(self.devices ^ set(open_devices))
        ]

    async def confirm(self, changes: Sequence[AlertChange]) -> list[AlertChange]:
        self.confirmed += changes
        return []
