"""A scenario's file: what is wrong is said with the file, the table, the member and what was expected."""

from pathlib import Path

import pytest

from device_sim.scenarios import bundled
from device_sim.scenarios.plan import Plan
from device_sim.scenarios.plan_file import read_plan
from pisync.errors import ConfigurationError

GOOD = """
about = "Two kinds of devices"
fleet = 10
span = "2d"
time_zone = "Africa/Kampala"

[causes.timeout]
code = "E_TIMEOUT"

[lines.radio]
mbit = [0.1, 2]
cause = "timeout"
outages = [{ every = "6h", lasts = "1h" }]

[habits.daily]
at = ["08:00/12:00"]

[clocks.late]
offset = "-1h"

[[sites]]
id = "S"
name = "School"
line = "radio"

[[devices]]
name = "desk"
share = 0.9
habit = "daily"
fails = [{ cause = "timeout", share = 0.1 }]

[[devices]]
name = "server"
share = 0.1
type = "PiBox"
habit = "daily"
clock = "late"
faults = { duplicates = 0.1 }
"""


def read(text: str) -> Plan:
    return read_plan(text, name="mine", file="mine.toml")


def test_a_good_file_is_read() -> None:
    plan = read(GOOD)
    assert [group.name for group in plan.groups] == ["desk", "server"]
    assert plan.sites[0].line.speed == (10, 200)
    assert plan.sites[0].time_zone == "Africa/Kampala"
    assert plan.groups[1].faults.duplicates == 0.1
    assert plan.groups[1].clock is not None
    assert plan.groups[1].clock.offset_ms == -3_600_000


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ('span = "2d"', 'span = "2 days"', r"mine\.toml: top: span = '2 days': must be a span of time such"),
        ('span = "2d"', "", "top: span is missing; it must be a span of time"),
        ("fleet = 10", "flet = 10", "top: fleet is missing"),
        ("fleet = 10", "fleet = 10\ndevics = 3", "top: devics is not known here; did you mean 'devices'"),
        ("fleet = 10", "fleet = true", "fleet = True: must be a whole number from 1 to"),
        ("Africa/Kampala", "Africa/Kampla", "must be a time zone of the IANA database"),
        ('habit = "daily"', 'habit = "dayly"', r"devices\[0\]: habit = 'dayly': .* did you mean 'daily'"),
        ('line = "radio"', 'line = "cable"', r"sites\[0\]: line = 'cable': .* there are radio"),
        ('cause = "timeout"\n', 'cause = "timeot"\n', r"\[lines.radio\]: cause = .* did you mean 'timeout'"),
        ("share = 0.9", "share = 9", r"devices\[0\]: share = 9: must be a share from 0 to 1"),
        ("share = 0.9", "", r"devices\[0\]: must have one of share, count"),
        ("share = 0.9", "share = 0.9\ncount = 3", "must have one of share, count"),
        ("fails = [{", "fails = [{ often = 1,", r"devices\[0\]\.fails\[0\]: often is not known here"),
        ("duplicates = 0.1", "duplicate = 0.1", r"faults: duplicate is .* did you mean 'duplicates'"),
        ('type = "PiBox"', 'type = "Pibox"', "type = 'Pibox': .*did you mean 'PiBox'"),
        ("08:00/12:00", "12:00/08:00", "must be a part of a day such as 08:00/12:30; one that goes over"),
        (
            'lasts = "1h"',
            'lasts = "9h"',
            r"\[lines.radio\]\.outages\[0\]: lasts must be shorter than `every`",
        ),
        ('every = "6h", lasts = "1h"', 'from = "1h"', "must be so long before the end of the story"),
        ('offset = "-1h"', "", r"\[clocks.late\]: boots_at must be there, or else `offset`"),
        ("mbit = [0.1, 2]", "mbit = [2, 0.1]", r"must be \[least, greatest\] speed in Mbit/s"),
        ('name = "desk"', 'name = "desk"\nconnects = "weekly"', 'must be "at once", "every 3d" or a time'),
        ('name = "desk"', 'name = "desk"\npayloads = ["no_jsn"]', "did you mean 'no_json'"),
        ('id = "S"', 'id = "a b"', "must be the beginning of ids"),
        ("[causes.timeout]", "[causes.timeout", "is no TOML: .*line 7"),
    ],
)
def test_what_is_wrong_is_named(good: str, bad: str, said: str) -> None:
    assert good in GOOD
    with pytest.raises(ConfigurationError, match=said):
        read(GOOD.replace(good, bad, 1))


def test_a_name_that_there_is_not_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="did you mean school-day"):
        bundled.load("schoolday")
    with pytest.raises(ConfigurationError, match="there are bad-sd-card, "):
        bundled.load("xyzzy")


def test_a_file_is_told_from_a_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    with pytest.raises(ConfigurationError, match=r"mine\.toml: No such file"):
        bundled.load(str(file))
    file.write_text(GOOD)
    assert bundled.load(str(file)).name == "mine"


@pytest.mark.parametrize("name", bundled.names())
def test_a_bundled_scenario_can_be_copied(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.toml"
    file.write_text(bundled.source(name))
    assert bundled.load(str(file)) == bundled.load(name)
