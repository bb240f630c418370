"""The directory: what operators say of devices and sites."""

from datetime import date, datetime
from enum import StrEnum

import msgspec


class Kind(StrEnum):
    """What an entry is about."""

    DEVICES = "devices"
    SITES = "sites"


class DirectoryDevice(msgspec.Struct, frozen=True, kw_only=True):
    """What operators say of a device.

    `site` is the id of the site where it stands; `habit_days`: silent for longer is overdue, in place of what
    is learned; until `muted_until` nobody is told of it; one that is `retired` is not missed.
    """

    device_id: str
    name: str = ""
    site: str | None = None
    labels: tuple[str, ...] = ()
    note: str = ""
    habit_days: int | None = None
    muted_until: datetime | None = None
    retired: bool = False


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What operators say of a site.

    On `days_off`, names of weekdays, and in `holidays`, each a date or `first/last` in the site's time zone,
    its devices are not expected.
    """

    site_id: str
    name: str = ""
    time_zone: str = "UTC"
    days_off: tuple[str, ...] = ()
    holidays: tuple[str, ...] = ()
    note: str = ""
    labels: tuple[str, ...] = ()

    def holiday_ranges(self) -> list[tuple[date, date]]:
        """The holidays as first and last day."""
        parts = [holiday.partition("/") for holiday in self.holidays]
        return [(date.fromisoformat(first), date.fromisoformat(last or first)) for first, _, last in parts]


Entry = DirectoryDevice | Site
