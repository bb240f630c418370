"""docker-compose.yml and deploy/Dockerfile keep what their comments promise, without starting anything."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from local_stack.servers import MONGOD_EVICTION
from pisync import settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
STAYING = [name for name in SERVICES if name != "simulator"]
OURS = [name for name, service in SERVICES.items() if service["image"] == "pisync"]
MONITORING = ROOT / "deploy" / "monitoring"
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


def by_default(value: object) -> str:
    """What Compose makes of a value when the operator's environment sets nothing."""
    return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(value))


def seconds(duration: str) -> float:
    assert duration.endswith("s")
    return float(duration.removesuffix("s"))


def load(
    monkeypatch: pytest.MonkeyPatch, service: str, program: type[settings.AnySettings]
) -> settings.AnySettings:
    for name in list(os.environ):  # noqa: TID251 - the settings of the shell that runs the tests go
        if name.startswith(settings.PREFIX):
            monkeypatch.delenv(name)
    for name, value in SERVICES[service]["environment"].items():
        if (
            value is not None
        ):  # without a value Compose takes it from the operator's environment, or not at all
            monkeypatch.setenv(name, by_default(value))
    return settings.load(program)


def test_the_programs_are_the_ones_we_build() -> None:
    assert OURS == ["bridge", "api", "worker", "simulator"]
    assert [name for name in OURS if "build" in SERVICES[name]] == ["bridge"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_published_port_is_on_loopback(name: str) -> None:
    assert "network_mode" not in SERVICES[name]
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", by_default(port))


@pytest.mark.parametrize("name", OURS)
def test_the_programs_start_with_their_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = settings.PROGRAMS.get(name, settings.CommonSettings)
    assert set(SERVICES[name]["environment"]) <= settings.variables(program)
    load(monkeypatch, name, program)
    hosts = re.findall(r"://([a-z]+)", " ".join(map(str, SERVICES[name]["environment"].values())))
    assert hosts
    assert set(hosts) <= set(SERVICES)


def test_the_api_may_be_anonymous_and_takes_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, "api", settings.ApiSettings).api_keys == ()
    assert SERVICES["api"]["environment"]["PISYNC_API_KEYS"] == "${PISYNC_API_KEYS:-}"


def test_the_worker_keeps_events_for_ever_unless_the_operator_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load(monkeypatch, "worker", settings.WorkerSettings).retention_days is None
    # No text in its place: an empty one would be no number.
    assert SERVICES["worker"]["environment"]["PISYNC_RETENTION_DAYS"] is None
    monkeypatch.setenv("PISYNC_RETENTION_DAYS", "90")
    assert settings.load(settings.WorkerSettings).retention_days == 90


def test_a_web_page_cannot_ask_the_api_by_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, "api", settings.ApiSettings).allowed_hosts == ("api",)


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_runs_as_root_or_may_become_it(name: str) -> None:
    service = SERVICES[name]
    if name in OURS:
        assert "user" not in service
        assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    else:
        assert service["user"] in {"mosquitto", "mongodb", "redis", "nobody", "grafana"}
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "cap_add" not in service


