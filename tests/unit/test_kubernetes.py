"""deploy/kubernetes/ against Kubernetes's schemas, the programs and what `pisync init-production` makes.

Nothing is started, and no cluster is asked.
"""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from cli.api_client import IMPORT_TIMEOUT_S
from cli.production import broker, layout, place
from cli.production.generate import generate
from cli.retiring import beyond
from pisync import limits, settings
from pisync.domain import topics
from tests.support.commands import forget_settings
from tests.support.kubernetes import (
    COMPONENT,
    DOCUMENT,
    MOUNTED,
    OVERLAYS,
    PROGRAMS,
    ROOT,
    Object,
    Peer,
    container,
    environment,
    may_reach,
    mounted_files,
    objects,
    of_kind,
    pod_names,
    pods,
    rendered,
    secrets,
    selects,
)

# The oldest and the newest that docs/kubernetes.md names.
VERSIONS: Final = ("1.32", "1.37")
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.production.yml").read_text())
PODS: Final = {
    "small": ("api", "bridge", "migrate", "mosquitto", "rebuild", "retirement", "worker"),
    "large": ("api", "bridge", "migrate", "rebuild", "retirement", "worker"),
}
EVERY_POD: Final = [(overlay, name) for overlay in OVERLAYS for name in PODS[overlay]]
EVERY_PROGRAM: Final = [(overlay, name) for overlay in OVERLAYS for name in PROGRAMS]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A production set-up, in a directory that has nothing else."""
    root = tmp_path_factory.mktemp("kubernetes") / "production"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, "give", lambda directory: None)
        generate(root, "pisync.example.org", broker.IMAGES["2.1"])
    return root


@pytest.fixture(scope="module")
def files(made: Path) -> dict[str, dict[str, bytes]]:
    """The Secrets that the document's commands make of it."""
    work = made.parent / "kubectl"
    work.mkdir()
    return secrets(made, work)


