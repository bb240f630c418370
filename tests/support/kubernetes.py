"""What deploy/kubernetes/ makes: objects of an overlay, settings and secrets of pods, who may reach whom.

kubectl only renders here (`kubectl kustomize`, `kubectl create --dry-run=client`): no cluster is asked.
"""

import base64
import ipaddress
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
DIRECTORY: Final = ROOT / "deploy" / "kubernetes"
OVERLAYS: Final = tuple(sorted(path.name for path in (DIRECTORY / "overlays").iterdir()))
DOCUMENT: Final = ROOT / "docs" / "kubernetes.md"
PROGRAMS: Final = ("bridge", "api", "worker")
COMPONENT: Final = "app.kubernetes.io/component"
NAMESPACE: Final = "kubernetes.io/metadata.name"
MOUNTED: Final = "/run/secrets"

Object = dict[str, Any]


def kubectl() -> str:
    """The program, of the environment or on PATH; the test is skipped where there is none."""
    found = shutil.which("kubectl", path=Path(sys.executable).parent) or shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl comes with `make setup` on x86-64 Linux alone, and is not on PATH")
    return found


@cache
def objects(overlay: str) -> tuple[Object, ...]:
    """All objects that an overlay makes."""
    return rendered(DIRECTORY / "overlays" / overlay)


def rendered(directory: Path) -> tuple[Object, ...]:
    """All objects that a directory makes."""
    command = [kubectl(), "kustomize", str(directory)]
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert made.returncode == 0, made.stderr
    return tuple(yaml.safe_load_all(made.stdout))


def of_kind(overlay: str, *kinds: str) -> dict[str, Object]:
    """Those of some kinds, by name."""
    return {each["metadata"]["name"]: each for each in objects(overlay) if each["kind"] in kinds}


def pods(overlay: str) -> dict[str, Object]:
    """The templates of all pods, by the name of what makes them."""
    made = of_kind(overlay, "StatefulSet", "Deployment", "CronJob")
    return {name: each["spec"].get("jobTemplate", each)["spec"]["template"] for name, each in made.items()}


def container(overlay: str, name: str) -> Object:
    """The one container of a pod that stays."""
    [found] = pods(overlay)[name]["spec"]["containers"]
    return dict(found)


def pod_names(overlay: str, name: str) -> list[str]:
    """The names of a StatefulSet's pods."""
    count = of_kind(overlay, "StatefulSet")[name]["spec"]["replicas"]
    return [f"{name}-{number}" for number in range(count)]


def environment(overlay: str, name: str, pod_name: str) -> dict[str, str]:
    """A pod's environment, as kubelet makes it of the container, ConfigMaps and the pod's own fields."""
    described = container(overlay, name)
    found: dict[str, str] = {}
    for source in described.get("envFrom", []):
        found |= of_kind(overlay, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    for entry in described.get("env", []):
        if "value" in entry:
            found[entry["name"]] = entry["value"]
        else:
            assert entry["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}} or entry[
                "valueFrom"
            ] == {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}
            found[entry["name"]] = pod_name
    return found


def secrets(root: Path, work: Path) -> dict[str, dict[str, bytes]]:
    """The Secrets that the document's commands make of a production set-up, without a cluster.

    Args:
        root: the directory that `pisync init-production` made.
        work: an empty directory.
    """
    [commands] = re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    stub = work / "kubectl"
    stub.write_text(f'#!/bin/sh\nif [ "$1" = apply ]; then cat; echo ---; else exec {kubectl()} "$@"; fi\n')
    stub.chmod(0o755)
    made = subprocess.run(
        ["/bin/sh", "-ec", commands],
        cwd=root,
        env={"PATH": f"{work}:/usr/bin:/bin", "HOME": str(work)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert made.returncode == 0, made.stderr
    assert not made.stderr, made.stderr
    return {
        each["metadata"]["name"]: {key: base64.b64decode(value) for key, value in each["data"].items()}
        for each in yaml.safe_load_all(made.stdout)
        if each
    }


def mounted_files(overlay: str, name: str, made: Mapping[str, Mapping[str, bytes]]) -> dict[str, bytes]:
    """The files of the Secrets that a pod's program finds, by their paths."""
    mounts = {each["name"]: each["mountPath"] for each in container(overlay, name)["volumeMounts"]}
    return {
        f"{mounts[volume['name']]}/{key}": content
        for volume in pods(overlay)[name]["spec"]["volumes"]
        if "secret" in volume
        for key, content in made[volume["secret"]["secretName"]].items()
    }


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Somebody on the network: a pod with its namespace and labels, or an address outside the cluster."""

    namespace: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""


def may_reach(overlay: str, source: Peer, target: Peer, port: int, *, protocol: str = "TCP") -> bool:
    """Whether the policies let a connection through: out of its source, and into its target."""
    policies = list(of_kind(overlay, "NetworkPolicy").values())
    return _passes(policies, "egress", source, target, (port, protocol)) and _passes(
        policies, "ingress", target, source, (port, protocol), names=_ports(overlay, target)
    )


def _ports(overlay: str, peer: Peer) -> dict[str, int]:
    ports = [
        port
        for pod in pods(overlay).values()
        if pod["metadata"]["labels"].items() <= peer.labels.items()
        for each in pod["spec"]["containers"]
        for port in each.get("ports", [])
    ]
    return {port["name"]: port["containerPort"] for port in ports}


def _passes(
    policies: list[Object],
    direction: str,
    ours: Peer,
    theirs: Peer,
    port: tuple[int, str],
    *,
    names: Mapping[str, int] | None = None,
) -> bool:
    if ours.namespace != "pisync":  # a policy is about the pods of its own namespace
        return True
    applying = [
        policy["spec"]
        for policy in policies
        if selects(policy["spec"]["podSelector"], ours.labels)
        and direction in [each.lower() for each in policy["spec"]["policyTypes"]]
    ]
    assert applying, "nobody is without a policy"
    other = "to" if direction == "egress" else "from"
    return any(
        (other not in rule or any(_is_peer(each, theirs) for each in rule[other]))
        and any(
            ((names or {}).get(each["port"], each["port"]), each["protocol"]) == port
            for each in rule["ports"]
        )
        for spec in applying
        for rule in spec.get(direction, [])
    )


def _is_peer(described: Object, peer: Peer) -> bool:
    if "ipBlock" in described:
        if peer.namespace is not None:  # some network plugins take pods for addresses, others do not
            return False
        address = ipaddress.ip_address(peer.address)
        block = described["ipBlock"]
        left_out = any(address in ipaddress.ip_network(each) for each in block.get("except", []))
        return address in ipaddress.ip_network(block["cidr"]) and not left_out
    if "namespaceSelector" in described:
        here = peer.namespace is not None and selects(
            described["namespaceSelector"], {NAMESPACE: peer.namespace}
        )
    else:
        here = peer.namespace == "pisync"
    return here and selects(described.get("podSelector", {}), peer.labels)


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes something with these labels."""
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    expressions = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(each["key"]) in each["values"] for each in expressions
    )