@pytest.mark.parametrize("name", STAYING)
def test_what_stays_up_is_restarted_watched_and_given_time_to_stop(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    assert seconds(service["stop_grace_period"]) > 10  # Compose's own default


def test_the_simulator_comes_only_on_request_and_ends() -> None:
    assert SERVICES["simulator"]["profiles"] == ["simulate"]
    assert SERVICES["simulator"]["restart"] == "no"


def test_a_stopping_program_has_time_for_what_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = load(monkeypatch, "bridge", settings.BridgeSettings)
    api = load(monkeypatch, "api", settings.ApiSettings)
    assert seconds(SERVICES["bridge"]["stop_grace_period"]) >= bridge.drain_timeout_s + 5
    assert seconds(SERVICES["api"]["stop_grace_period"]) >= api.receipt_timeout_s + 5


def test_the_programs_wait_until_what_they_need_is_healthy() -> None:
    for name in ("bridge", "api", "worker"):
        needs = SERVICES[name]["depends_on"]
        assert needs.keys() == {"mosquitto", "mongodb", "redis"}
        assert all(need == {"condition": "service_healthy"} for need in needs.values())


def test_the_worker_is_asked_on_the_port_of_its_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = load(monkeypatch, "worker", settings.WorkerSettings)
    assert f"http://127.0.0.1:{worker.metrics_port}/healthz" in str(SERVICES["worker"]["healthcheck"]["test"])


@pytest.mark.parametrize("name", ["bridge", "api", "worker"])
def test_prometheus_reaches_the_metrics_of_every_program_and_nobody_else_does(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = load(monkeypatch, name, settings.PROGRAMS[name])
    assert isinstance(program, settings.BridgeSettings | settings.ApiSettings | settings.WorkerSettings)
    assert program.metrics_host == "0.0.0.0"
    scraped = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in scraped}
    assert targets[f"pisync-{name}"] == [f"{name}:{program.metrics_port}"]
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert not [port for port in ports if by_default(port).endswith(f":{program.metrics_port}")]


def test_monitoring_comes_only_on_request() -> None:
    assert [name for name in SERVICES if SERVICES[name].get("profiles") == ["monitoring"]] == [
        "prometheus",
        "grafana",
    ]
    needed = [need for service in SERVICES.values() for need in service.get("depends_on", {})]
    assert needed.count("prometheus") == 1, "grafana alone"
    assert "grafana" not in needed


def test_grafana_asks_the_prometheus_there_is_and_signs_nobody_in() -> None:
    [source] = yaml.safe_load((MONITORING / "grafana/datasource.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    [provider] = yaml.safe_load((MONITORING / "grafana/dashboards.yml").read_text())["providers"]
    mounted = [entry["target"] for entry in SERVICES["grafana"]["configs"]]
    assert f"{provider['options']['path']}/pisync.json" in mounted
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] in mounted


def test_the_bridge_is_asked_for_its_connection_to_the_brokers_port(monkeypatch: pytest.MonkeyPatch) -> None:
    port = load(monkeypatch, "bridge", settings.BridgeSettings).mqtt.port
    assert f":{port:04X} 01 " in SERVICES["bridge"]["healthcheck"]["test"]


def test_mongodb_is_set_up_as_in_the_local_stack() -> None:
    assert SERVICES["mongodb"]["command"] == ["--wiredTigerEngineConfigString", MONGOD_EVICTION]
    assert MONGOD_EVICTION in (ROOT / "docs/operations.md").read_text()


@pytest.mark.parametrize("name", ["mosquitto", "mongodb", "redis", "prometheus", "grafana"])
def test_data_is_in_a_named_volume(name: str) -> None:
    assert [volume.split(":")[0] for volume in SERVICES[name]["volumes"]] == [name]
    assert name in COMPOSE["volumes"]


@pytest.mark.parametrize("persistence", ["sqlite", "snapshot"])
def test_the_brokers_files_are_there_whatever_its_persistence(persistence: str) -> None:
    mounted = {entry["source"]: entry["target"] for entry in SERVICES["mosquitto"]["configs"]}
    used = [entry["source"] for service in SERVICES.values() for entry in service.get("configs", [])]
    assert sorted(used) == sorted(COMPOSE["configs"])
    for config in COMPOSE["configs"].values():
        assert (ROOT / by_default(config["file"]).replace("sqlite", persistence)).is_file()
    included = "/mosquitto/config/include"
    assert f"include_dir {included}" in (ROOT / "mosquitto/mosquitto.conf").read_text().splitlines()
    assert mounted["mosquitto-limits"].startswith(included)
    assert mounted["mosquitto-persistence"].startswith(included)


def test_only_the_image_for_archives_has_what_writes_them() -> None:
    """At the same versions otherwise."""

    def locked(name: str) -> set[str]:
        return set(re.findall(r"^(\S+==\S+)", (ROOT / f"locks/{name}.txt").read_text(), re.MULTILINE))

    assert locked("runtime") < locked("export") < locked("dev")
    [archives] = locked("export") - locked("runtime")
    assert archives.startswith("pyarrow==")


def test_the_image_holds_every_package_and_the_builder_sees_no_more() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.MULTILINE)
    assert sorted(copied) == sorted([*packages, "locks/$LOCK.txt"])
    [default] = re.findall(r"^ARG LOCK=(\w+)$", DOCKERFILE, re.MULTILINE)
    assert default == "runtime"
    rules = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert rules[0] == "*"
    locks = ["locks/runtime.txt", "locks/export.txt"]
    assert sorted(rule[1:] for rule in rules if rule.startswith("!")) == sorted([*packages, *locks])
