"""Options that several commands share, declared once: the api, filters, and how rows are shown.

A group of options is a function whose parameters are the options, and which returns what they mean together.
`@takes(name=group)` gives a command all options of the group, and the command gets the result as `name`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from pisync.domain.device_status import Status
from pisync.stores.interfaces.events import OutcomeFilter

if TYPE_CHECKING:
    from cli.api_client import ApiClient

Command = TypeVar("Command", bound=Callable[..., None])

API: Final = "The api"
FILTERS: Final = "Which devices"
SHOWN: Final = "How it is shown"
MOMENT: Final = "such as 2026-05-08T12:00:00Z or 7d"

Url = Annotated[
    str | None,
    typer.Option(
        help="Address of the api; without it, what PISYNC_HTTP_HOST and PISYNC_HTTP_PORT say, or"
        " http://127.0.0.1:8080.",
        show_default=False,
        rich_help_panel=API,
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        help="Key of the api; without it, the first in PISYNC_API_KEYS, which other users of this machine"
        " cannot see.",
        show_default=False,
        rich_help_panel=API,
    ),
]


def takes(**groups: Callable[..., Any]) -> Callable[[Command], Command]:
    """Give a command the options of these groups, behind its own."""

    def give(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [each for name, each in signature.parameters.items() if name not in groups]
        given = {name: inspect.signature(group, eval_str=True).parameters for name, group in groups.items()}

        @wraps(command)
        def run(**values: Any) -> None:
            for name, group in groups.items():
                values[name] = group(**{option: values.pop(option) for option in given[name]})
            command(**values)

        options = [
            each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for each in [*own, *(each for group in given.values() for each in group.values())]
        ]
        run.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in options}
        return run  # type: ignore[return-value]

    return give


def without(group: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """A group of options that lacks some, which are then as where they are not given."""

    def given(**values: Any) -> Any:
        return group(**values)

    own = inspect.signature(group, eval_str=True)
    others = [each for name, each in own.parameters.items() if name not in names]
    given.__signature__ = own.replace(parameters=others)  # type: ignore[attr-defined]
    return given


@dataclass(frozen=True, kw_only=True, slots=True)
class Api:
    """Where the api is, and the key that opens it; None: as the settings say."""

    url: str | None
    key: str | None

    def connect(self, *, waits: bool = True) -> "ApiClient":
        """A client, for use in a `with`; it waits for an api that still reads the fleet, or does not.

        Raises:
            ConfigurationError: the URL or a setting is wrong.
        """
        from cli.api_client import connect  # noqa: PLC0415 - a command that does not ask the api needs none

        return connect(self.url, self.key, waits=waits)


def api(*, url: Url = None, key: Key = None) -> Api:
    """The api that is asked."""
    return Api(url=url, key=key)


class Shape(StrEnum):
    """How rows are shown."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


AsJson = Annotated[
    bool,
    typer.Option("--json", help="The api's own rows as JSON, and nothing else.", rich_help_panel=SHOWN),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """How rows of a list are shown, and how many; None: all of them."""

    shape: Shape
    limit: int | None


def shown(
    *,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Rows, at most.", rich_help_panel=SHOWN)] = 50,
    every: Annotated[bool, typer.Option("--all", help="All rows.", rich_help_panel=SHOWN)] = False,
    as_json: AsJson = False,
    as_csv: Annotated[
        bool,
        typer.Option(
            "--csv",
            help="CSV with a header; what a spreadsheet would calculate is harmless.",
            rich_help_panel=SHOWN,
        ),
    ] = False,
) -> Shown:
    """How many rows are shown, and how."""
    if as_json and as_csv:
        raise typer.BadParameter("give either --json or --csv")
    shape = Shape.JSON if as_json else Shape.CSV if as_csv else Shape.TABLE
    return Shown(shape=shape, limit=None if every else limit)


class Order(StrEnum):
    """The direction of a sort."""

    ASCENDING = "asc"
    DESCENDING = "desc"


Direction = Annotated[
    Order | None,
    typer.Option(
        "--order",
        help="Its direction; without it, ids and names ascending, and figures and times descending.",
        show_default=False,
        rich_help_panel=SHOWN,
    ),
]


class DeviceType(StrEnum):
    """The kinds of devices."""

    PIBOOK = "PiBook"
    PIBOX = "PiBox"


class Retired(StrEnum):
    """Whether retired devices are meant."""

    NO = "false"
    ONLY = "true"
    ANY = "any"


def filters(
    *,
    state: Annotated[
        list[Status] | None,
        typer.Option(
            help="Only devices in this state; may be given several times.",
            show_default=False,
            rich_help_panel=FILTERS,
        ),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(
            help="Only devices of this site, by its id; `-`: of none.",
            show_default=False,
            rich_help_panel=FILTERS,
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="Only devices with this label.", show_default=False, rich_help_panel=FILTERS),
    ] = None,
    type_: Annotated[
        DeviceType | None,
        typer.Option(
            "--type", help="Only devices of this kind.", show_default=False, rich_help_panel=FILTERS
        ),
    ] = None,
    cause: Annotated[
        str | None,
        typer.Option(
            help="Only devices that fail now, by this code; `-`: without a code.",
            show_default=False,
            rich_help_panel=FILTERS,
        ),
    ] = None,
    q: Annotated[
        str | None,
        typer.Option(
            help="Only devices whose id or name begins so.", show_default=False, rich_help_panel=FILTERS
        ),
    ] = None,
    heard_before: Annotated[
        str | None,
        typer.Option(
            help=f"Only devices last heard before this moment, by our clock, {MOMENT}.",
            show_default=False,
            rich_help_panel=FILTERS,
        ),
    ] = None,
    heard_after: Annotated[
        str | None,
        typer.Option(
            help=f"Only devices last heard from this moment on, {MOMENT}.",
            show_default=False,
            rich_help_panel=FILTERS,
        ),
    ] = None,
    muted: Annotated[
        bool | None,
        typer.Option(
            "--muted/--not-muted",
            help="Only devices that are muted, or only the others.",
            show_default=False,
            rich_help_panel=FILTERS,
        ),
    ] = None,
    retired: Annotated[
        Retired | None,
        typer.Option(
            help="Whether retired devices are meant; without it, they are not.",
            show_default=False,
            rich_help_panel=FILTERS,
        ),
    ] = None,
) -> dict[str, Any]:
    """Which devices are meant, as parameters of the api."""
    return {
        "state": state or None,
        "site": site,
        "label": label,
        "type": type_,
        "cause": cause,
        "q": q,
        "heard_before": heard_before,
        "heard_after": heard_after,
        "muted": muted,
        "retired": retired,
    }


Since = Annotated[
    str | None,
    typer.Option(
        help=f"Only syncs from this moment on, by the device's clock, {MOMENT}.", show_default=False
    ),
]
Until = Annotated[
    str | None,
    typer.Option(help=f"Only syncs before this moment, by the device's clock, {MOMENT}.", show_default=False),
]
OnlyOutcome = Annotated[
    OutcomeFilter | None, typer.Option("--outcome", help="Only syncs that went so.", show_default=False)
]
DeviceId = Annotated[str, typer.Argument(metavar="ID", help="The device's id.", show_default=False)]


def syncs(*, since: Since = None, until: Until = None, outcome: OnlyOutcome = None) -> dict[str, Any]:
    """Which syncs of a device are meant, as parameters of the api."""
    return {"since": since, "until": until, "outcome": outcome}
