"""Rules and dashboard ask for what the programs tell; expressions are parsed, and nothing is started.

An expression over a metric or label that no program has is no error to Prometheus: it is empty for ever.
"""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser as promql
import pytest
import yaml

from tests.support.expositions import all_expositions, label_values

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy/monitoring"
GROUPS: list[dict[str, Any]] = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
RECORDED = [rule for rule in RULES if "record" in rule]
ALERTS = [rule for rule in RULES if "alert" in rule]
TESTS = yaml.safe_load((MONITORING / "rules_test.yml").read_text())["tests"]
BOARD = json.loads((MONITORING / "grafana/pisync.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]
JOBS = {
    job["job_name"] for job in yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
}
# What Prometheus adds to every series that it scrapes.
OF_TARGETS = {"job": JOBS, "instance": set[str]()}


class Known(NamedTuple):
    """The labels of each metric with their values; of what rules record, the names of its labels."""

    told: Mapping[str, Mapping[str, set[str]]]
    recorded: Mapping[str, frozenset[str]]

    def labels(self, metric: str) -> frozenset[str]:
        if metric in self.recorded:
            return self.recorded[metric]
        return frozenset({*self.told[metric], *OF_TARGETS})


@pytest.fixture(scope="module")
def known() -> Known:
    told: dict[str, Mapping[str, set[str]]] = {"up": {}}
    for text in asyncio.run(all_expositions()).values():
        told |= label_values(text)
    recorded: dict[str, frozenset[str]] = {}
    for rule in RECORDED:
        recorded[rule["record"]] = labels_of(promql.parse(rule["expr"]), Known(told, recorded))
    return Known(told, recorded)


def parsed(expression: str) -> Any:
    return promql.parse(expression.replace("$__rate_interval", "5m"))


def labels_of(expr: Any, known: Known) -> frozenset[str]:
    """The labels that the result of an expression has; refuses what is unknown, and what can never match."""
    match expr:
        case promql.VectorSelector():
            check_selector(expr, known)
            labels = known.labels(expr.name or "")
        case promql.MatrixSelector():
            labels = labels_of(expr.vector_selector, known)
        case promql.ParenExpr() | promql.SubqueryExpr() | promql.UnaryExpr():
            labels = labels_of(expr.expr, known)
        case promql.Call():
            labels = called(expr, known)
        case promql.AggregateExpr():
            labels = aggregated(expr, known)
        case promql.BinaryExpr():
            labels = combined(expr, known)
        case promql.NumberLiteral() | promql.StringLiteral():
            labels = frozenset()
        case _:
            raise AssertionError(f"unknown: {expr.prettify()}")
    return labels


def called(expr: Any, known: Known) -> frozenset[str]:
    inner = frozenset[str]().union(*(labels_of(each, known) for each in expr.args))
    if expr.func.name in {"absent", "vector"}:
        return frozenset()
    if expr.func.name == "histogram_quantile":
        assert "le" in inner, f"a histogram has le: {expr.prettify()}"
        return inner - {"le"}
    return inner


def aggregated(expr: Any, known: Known) -> frozenset[str]:
    inner = labels_of(expr.expr, known)
    if expr.modifier is None:
        return inner if expr.prettify().startswith("topk") else frozenset()
    named = frozenset(expr.modifier.labels)
    assert named <= inner, f"{sorted(named - inner)} of {expr.prettify()}"
    return named if expr.modifier.type == promql.AggModifierType.By else inner - named


def combined(expr: Any, known: Known) -> frozenset[str]:
    sides = labels_of(expr.lhs, known), labels_of(expr.rhs, known)
    numbers = [is_number(side) for side in (expr.lhs, expr.rhs)]
    if any(numbers):
        return sides[1] if numbers[0] else sides[0]
    assert expr.modifier is None or expr.modifier.matching is None, "say here what they match by"
    if is_or(expr):
        return sides[0] | sides[1]
    assert sides[0] == sides[1], f"can never match: {sorted(sides[0])}, {sorted(sides[1])}: {expr.prettify()}"
    return sides[0]


def is_or(expr: Any) -> bool:
    """The parser's operators are opaque, and can only be read."""
    whole, left = (re.sub(r"\s", "", each.prettify()) for each in (expr, expr.lhs))
    assert whole.startswith(left)
    return whole.removeprefix(left).startswith("or")


def is_number(expr: Any) -> bool:
    if isinstance(expr, promql.ParenExpr | promql.UnaryExpr):
        return is_number(expr.expr)
    if isinstance(expr, promql.BinaryExpr):
        return is_number(expr.lhs) and is_number(expr.rhs)
    is_time = isinstance(expr, promql.Call) and expr.func.name == "time"
    return is_time or isinstance(expr, promql.NumberLiteral)


def check_selector(selector: Any, known: Known) -> None:
    """Each metric is told by a program or recorded by a rule, and each label and value is one that it has."""
    assert selector.name in {*known.told, *known.recorded}, f"no program tells {selector.name}"
    for matcher in selector.matchers.matchers:
        if matcher.name == "__name__":
            continue
        assert matcher.name in known.labels(selector.name), f"{selector.name} has no label {matcher.name}"
        there = {**OF_TARGETS, **known.told.get(selector.name, {})}.get(matcher.name)
        if there and matcher.op == promql.MatchOp.Equal:
            assert matcher.value in there, f"{selector.name} has no {matcher.name}={matcher.value}"
        if there and matcher.op == promql.MatchOp.Re:
            assert any(re.fullmatch(matcher.value, value) for value in there), str(matcher)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("record") or rule["alert"])
def test_every_rule_asks_for_what_the_programs_tell(rule: dict[str, Any], known: Known) -> None:
    labels = labels_of(parsed(rule["expr"]), known)
    named = re.findall(r"\$labels\.(\w+)", " ".join(rule.get("annotations", {}).values()))
    assert set(named) <= labels


@pytest.mark.parametrize(
    ("title", "target"), TARGETS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_panel_asks_for_what_the_programs_tell(
    title: str, target: dict[str, Any], known: Known
) -> None:
    labels = labels_of(parsed(target["expr"]), known)
    assert set(re.findall(r"\{\{\s*(\w+)\s*\}\}", target["legendFormat"])) <= labels


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("pisync_fleet_device", "no program tells"),
        ('pisync_fleet_devices{status="good"}', "no label status"),
        ('pisync_fleet_devices{state="fine"}', "no state=fine"),
        ('pisync_worker_event_lateness_seconds_bucket{le="3600"}', "no le=3600"),
        ("sum by (route) (pisync_fleet_devices)", "route"),
        ("sum by (cause) (pisync_fleet_devices)", "cause"),
        ("pisync_fleet_complete unless sum(pisync_fleet_age_seconds)", "can never match"),
        ('up{job="pisync-bridges"}', "no job=pisync-bridges"),
        ("histogram_quantile(0.9, sum(rate(pisync_bridge_batch_duration_seconds_bucket[5m])))", "histogram"),
    ],
)
def test_what_no_program_tells_is_found(expression: str, why: str, known: Known) -> None:
    with pytest.raises(AssertionError, match=why):
        labels_of(parsed(expression), known)


