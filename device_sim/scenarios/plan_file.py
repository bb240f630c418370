"""Reads a scenario's file into a plan, and checks each name that stands in it against what has that name."""

import tomllib
from collections.abc import Mapping
from typing import Any, Final, Literal, cast

from device_sim.scenario import DEVICES_MAX, Faults
from device_sim.scenarios.payloads import PAYLOADS
from device_sim.scenarios.plan import (
    Cause,
    Clock,
    DeviceGroup,
    Failing,
    Habit,
    Interruption,
    Line,
    Plan,
    SiteGroup,
)
from device_sim.scenarios.reading import (
    DAY_MS,
    Relative,
    Table,
    Window,
    before_end,
    boolean,
    exactly_one,
    hundredths,
    many,
    moment,
    one_of,
    share,
    signed_span,
    span,
    text,
    time_of_day,
    weekday,
    whole,
    whole_range,
    window,
)
from pisync import limits
from pisync.domain import topics
from pisync.domain.directory import WEEKDAYS, read_label, read_time_zone
from pisync.errors import ConfigurationError

SITES_MAX: Final = 2000
SYNCS_MAX: Final = 50
SPOOL_EVENTS_MAX: Final = 1_000_000
ALL_DAY: Final[tuple[Window, ...]] = ((0, DAY_MS),)


def read_plan(source: str, *, name: str, file: str) -> Plan:
    """The plan that a file holds.

    Raises:
        ConfigurationError: the file is no TOML, or says something that is not known or not possible.
    """
    try:
        members = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file}: is no TOML: {error}") from None
    return _Reading(Table(members, file=file, where="top")).plan(name)


class _Reading:
    """Reads a file from its names to what uses them."""

    def __init__(self, top: Table) -> None:
        self._top = top
        self._zone = top.take("time_zone", read_time_zone, "UTC")
        self._causes = {name: _cause(table) for name, table in top.named("causes").items()}
        self._clocks = {name: _clock(table) for name, table in top.named("clocks").items()}
        self._habits = {name: _habit(table) for name, table in top.named("habits").items()}
        self._lines = {name: self._line(table) for name, table in top.named("lines").items()}

    def plan(self, name: str) -> Plan:
        top = self._top
        sites = tuple(map(self._site, top.tables("sites")))
        if sum(site.count for site in sites) > SITES_MAX:
            top.refuse("sites", f"must be at most {SITES_MAX} together")
        site_ids = [site.id for site in sites]
        if len(set(site_ids)) != len(site_ids):
            top.refuse("sites", "must each have an id of their own")
        groups = tuple(self._group(table, site_ids) for table in top.tables("devices"))
        if not groups:
            top.refuse("devices", "is missing; there must be a table [[devices]] for each kind of device")
        end_ms = top.take("end", moment, None) if top.has("end") else None
        plan = Plan(
            name=name,
            about=top.take("about", text),
            devices=top.take("fleet", whole(1, DEVICES_MAX)),
            span_ms=top.take("span", span),
            end_ms=end_ms,
            ends_at_ms=top.take("ends_at", time_of_day) if top.has("ends_at") else None,
            ends_on=top.take("ends_on", many(weekday), WEEKDAYS),
            time_zone=self._zone,
            sites=sites,
            groups=groups,
            causes=self._causes,
        )
        if not plan.ends_on:
            top.refuse("ends_on", "must hold a day")
        if not any(group.share for group in groups) and plan.counted != plan.devices:
            top.refuse("fleet", f"must be {plan.counted}, because each kind of device has a count")
        top.end()
        return plan

    def _line(self, table: Table) -> Line:
        line = Line(
            speed=table.take("mbit", hundredths, Line().speed),
            outages=_interruptions(table, "outages"),
            cause=table.take("cause", one_of(self._causes)) if table.has("cause") else None,
            back_within_ms=table.take("back_within", span, Line().back_within_ms),
        )
        table.end()
        return line

    def _site(self, table: Table) -> SiteGroup:
        site = SiteGroup(
            id=table.take("id", _site_id),
            name=table.take("name", text),
            count=table.take("count", whole(1, SITES_MAX), 1),
            time_zone=table.take("time_zone", read_time_zone, self._zone),
            days_off=table.take("days_off", many(weekday), ("saturday", "sunday")),
            holidays=table.take("holidays", many(_holiday), ()),
            line=self._lines[name] if (name := self._named(table, "line", self._lines)) else Line(),
            power_cuts=_interruptions(table, "power_cuts"),
            labels=table.take("labels", many(read_label), ()),
        )
        table.end()
        return site

    def _named(self, table: Table, member: str, known: Mapping[str, Any]) -> str | None:
        return table.take(member, one_of(known)) if table.has(member) else None

    def _group(self, table: Table, site_ids: list[str]) -> DeviceGroup:
        by_share = exactly_one(table, ("share", "count")) == "share"
        connects = table.take("connects", _connects, _connects("at once"))
        clock = self._named(table, "clock", self._clocks)
        group = DeviceGroup(
            name=table.take("name", text),
            share=table.take("share", share) if by_share else 0,
            count=0 if by_share else table.take("count", whole(1, DEVICES_MAX)),
            device_type=cast("Literal['PiBook', 'PiBox']", table.take("type", _TYPE, "PiBook")),
            sites=table.take("sites", many(one_of(site_ids)), tuple(site_ids)),
            habit=self._habits[table.take("habit", one_of(self._habits))],
            fails=tuple(map(self._failing, table.tables("fails"))),
            connects_every_ms=connects[0],
            connects_at_ms=connects[1],
            resends=table.take("resends", share, 0.0),
            array_events=table.take("array_events", whole(1, limits.MESSAGE_EVENTS_MAX), 50),
            spool_events_max=table.take("spool_events_max", whole(1, SPOOL_EVENTS_MAX))
            if table.has("spool_events_max")
            else None,
            tokens=table.take("tokens", boolean, False),
            clock=None if clock is None else self._clocks[clock],
            payloads=_payloads(table),
            faults=_faults(table),
            firmware=table.take("firmware", text) if table.has("firmware") else None,
            from_ms=table.take("from", before_end) if table.has("from") else None,
            until_ms=table.take("until", before_end, 0),
            listed=table.take("listed", boolean, True),
            labels=table.take("labels", many(read_label), ()),
        )
        if by_share and not group.share:
            table.refuse("share", "must be more than 0")
        table.end()
        return group

    def _failing(self, table: Table) -> Failing:
        failing = Failing(
            cause=table.take("cause", one_of(self._causes)),
            share=table.take("share", share),
            from_ms=table.take("from", before_end) if table.has("from") else None,
            until_ms=table.take("until", before_end, 0),
        )
        table.end()
        return failing