def seconds_of(probe: Object) -> int:
    """After how long without a good answer a probe has failed."""
    return int(probe["periodSeconds"]) * int(probe["failureThreshold"])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_what_kubernetes_takes(
    overlay: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = objects(overlay)
    utils = pytest.importorskip(
        "kubernetes_validate.utils", reason="it comes with `make setup` on x86-64 Linux alone"
    )
    monkeypatch.setattr(utils, "schema_contents", cache(utils.schema_contents))
    for each in made:
        assert utils.validate(each, version, strict=True) == version
    names = [(each["kind"], each["metadata"]["name"]) for each in made]
    assert len(set(names)) == len(names)
    assert {each["metadata"].get("namespace", "pisync") for each in made} == {"pisync"}


def test_strict_means_that_a_slip_is_found() -> None:
    utils = pytest.importorskip(
        "kubernetes_validate.utils", reason="it comes with `make setup` on x86-64 Linux alone"
    )
    broken = of_kind("small", "StatefulSet")["bridge"] | {}
    broken["spec"] = broken["spec"] | {"podManagmentPolicy": "Parallel"}
    with pytest.raises(utils.ValidationError):
        utils.validate(broken, VERSIONS[-1], strict=True)


def test_each_overlay_has_the_pods_that_it_says() -> None:
    assert {overlay: tuple(sorted(pods(overlay))) for overlay in OVERLAYS} == PODS
    assert [len(pod_names(overlay, "bridge")) for overlay in ("small", "large")] == [1, 4]


@pytest.mark.parametrize(("overlay", "name"), EVERY_POD)
def test_nothing_runs_as_root_may_become_it_or_writes_but_into_its_volumes(overlay: str, name: str) -> None:
    spec = pods(overlay)[name]["spec"]
    assert (
        spec["securityContext"].items()
        >= {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        }.items()
    )
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & spec.keys()
    for each in [*spec["containers"], *spec.get("initContainers", [])]:
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert each["resources"].keys() == {"requests", "limits"}
        assert all(each["resources"][kind].keys() == {"cpu", "memory"} for kind in ("requests", "limits"))
    for volume in spec["volumes"]:
        [kind] = volume.keys() - {"name"}
        assert kind in {"secret", "emptyDir", "projected"}
        if kind == "emptyDir":
            assert volume["emptyDir"]["sizeLimit"]
    assert "USER 10001:10001" in (ROOT / "deploy" / "Dockerfile").read_text()


def test_the_namespace_refuses_others() -> None:
    for overlay in OVERLAYS:
        labels = of_kind(overlay, "Namespace")["pisync"]["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_images_are_those_of_the_compose_file_and_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    ours = COMPOSE["services"]["bridge"]["image"]
    for overlay, name in EVERY_POD:
        spec = pods(overlay)[name]["spec"]
        wanted = COMPOSE["services"][name]["image"] if name == "mosquitto" else f"{ours}:{version}"
        assert {each["image"] for each in spec["containers"]} == {wanted}
        assert {each["image"] for each in spec.get("initContainers", [])} <= {f"{ours}:{version}"}


@pytest.mark.parametrize(("overlay", "name"), EVERY_POD)
def test_no_secret_is_in_a_pods_environment_or_arguments(overlay: str, name: str) -> None:
    by_value = {f"{settings.PREFIX}{each.upper()}" for each in settings.secret_settings()}
    described = container(overlay, name)
    found = environment(overlay, name, "pod-0")
    assert not by_value & found.keys()
    told = " ".join([*found.values(), *described.get("args", []), *described.get("command", [])])
    assert not re.search(r"://[^/\s]*@|(?i:passw)", told)
    assert "Secret" not in {each["kind"] for each in objects(overlay)}
    assert all("secretRef" not in source for source in described.get("envFrom", []))


@pytest.mark.parametrize(("overlay", "name"), EVERY_POD)
def test_every_secret_that_a_pod_mounts_is_made(
    overlay: str, name: str, files: dict[str, dict[str, bytes]]
) -> None:
    spec = pods(overlay)[name]["spec"]
    mounted = [volume["secret"] for volume in spec["volumes"] if "secret" in volume]
    projected = [
        {"secretName": source["secret"]["name"], "items": source["secret"]["items"]}
        for volume in spec["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
        if "secret" in source
    ]
    assert mounted
    for each in [*mounted, *projected]:
        there = files[each["secretName"]]
        assert {item["key"] for item in each.get("items", [])} <= there.keys()
    # Only the group of the pod reads them.
    assert {each["defaultMode"] for each in mounted} == {0o440}
    mounts = container(overlay, name)["volumeMounts"]
    assert all(each.get("readOnly") for each in mounts if each["mountPath"].startswith("/run/"))
    if name != "mosquitto":
        # All that a program reads is there, and nothing beside it.
        found = environment(overlay, name, "x")
        paths = {value for key, value in found.items() if key.endswith("_FILE")}
        assert paths == mounted_files(overlay, name, files).keys()


def test_what_is_applied_again_fits_however_many_certificates_are_revoked() -> None:
    text = DOCUMENT.read_text()
    applied = [line for line in text.splitlines() if "kubectl apply" in line and "--filename=-" in line]
    # `kubectl apply` without it keeps a copy in an annotation: 256 KiB, some 4,000 revoked certificates.
    assert len(applied) == 2
    assert all("--server-side --force-conflicts" in line for line in applied)
    # Each is run again after a renewal, and a job's name is taken once.
    assert all("--dry-run=client" in line for line in text.splitlines() if "create secret" in line)
    jobs = re.findall(r"create job --from=cronjob/\S+ ([^`\s]+(?: \+%s\))?)", text)
    assert jobs == ["retire-$(date +%s)", "migrate-1"]


def test_nothing_that_signs_is_in_a_secret(made: Path, files: dict[str, dict[str, bytes]]) -> None:
    signing = {path.read_bytes() for path in made.rglob("ca.key")}
    assert len(signing) == 2
    assert not signing & {content for each in files.values() for content in each.values()}


def given(
    overlay: str, name: str, files: dict[str, dict[str, bytes]], directory: Path, pod_name: str = "bridge-0"
) -> dict[str, str]:
    """A pod's environment, whose secrets are in a directory as in its volume."""
    found = environment(overlay, name, pod_name)
    for path, content in mounted_files(overlay, name, files).items():
        local = directory / path.removeprefix("/")
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(content.replace(MOUNTED.encode(), f"{directory}{MOUNTED}".encode()))
        found = {key: str(local) if value == path else value for key, value in found.items()}
    return found


@pytest.mark.parametrize(("overlay", "name"), [each for each in EVERY_POD if each[1] != "mosquitto"])
def test_the_programs_start_with_their_pods_settings_and_secrets(
    overlay: str,
    name: str,
    files: dict[str, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Who leaves is a bridge.
    program = settings.PROGRAMS.get("bridge" if name == "retirement" else name, settings.CommonSettings)
    found = given(overlay, name, files, tmp_path)
    own = {entry["name"] for entry in container(overlay, name).get("env", [])}
    assert own <= settings.variables(program)
    assert found.keys() <= settings.variables()
    forget_settings(monkeypatch)
    for key, value in found.items():
        monkeypatch.setenv(key, value)
    loaded = settings.load(program)
    assert loaded.mqtt.tls
    assert (loaded.mqtt.host, loaded.mqtt.port) == ("mosquitto", layout.PROGRAMS_PORT)
    assert "tls=true" in loaded.mongodb_url
    assert loaded.redis_url.startswith("rediss://")
    assert loaded.log_format == "json"
    assert container(overlay, name)["args"][0] == ("bridges" if name == "retirement" else name)
    if isinstance(loaded, settings.WorkerSettings):
        # In `small` it keeps the list of the Mosquitto that is there.
        assert loaded.broker_admin_url.startswith("mqtts://%40warden:") == (overlay == "small")
    if isinstance(loaded, settings.ApiSettings):
        # Open to the network, and so by key alone.
        assert loaded.configured_keys
        assert not loaded.allow_anonymous
        [rule] = of_kind(overlay, "Ingress")["api"]["spec"]["rules"]
        assert loaded.allowed_hosts == (rule["host"],)
        assert loaded.public_url == f"https://{rule['host']}"
        assert loaded.trusted_proxies


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_names_of_pods_are_ids_of_bridges_that_retirement_knows(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_settings(monkeypatch)
    names = pod_names(overlay, "bridge")
    ids = []
    for name in names:
        monkeypatch.setenv("PISYNC_BRIDGE_ID", environment(overlay, "bridge", name)["PISYNC_BRIDGE_ID"])
        ids.append(settings.load(settings.BridgeSettings).bridge_id)
    assert ids == names
    assert all(map(topics.is_device_id, ids))
    job = container(overlay, "retirement")["args"]
    assert job == ["bridges", "retire", f"--wanted={len(names)}", "--name=bridge"]
    assert beyond([*names, f"bridge-{len(names)}"], name="bridge", wanted=len(names)) == [
        f"bridge-{len(names)}"
    ]
    spec = of_kind(overlay, "StatefulSet")["bridge"]["spec"]
    assert spec["podManagementPolicy"] == "Parallel"
    assert spec["serviceName"] in of_kind(overlay, "Service")
    # A hook cannot tell a scale-in from a roll-out.
    assert "lifecycle" not in container(overlay, "bridge")
    assert of_kind(overlay, "CronJob")["retirement"]["spec"]["concurrencyPolicy"] == "Forbid"


@pytest.mark.parametrize(("overlay", "name"), EVERY_PROGRAM)
def test_ports_and_probes_are_the_programs_own(overlay: str, name: str) -> None:
    described = container(overlay, name)
    found = environment(overlay, name, "bridge-0")
    ports = {port["name"]: str(port["containerPort"]) for port in described["ports"]}
    assert ports["metrics"] == found["PISYNC_METRICS_PORT"]
    assert ports.get("http") == found.get("PISYNC_HTTP_PORT")
    assert found["PISYNC_METRICS_HOST"] == "0.0.0.0"
    asked = {
        kind: (described[f"{kind}Probe"]["httpGet"]["port"], described[f"{kind}Probe"]["httpGet"]["path"])
        for kind in ("startup", "liveness", "readiness")
    }
    started = ("http", "/readyz") if name == "api" else ("metrics", "/livez")
    assert asked == {
        "startup": started,
        "liveness": ("metrics", "/livez"),
        "readiness": ("metrics", "/healthz"),
    }
    assert seconds_of(described["livenessProbe"]) >= 60
    assert seconds_of(described["startupProbe"]) >= 60
    annotations = pods(overlay)[name]["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "true"
    assert annotations["prometheus.io/port"] == ports["metrics"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_stopping_program_has_time_for_what_is_in_flight(overlay: str) -> None:
    grace = {
        name: pod["spec"].get("terminationGracePeriodSeconds", 30) for name, pod in pods(overlay).items()
    }
    drain = float(environment(overlay, "bridge", "bridge-0")["PISYNC_DRAIN_TIMEOUT_S"])
    assert grace["bridge"] >= drain + 5
    pause = container(overlay, "api")["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert grace["api"] >= pause + settings.ApiSettings.model_fields["receipt_timeout_s"].default + 5


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_whatever_names_pods_or_ports_names_those_that_there_are(overlay: str) -> None:
    made = pods(overlay)
    labels = {name: pod["metadata"]["labels"] for name, pod in made.items()}
    for name, each in of_kind(overlay, "StatefulSet", "Deployment").items():
        assert selects(each["spec"]["selector"], labels[name])
    for service in of_kind(overlay, "Service").values():
        [target] = [n for n, own in labels.items() if service["spec"]["selector"].items() <= own.items()]
        there = {port["name"] for port in container(overlay, target)["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= there
    budgets = of_kind(overlay, "PodDisruptionBudget")
    assert budgets.keys() == set(PROGRAMS)
    for name, budget in budgets.items():
        assert [n for n, own in labels.items() if selects(budget["spec"]["selector"], own)] == [name]
        assert budget["spec"]["maxUnavailable"] == 1
    [rule] = of_kind(overlay, "Ingress")["api"]["spec"]["rules"]
    [path] = rule["http"]["paths"]
    backend = path["backend"]["service"]
    ports = of_kind(overlay, "Service")[backend["name"]]["spec"]["ports"]
    assert [port["name"] for port in ports] == [backend["port"]["name"]]
    [tls] = of_kind(overlay, "Ingress")["api"]["spec"]["tls"]
    assert tls["hosts"] == [rule["host"]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_node_can_be_emptied(overlay: str) -> None:
    for name in {*PROGRAMS, *of_kind(overlay, "StatefulSet")}:
        pod = pods(overlay)[name]
        # An autoscaler of nodes evicts no pod with an emptyDir that is not named here.
        kept = pod["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"]
        assert [kept] == [volume["name"] for volume in pod["spec"]["volumes"] if "emptyDir" in volume]
    for name in PROGRAMS:
        spread = pods(overlay)[name]["spec"]["topologySpreadConstraints"]
        # Whoever names one of the two has none of the cluster's own defaults for the other.
        keys = {each["topologyKey"] for each in spread}
        assert keys == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
        assert {each["whenUnsatisfiable"] for each in spread} == {"ScheduleAnyway"}


def test_a_broker_that_is_too_busy_for_its_probe_keeps_its_names() -> None:
    services = of_kind("small", "Service")
    for name in ("mosquitto", "mosquitto-devices"):
        assert services[name]["spec"]["publishNotReadyAddresses"] is True
    assert "publishNotReadyAddresses" not in services["api"]["spec"]


MEMORY: Final = re.compile(r"^(bridge|api|worker) .* ([\d.]+) MB$", re.MULTILINE)
UNITS: Final = {"Mi": 2**20, "Gi": 2**30}


def bytes_of(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


@pytest.mark.parametrize(("overlay", "devices"), [("small", "20,000"), ("large", "1,000,000")])
def test_a_pod_asks_for_the_memory_that_the_capacity_model_gives_its_program(
    overlay: str, devices: str
) -> None:
    text = (ROOT / "docs" / "capacity.md").read_text()
    section = text.partition(f"\n## {devices} devices\n")[2].partition("\n## ")[0]
    found = {name: float(megabytes) for name, megabytes in MEMORY.findall(section)}
    assert found.keys() == set(PROGRAMS)
    for name, megabytes in found.items():
        resources = container(overlay, name)["resources"]
        assert bytes_of(resources["requests"]["memory"]) >= megabytes * 10**6
        assert bytes_of(resources["limits"]["memory"]) >= 2 * megabytes * 10**6


@pytest.fixture(scope="module")
def with_further_broker(tmp_path_factory: pytest.TempPathFactory) -> tuple[Object, ...]:
    """What the document's kustomization makes, in a directory beside the overlays."""
    root = tmp_path_factory.mktemp("brokers")
    for name in ("deploy", "mosquitto"):
        shutil.copytree(ROOT / name, root / name)
    directory = root / "deploy" / "kubernetes" / "overlays" / "brokers"
    directory.mkdir()
    [text] = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (directory / "kustomization.yaml").write_text(text)
    return rendered(directory)


def test_the_bridges_of_a_further_broker_are_beside_those_of_the_first(
    with_further_broker: tuple[Object, ...],
) -> None:
    made = {
        (each["kind"], each["metadata"]["name"]): each["spec"]
        for each in with_further_broker
        if "spec" in each
    }
    assert made.keys() >= {
        (kind, name) for kind in ("StatefulSet", "Service") for name in ("bridge", "b1-bridge")
    }
    assert [name for kind, name in made if kind == "Deployment"] == ["api", "worker"]
    for which, service, retirement in (
        ("bridge", "bridge", "retirement"),
        ("b1-bridge", "b1-bridge", "b1-retirement"),
    ):
        bridges = made["StatefulSet", which]
        job = made["CronJob", retirement]["jobTemplate"]["spec"]["template"]
        assert bridges["serviceName"] == service
        [program], [leaving] = (each["spec"]["containers"] for each in (bridges["template"], job))
        assert leaving["args"] == ["bridges", "retire", f"--wanted={bridges['replicas']}", f"--name={which}"]
        assert program["image"] == leaving["image"] == "YOUR-REGISTRY/pisync:0.1.0"
        # Its own broker stands first in the URL of its own Secret.
        for pod in (bridges["template"], job):
            assert pod["spec"]["volumes"][0]["secret"]["secretName"] == which
            assert pod["spec"]["enableServiceLinks"] is False
        labels = bridges["template"]["metadata"]["labels"]
        # Whoever is under two budgets is evicted by nobody, and its node is never drained.
        budgets = [
            name
            for (kind, name), spec in made.items()
            if kind == "PodDisruptionBudget" and selects(spec["selector"], labels)
        ]
        assert budgets == [which]
        services = [
            name
            for (kind, name), spec in made.items()
            if kind == "Service" and spec["selector"].items() <= labels.items()
        ]
        assert services == [service]
        sets = [
            name
            for (kind, name), spec in made.items()
            if kind == "StatefulSet" and selects(spec["selector"], labels)
        ]
        assert sets == [which]


def test_kubernetes_takes_the_bridges_of_a_further_broker(with_further_broker: tuple[Object, ...]) -> None:
    utils = pytest.importorskip(
        "kubernetes_validate.utils", reason="it comes with `make setup` on x86-64 Linux alone"
    )
    for each in with_further_broker:
        if each["metadata"]["name"].startswith("b1-"):
            assert utils.validate(each, VERSIONS[-1], strict=True) == VERSIONS[-1]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_imports_of_the_greatest_size_have_room_and_time(overlay: str) -> None:
    [tmp] = [volume for volume in pods(overlay)["api"]["spec"]["volumes"] if volume["name"] == "tmp"]
    # Kept twice as large (docs/operations.md); who has more there than the limit is evicted.
    kept = 2 * limits.IMPORT_BYTES_MAX * limits.IMPORTS_AT_ONCE
    assert bytes_of(tmp["emptyDir"]["sizeLimit"]) >= 1.5 * kept
    [annotations] = [each["metadata"]["annotations"] for each in of_kind(overlay, "Ingress").values()]
    nginx = "nginx.ingress.kubernetes.io"
    assert float(annotations[f"{nginx}/proxy-read-timeout"]) == IMPORT_TIMEOUT_S
    assert annotations[f"{nginx}/proxy-body-size"] == f"{limits.IMPORT_BYTES_MAX // 2**20}m"


def test_replicas_of_the_api_are_the_autoscalers_own() -> None:
    [scaler] = of_kind("large", "HorizontalPodAutoscaler").values()
    target = scaler["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", "api")
    # A number beside it would be set back by each `kubectl apply`.
    assert "replicas" not in of_kind("large", "Deployment")["api"]["spec"]
    assert scaler["spec"]["metrics"][0]["resource"]["name"] == "cpu"
    assert not of_kind("small", "HorizontalPodAutoscaler")
    assert of_kind("small", "Deployment")["api"]["spec"]["replicas"] == 1


INTERNET: Final = Peer(address="203.0.113.9")
PRIVATE: Final = Peer(address="10.0.3.4")
DATABASES: Final = Peer(namespace="databases", labels={"app": "mongodb"})
CLOUD: Final = Peer(address="169.254.169.254")
NAMES: Final = Peer(namespace="kube-system", labels={"k8s-app": "kube-dns"})
INGRESS: Final = Peer(namespace="ingress-nginx")
MONITORING: Final = Peer(namespace="monitoring")
OTHERS: Final = Peer(namespace="default")


def ours(component: str) -> Peer:
    labels = {COMPONENT: component, "app.kubernetes.io/part-of": "pisync"}
    if component in {"bridge", "retirement"}:
        labels["app.kubernetes.io/instance"] = "bridge"
    return Peer(namespace="pisync", labels=labels)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_who_may_reach_whom(overlay: str) -> None:
    metrics = {"bridge": 9100, "api": 9101, "worker": 9102}
    for name in (*PROGRAMS, "retirement", "operator"):
        for port in (layout.PROGRAMS_PORT, 27017, 6379):
            assert may_reach(overlay, ours(name), PRIVATE, port)
            assert may_reach(overlay, ours(name), DATABASES, port)
            assert not may_reach(overlay, ours(name), INTERNET, port)
        assert may_reach(overlay, ours(name), NAMES, 53, protocol="UDP")
        assert not may_reach(overlay, ours(name), PRIVATE, 22)
        assert not may_reach(overlay, ours(name), PRIVATE, 443)
        assert not may_reach(overlay, ours(name), DATABASES, 443)
        assert not may_reach(overlay, ours(name), CLOUD, 80)
        assert not may_reach(overlay, ours(name), CLOUD, 443)
        assert may_reach(overlay, ours(name), INTERNET, 443) == (name in {"api", "worker"})
        assert not may_reach(overlay, ours(name), ours("api"), 8080)
    for name, port in metrics.items():
        assert may_reach(overlay, MONITORING, ours(name), port)
        assert not may_reach(overlay, INGRESS, ours(name), port)
        assert not may_reach(overlay, OTHERS, ours(name), port)
    assert may_reach(overlay, INGRESS, ours("api"), 8080)
    for stranger in (OTHERS, MONITORING, INTERNET, PRIVATE):
        assert not may_reach(overlay, stranger, ours("api"), 8080)


def test_devices_and_programs_reach_the_broker_each_at_its_own_port() -> None:
    mosquitto = ours("mosquitto")
    assert may_reach("small", INTERNET, mosquitto, layout.DEVICES_PORT)
    assert not may_reach("small", INTERNET, mosquitto, layout.PROGRAMS_PORT)
    assert not may_reach("small", OTHERS, mosquitto, layout.PROGRAMS_PORT)
    for name in (*PROGRAMS, "retirement", "operator"):
        assert may_reach("small", ours(name), mosquitto, layout.PROGRAMS_PORT)
        assert not may_reach("small", ours(name), mosquitto, layout.DEVICES_PORT)
    assert not may_reach("small", mosquitto, INTERNET, 443)
    published = [
        s for s in of_kind("small", "Service").values() if s["spec"].get("type", "") == "LoadBalancer"
    ]
    assert [port["port"] for s in published for port in s["spec"]["ports"]] == [layout.DEVICES_PORT]


def test_the_brokers_configuration_names_what_is_mounted(files: dict[str, dict[str, bytes]]) -> None:
    spec = pods("small")["mosquitto"]["spec"]
    described = container("small", "mosquitto")
    mounts = {each["name"]: each["mountPath"] for each in described["volumeMounts"]}
    there = {f"{MOUNTED}/{key}" for key in files["mosquitto"]}
    for volume in spec["volumes"]:
        if volume["name"] == "access":
            there |= {f"{mounts['access']}/{item['path']}" for item in volume["secret"]["items"]}
    text = files["mosquitto"]["tls-listeners.conf"].decode()
    state = f"{mounts['data']}/{layout.BROKER_STATE}"
    assert state in text
    assert set(re.findall(r"/(?:run|mosquitto)/[\w./-]+", text)) <= there | {state}
    command = described["readinessProbe"]["exec"]["command"]
    assert {each for each in command if each.startswith(MOUNTED)} <= there
    assert command[command.index("-p") + 1] == str(layout.PROGRAMS_PORT)
    assert command == COMPOSE["services"]["mosquitto"]["healthcheck"]["test"][1:]
    # mosquitto_sub's options, with the password, are in a file.
    [options] = described["env"]
    [probe] = [v for v in spec["volumes"] if v["name"] == "probe"]
    assert options == {"name": "XDG_CONFIG_HOME", "value": mounts["probe"]}
    assert probe["secret"]["items"] == [{"key": "probe", "path": "mosquitto_sub"}]
    [config] = [v["projected"]["sources"] for v in spec["volumes"] if v["name"] == "config"]
    data = of_kind("small", "ConfigMap")[config[0]["configMap"]["name"]]["data"]
    items = [item for source in config for each in source.values() for item in each["items"]]
    assert {item["key"] for item in items} == {*data, "tls-listeners.conf"}
    assert f"include_dir {mounts['config']}/include" in data["mosquitto.conf"]
    included = sorted(Path(i["path"]).name for i in items if i["path"].startswith("include/"))
    assert included[-1] == "tls-listeners.conf"
    assert all(name.endswith(".conf") for name in included)
    ports = {port["name"]: port["containerPort"] for port in described["ports"]}
    assert ports == {"devices": layout.DEVICES_PORT, "programs": layout.PROGRAMS_PORT}
    # The first start takes the accounts from the Secret.
    [accounts] = spec["initContainers"]
    assert accounts["args"] == [f"{MOUNTED}/{layout.BROKER_STATE}", state]


def test_what_runs_before_the_broker_gives_it_accounts_and_new_passwords(
    files: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    [accounts] = pods("small")["mosquitto"]["spec"]["initContainers"]
    given, state = tmp_path / "given", tmp_path / "state"
    given.write_bytes(files["mosquitto"][layout.BROKER_STATE])
    [python, *module] = accounts["command"]
    assert python == "python"

    def start() -> Any:
        subprocess.run([sys.executable, *module, str(given), str(state)], check=True, cwd=ROOT, timeout=60)
        assert state.stat().st_mode & 0o777 == 0o600
        return json.loads(state.read_text())

    assert start() == json.loads(given.read_text())
    # As Mosquitto 2.1 writes it, with a device that was let in meanwhile.
    own = json.loads(state.read_text())
    for client in own["clients"]:
        hashed = [str(client.pop(each)) for each in ("iterations", "salt", "password")]
        client["encoded_password"] = "$".join(["", "7", *hashed])
    own["clients"].append({"username": "PB-1", "encoded_password": "its own", "roles": []})
    state.write_text(json.dumps(own))
    rotated = json.loads(given.read_text())
    rotated["clients"][0] |= {"password": "another", "salt": "of its own"}
    given.write_text(json.dumps(rotated))
    after = start()
    assert after["clients"][:-1] == rotated["clients"]
    assert after["clients"][-1] == own["clients"][-1]
    assert {key: after[key] for key in after if key != "clients"} == {
        key: own[key] for key in own if key != "clients"
    }