def test_what_is_recorded_is_named_by_rule_and_used() -> None:
    names = [rule["record"] for rule in RECORDED]
    assert len(names) == len(set(names))
    everything = "\n".join([*(rule["expr"] for rule in RULES), *(target["expr"] for _, target in TARGETS)])
    for name in names:
        assert re.fullmatch(r"pisync:[a-z_]+:[a-z0-9_]+", name), name
        assert name in everything, name


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_says_what_it_is_and_where_to_read_what_to_do(alert: dict[str, Any]) -> None:
    assert re.fullmatch(r"PiSync([A-Z][a-z]+)+", alert["alert"])
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    path, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert anchor == alert["alert"].lower()
    assert anchor in anchors(ROOT / path)


def test_every_alert_that_is_explained_exists() -> None:
    explained = re.findall(r"^#+ (PiSync\w+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    assert explained == [alert["alert"] for alert in ALERTS]


def series_of_tests() -> Iterator[str]:
    for test in TESTS:
        for series in test["input_series"]:
            yield series["series"]


@pytest.mark.parametrize("series", sorted(set(series_of_tests())))
def test_the_rules_are_tested_by_series_that_the_programs_tell(series: str, known: Known) -> None:
    selector = parsed(series)
    assert selector.name in known.told
    named = {matcher.name for matcher in selector.matchers.matchers} - {"__name__"}
    assert named <= known.labels(selector.name)


def test_the_tests_of_rules_expect_what_alerts_say() -> None:
    """`promtool test rules` holds the rest; it is no part of the checks that run everywhere."""
    alerts = {alert["alert"]: alert for alert in ALERTS}
    fired = set()
    for expected in (one for test in TESTS for one in test["alert_rule_test"]):
        alert = alerts[expected["alertname"]]
        for one in expected.get("exp_alerts", []):
            fired.add(alert["alert"])
            assert one["exp_labels"]["severity"] == alert["labels"]["severity"]
            for name, template in alert["annotations"].items():
                literal = [re.escape(part) for part in re.split(r"\{\{.*?\}\}", template)]
                if "{{ if" not in template:
                    assert re.fullmatch(".*".join(literal), one["exp_annotations"][name]), name
    assert len(fired) >= 6


def test_the_dashboard_has_its_rows_and_panels_that_explain_themselves() -> None:
    rows = [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Fleet", "Intake", "Bridges", "Stores", "API", "Worker"]
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]), panel["title"]
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    titles = [panel["title"] for panel in PANELS]
    assert len(titles) == len(set(titles))


def test_no_panel_lies_over_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + right, place["y"] + down)
            for right in range(place["w"])
            for down in range(place["h"])
        }
        assert taken.isdisjoint(cells), panel["title"]
        taken |= cells


def test_the_annotation_of_the_dashboard_is_of_our_alerts() -> None:
    [annotation] = BOARD["annotations"]["list"]
    assert annotation["expr"] == 'ALERTS{alertname=~"PiSync.*", alertstate="firing"}'