_TYPE: Final = one_of(("PiBook", "PiBox"))


def _site_id(value: Any) -> str:
    if not isinstance(value, str) or not topics.is_device_id(f"{value}-0000"):
        raise ValueError(f"must be the beginning of ids: {topics.DEVICE_ID_RULE}")
    return value


def _holiday(value: Any) -> tuple[Relative, Relative]:
    first, _, last = value.partition("/") if isinstance(value, str) else ("", "", "")
    begins, ends = before_end(first), before_end(last)
    if begins > ends:
        raise ValueError("must begin before it ends, such as -20d/-10d")
    return begins, ends


def _connects(value: Any) -> tuple[int, int | None]:
    if isinstance(value, str) and value.startswith("every "):
        return span(value.removeprefix("every ")), None
    if value == "at once":
        return 0, None
    try:
        return 0, time_of_day(value)
    except ValueError:
        raise ValueError('must be "at once", "every 3d" or a time of day such as "22:00"') from None


def _interruptions(table: Table, name: str) -> tuple[Interruption, ...]:
    return tuple(map(_interruption, table.tables(name)))


def _interruption(table: Table) -> Interruption:
    match exactly_one(table, ("from", "at", "every")):
        case "from":
            found = Interruption(
                from_ms=table.take("from", before_end), until_ms=table.take("until", before_end, 0)
            )
            if found.from_ms >= found.until_ms:
                table.refuse("until", "must be after `from`")
        case "at":
            found = Interruption(at=table.take("at", window), share=table.take("share", share, 1.0))
        case _:
            found = Interruption(every_ms=table.take("every", span), lasts_ms=table.take("lasts", span))
            if found.lasts_ms > found.every_ms:
                table.refuse("lasts", "must be shorter than `every`")
    table.end()
    return found


def _habit(table: Table) -> Habit:
    habit = Habit(
        days=table.take("days", _days, None),
        every_days=table.take("every_days", whole(1, 400), 1),
        at=table.take("at", many(window), ALL_DAY),
        syncs=table.take("syncs", whole_range(0, SYNCS_MAX), (1, 1)),
        share=table.take("share", share, 1.0),
    )
    if not habit.at:
        table.refuse("at", "must hold a part of a day")
    table.end()
    return habit


def _days(value: Any) -> tuple[str, ...] | None:
    if value == "school":
        return None
    if value == "all":
        return WEEKDAYS
    try:
        return many(weekday)(value)
    except ValueError:
        raise ValueError('must be "school", "all" or a list of weekdays such as ["monday"]') from None


def _cause(table: Table) -> Cause:
    cause = Cause(
        code=table.take("code", _any_text),
        message=table.take("message", _any_text, ""),
        errors=table.take("errors", whole_range(1, limits.ERRORS_KEPT_MAX), (1, 1)),
        files=table.take("files", share, 0.0),
    )
    table.end()
    return cause


def _any_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text, or empty")  # noqa: TRY004 - readers raise ValueErrors
    return value


def _clock(table: Table) -> Clock:
    clock = Clock(
        offset_ms=table.take("offset", signed_span, 0),
        drift_ms=table.take("drift_a_day", signed_span, 0),
        boots_at_ms=table.take("boots_at", moment) if table.has("boots_at") else None,
        from_ms=table.take("from", before_end) if table.has("from") else None,
        until_ms=table.take("until", before_end, 0),
    )
    if (clock.boots_at_ms is not None) + bool(clock.offset_ms or clock.drift_ms) != 1:
        table.refuse("boots_at", "must be there, or else `offset` or `drift_a_day`")
    table.end()
    return clock


def _payloads(table: Table) -> tuple[str, ...]:
    if not table.has("payloads"):
        return ()
    return table.take("payloads", _payload_names)


def _payload_names(value: Any) -> tuple[str, ...]:
    return tuple(PAYLOADS) if value == "all" else many(one_of(PAYLOADS))(value)


def _faults(table: Table) -> Faults:
    if not table.has("faults"):
        return Faults()
    inner: Table = table.take(
        "faults", lambda value: Table(value, file=table.file, where=f"{table.where}.faults")
    )
    none = Faults()
    found = {name: inner.take(name, share, getattr(none, name)) for name in Faults.__dataclass_fields__}
    inner.end()
    return Faults(**found)
