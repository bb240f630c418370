"""What bridge, api and worker tell keeps the conventions of Prometheus, and names no device."""

import asyncio
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.expositions import DEVICES, all_expositions, label_values

PREFIXES = ("pisync_", "process_")
UNITS = ("_seconds", "_bytes", "_ratio")
# What an id of a device, its topic or its path would be called.
OF_DEVICES = {"device", "device_id", "id", "client", "client_id", "path", "topic", "address", "name"}


@pytest.fixture(scope="module")
def expositions() -> dict[str, str]:
    return asyncio.run(all_expositions())


@pytest.mark.parametrize("program", ["bridge", "api", "worker"])
def test_every_metric_has_a_help_a_type_and_a_name_by_rule(expositions: dict[str, str], program: str) -> None:
    text = expositions[program]
    # When a series began is the client library's own addition.
    families = [one for one in text_string_to_metric_families(text) if not one.name.endswith("_created")]
    assert len(families) > 10
    for family in families:
        # The parser takes `_total` off the names of counters.
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert name.startswith(PREFIXES), name
        assert re.fullmatch(r"[a-z][a-z0-9_]*[a-z0-9]", name), name
        assert family.documentation.endswith("."), f"{name}: {family.documentation}"
        assert f"# TYPE {name} {family.type}" in text
        assert family.type in {"counter", "gauge", "histogram"}
        assert name.endswith("_total") == (family.type == "counter"), name
        # Base units, at the end of the name: no milliseconds, no minutes, no kilobytes.
        assert not re.search(r"_(ms|millis\w*|minutes?|hours?|days?|mb|kb|mib|percent)$", name), name
        unit = next((unit for unit in UNITS if unit in name), None)
        assert unit is None or name.removesuffix("_total").removesuffix("_max").endswith(unit), name


@pytest.mark.parametrize("program", ["bridge", "api", "worker"])
def test_every_metric_has_a_sample_and_none_twice(expositions: dict[str, str], program: str) -> None:
    families = list(text_string_to_metric_families(expositions[program]))
    assert [family.name for family in families if not family.samples] == []
    lines = [line.rpartition(" ")[0] for line in expositions[program].splitlines() if line[0] != "#"]
    assert len(lines) == len(set(lines))


def test_no_metric_is_told_by_two_programs(expositions: dict[str, str]) -> None:
    names = [
        family.name
        for text in expositions.values()
        for family in text_string_to_metric_families(text)
        if not family.name.startswith("process_")
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("program", ["bridge", "api", "worker"])
def test_no_label_is_named_or_valued_like_a_device(expositions: dict[str, str], program: str) -> None:
    for name, labels in label_values(expositions[program]).items():
        assert OF_DEVICES.isdisjoint(labels), name
        assert not any(
            device in value for values in labels.values() for value in values for device in DEVICES
        )
        assert all(len(values) < 100 for values in labels.values()), name
    assert all(device not in expositions[program] for device in DEVICES)
