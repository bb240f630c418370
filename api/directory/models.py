"""The models of the directory's bodies and answers, and their examples."""

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from api import models
from api.models import NextUrl
from pisync import limits
from pisync.domain.directory import CONTROL_CHARACTERS, HOLIDAY_PATTERN, WEEKDAYS, Kind

_TEXT: Final = f"^[^{CONTROL_CHARACTERS}]*$"

Name = Annotated[
    str,
    Field(pattern=_TEXT, max_length=limits.DIRECTORY_NAME_CHARS_MAX, examples=["Kampala Primary, room 2"]),
]
Note = Annotated[str, Field(pattern=_TEXT, max_length=limits.DIRECTORY_NOTE_CHARS_MAX)]
Label = Annotated[
    str,
    Field(pattern=f"^[^{CONTROL_CHARACTERS};]*$", min_length=1, max_length=limits.DIRECTORY_LABEL_CHARS_MAX),
]
Labels = Annotated[
    list[Label],
    Field(
        max_length=limits.DIRECTORY_LABELS_MAX,
        description="A set: told in an order of its own, each once. In CSV with `;` between them.",
        examples=[["pilot", "solar"]],
    ),
]


class _Members(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DeviceMembers(_Members):
    """What operators say of a device. A member that a `PUT` leaves out, or that is null, says nothing."""

    device_id: Annotated[
        models.DeviceId | None, Field(description="Where it is given, the one in the path.")
    ] = None
    name: Name | None = ""
    site: Annotated[
        models.DeviceId | None, Field(description="The id of a site of the directory.", examples=["S-17"])
    ] = None
    labels: Labels | None = []
    note: Note | None = ""
    habit_days: Annotated[
        int | None,
        Field(
            ge=1,
            le=limits.DIRECTORY_HABIT_DAYS_MAX,
            description="Silent for longer than so many days is overdue, in place of what is learned.",
        ),
    ] = None
    muted_until: Annotated[
        datetime | None, Field(description="RFC 3339. Nobody is told of the device until then.")
    ] = None
    retired: Annotated[bool | None, Field(description="It is not missed.")] = False


class SiteMembers(_Members):
    """What operators say of a site. A member that a `PUT` leaves out, or that is null, says nothing."""

    site_id: Annotated[
        models.DeviceId | None, Field(description="Where it is given, the one in the path.")
    ] = None
    name: Name | None = ""
    time_zone: Annotated[
        str | None,
        Field(description="A name of the IANA database.", examples=["Africa/Kampala"]),
    ] = "UTC"
    days_off: Annotated[
        list[Annotated[str, WithJsonSchema({"type": "string", "enum": list(WEEKDAYS)})]] | None,
        Field(max_length=len(WEEKDAYS), description="A set. Devices are not expected on these days."),
    ] = []
    holidays: Annotated[
        list[Annotated[str, Field(pattern=f"^{HOLIDAY_PATTERN}$")]] | None,
        Field(
            max_length=limits.DIRECTORY_HOLIDAYS_MAX,
            description="A set of dates, or of first and last dates, in the site's time zone.",
            examples=[["2026-12-20/2027-01-05"]],
        ),
    ] = []
    note: Note | None = ""
    labels: Labels | None = []


class _Told(BaseModel):
    version: Annotated[int, Field(ge=1, description="Each change adds one; the `ETag` holds it.")]
    changed_at: Annotated[datetime, Field(description="By MongoDB's clock.")]


class DeviceEntry(_Told):
    """A device of the directory."""

    device_id: models.DeviceId
    name: str
    site: str | None
    labels: list[str]
    note: str
    habit_days: int | None
    muted_until: datetime | None
    retired: bool


class SiteEntry(_Told):
    """A site of the directory."""

    site_id: models.DeviceId
    name: str
    time_zone: str
    days_off: list[str]
    holidays: list[str]
    note: str
    labels: list[str]


class DirectoryDevices(BaseModel):
    """A page of devices, by their ids."""

    devices: list[DeviceEntry]
    next: NextUrl


class DirectorySites(BaseModel):
    """A page of sites, by their ids."""

    sites: list[SiteEntry]
    next: NextUrl


EXAMPLES: Final[dict[Kind, dict[str, Any]]] = {
    Kind.DEVICES: {
        "name": "Kampala Primary, room 2",
        "site": "S-17",
        "labels": ["pilot", "solar"],
        "note": "Behind the blackboard.",
        "habit_days": 7,
        "muted_until": "2026-05-08T12:00:00.000Z",
        "retired": False,
    },
    Kind.SITES: {
        "name": "Kampala Primary",
        "time_zone": "Africa/Kampala",
        "days_off": ["saturday", "sunday"],
        "holidays": ["2026-12-20/2027-01-05"],
        "note": "",
        "labels": ["urban"],
    },
}
