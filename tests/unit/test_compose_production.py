"""docker-compose.production.yml and what `pisync init-production` makes fit; nothing is started."""

import os
import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from cli.production import broker, check, derived, layout, place
from cli.production.generate import generate
from local_stack.servers import MONGOD_EVICTION
from pisync import limits, settings
from pisync.broker_access import Program
from tests.support.production import COMPOSE, ROOT, SERVICES, environment, secret_files

DEVELOPMENT: Final[dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
PROGRAMS: Final = ("bridge", "api", "worker")
ONE_SHOT: Final = {"mongodb-users", "operator"}
STAYING: Final = [name for name in SERVICES if name not in ONE_SHOT]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set-up that was made."""
    root = tmp_path_factory.mktemp("made") / "production"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, "give", lambda directory: None)
        generate(root, "pisync.example.org", broker.IMAGES["2.1"])
    return root


def by_default(value: object) -> str:
    """What Compose makes of a value with the env file and nothing else."""
    text = re.sub(r"\$\{PISYNC_DOMAIN(:\?[^}]*)?\}", "pisync.example.org", str(value))
    return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)


def test_every_secret_is_made_and_every_made_secret_is_mounted(made: Path) -> None:
    sources = {
        str(Path(secret["file"].replace("${PISYNC_PRODUCTION}", str(made))).relative_to(made))
        for secret in COMPOSE["secrets"].values()
    }
    there = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    assert sources <= there
    used = {
        entry if isinstance(entry, str) else entry["source"]
        for service in SERVICES.values()
        for entry in service.get("secrets", [])
    }
    assert used == set(COMPOSE["secrets"])
    # Not mounted: an account that no service of this file has.
    beside = {"secrets/replayer_mqtt_url"}
    secrets = {f"secrets/{name}" for name in derived.files(dict.fromkeys(layout.accounts(), "x"))}
    assert secrets - sources == beside


def test_nothing_that_signs_is_mounted_but_for_who_issues_certificates() -> None:
    for name in SERVICES:
        mounted = [str(path) for path in secret_files(name, Path("/x")).values()]
        assert not [path for path in mounted if path.endswith("ca.key")]
        volumes = SERVICES[name].get("volumes", [])
        directories = [each["source"] if isinstance(each, dict) else each.split(":")[0] for each in volumes]
        signs = [each for each in map(by_default, directories) if each.endswith("authority")]
        assert signs == (["${PISYNC_PRODUCTION}/authority"] if name == "operator" else [])


def test_the_api_reads_the_devices_authority_where_it_is_told_to_alone() -> None:
    """One variable is the setting, and mounts it under its own path, read-only."""
    variable = f"{settings.PREFIX}ENROLMENT_CA_DIRECTORY"
    # Without a value Compose passes on what it has, and sets nothing where it has none.
    assert SERVICES["api"]["environment"][variable] is None
    [volume] = SERVICES["api"]["volumes"]
    assert (volume["type"], volume["read_only"]) == ("bind", True)
    assert by_default(volume["source"]) == "/dev/null"
    told = {re.sub(rf"\$\{{{variable}:-.*?\}}", "/x", volume[each]) for each in ("source", "target")}
    assert told == {"/x"}


def test_no_setting_holds_a_secret() -> None:
    secrets = {f"PISYNC_{name.upper()}" for name in settings.secret_settings()}
    for service in SERVICES.values():
        assert not secrets & service.get("environment", {}).keys()
    text = (ROOT / "docker-compose.production.yml").read_text()
    assert not re.search(r"(?i)password|passwd", re.sub(r"(?m)#.*$", "", text).replace("password among", ""))


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_programs_start_with_their_settings(
    name: str, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in list(os.environ):  # noqa: TID251 - the settings of the shell that runs the tests go
        if variable.startswith(settings.PREFIX):
            monkeypatch.delenv(variable)
    program = settings.PROGRAMS[name]
    assert set(SERVICES[name]["environment"]) <= settings.variables(program)
    files = secret_files(name, made)
    for variable, value in environment(name).items():
        monkeypatch.setenv(variable, str(files[value]) if variable.endswith("_FILE") else by_default(value))
    # In the URLs stands the container's path of the authority, which is looked for here.
    trusted = str(made / layout.AUTHORITY / "ca.pem")
    for kind in ("mongodb_url", "redis_url"):
        text = files[f"/run/secrets/{kind}"].read_text().replace(derived.TRUSTED, trusted)
        local = made.parent / f"{name}_{kind}"
        local.write_text(text)
        monkeypatch.setenv(f"PISYNC_{kind.upper()}_FILE", str(local))
    loaded = settings.load(program)
    assert loaded.mqtt.tls
    assert loaded.mqtt.host == "mosquitto"
    assert loaded.mqtt.port == layout.PROGRAMS_PORT
    assert f"://{name}:" in loaded.mongodb_url
    assert "@mongodb:27017/pisync?tls=true&" in loaded.mongodb_url
    assert "@redis:6379/0?" in loaded.redis_url
    assert loaded.mqtt.username == f"@{name}"


def test_only_two_ports_are_published_and_both_speak_tls() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert {name: [by_default(port) for port in ports] for name, ports in published.items()} == {
        "mosquitto": ["8883:8883"],
        "proxy": ["443:8443"],
    }
    proxy = (ROOT / "deploy" / "proxy" / "haproxy.cfg").read_text()
    binds = re.findall(r"(?m)^ *bind (.*)$", proxy)
    assert binds == [":8443 ssl crt /run/secrets/certificate alpn h2,http/1.1"]
    assert "path /metrics" in proxy
    # The api exempts its proxy from its own bound for each address.
    assert f"reject if {{ sc0_conn_cur gt {limits.HTTP_CONNECTIONS_OF_ADDRESS_MAX} }}" in proxy


def test_networks_keep_apart_who_has_nothing_to_say_to_each_other() -> None:
    networks = {name: set(service.get("networks", [])) for name, service in SERVICES.items()}
    assert COMPOSE["networks"]["inside"]["internal"] is True
    assert COMPOSE["networks"]["front"]["internal"] is True
    for name in ("mongodb", "redis", "bridge", "operator"):
        assert networks[name] == {"inside"}
    assert networks["proxy"] == {"edge", "front"}
    assert [name for name, own in networks.items() if "front" in own] == ["api", "proxy"]
    assert SERVICES["mongodb-users"]["network_mode"] == "service:mongodb"
    [network] = COMPOSE["networks"]["front"]["ipam"]["config"]
    assert SERVICES["api"]["environment"]["PISYNC_TRUSTED_PROXIES"] == network["subnet"]


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_runs_as_root_or_may_become_it(name: str) -> None:
    service = SERVICES[name]
    assert service["user"].startswith("${PISYNC_USER:?")
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
    assert float(service["stop_grace_period"].removesuffix("s")) > 10  # Compose's own default


def test_the_bridge_is_asked_for_its_connection_to_the_programs_port() -> None:
    assert f":{layout.PROGRAMS_PORT:04X} 01 " in SERVICES["bridge"]["healthcheck"]["test"]


def test_the_programs_start_when_the_users_are_there() -> None:
    for name in PROGRAMS:
        assert SERVICES[name]["depends_on"] == {
            "mosquitto": {"condition": "service_healthy"},
            "mongodb-users": {"condition": "service_completed_successfully"},
            "redis": {"condition": "service_healthy"},
        }


def test_images_and_what_they_run_are_those_of_the_other_file() -> None:
    for name in ("mosquitto", "mongodb", "redis", *PROGRAMS):
        assert SERVICES[name]["image"] == DEVELOPMENT[name]["image"]
    assert MONGOD_EVICTION in SERVICES["mongodb"]["command"]
    ours, theirs = (each["redis"]["command"] for each in (SERVICES, DEVELOPMENT))
    assert ours[ours.index("--appendonly") :] == theirs[theirs.index("--appendonly") :]


def test_the_brokers_listeners_name_what_is_mounted(made: Path) -> None:
    text = (made / layout.BROKER / layout.BROKER_LISTENERS).read_text()
    mounted = set(secret_files("mosquitto", made))
    named = set(re.findall(r"/run/secrets/\w+", text))
    assert named
    assert named <= mounted
    volumes = [volume.split(":")[1] for volume in SERVICES["mosquitto"]["volumes"]]
    paths = re.findall(r"(/mosquitto/\w+)/", text)
    assert set(paths) == set(volumes)
    # Options behind a listener are the listener's: the file of the listeners is read last.
    included = sorted(
        Path(entry["target"]).name
        for entry in (*SERVICES["mosquitto"]["configs"], *SERVICES["mosquitto"]["secrets"])
        if isinstance(entry, dict) and "/include/" in entry["target"]
    )
    assert included[-1] == "tls-listeners.conf"


def test_the_health_check_of_the_broker_has_its_options_in_a_file(made: Path) -> None:
    service = SERVICES["mosquitto"]
    path = secret_files("mosquitto", made)[f"{service['environment']['XDG_CONFIG_HOME']}/mosquitto_sub"]
    assert path.read_text().split()[:2] == ["-u", f"@{Program.OBSERVER}"]
    assert "-P" not in service["healthcheck"]["test"]


def test_data_is_in_directories_that_are_made(made: Path) -> None:
    for name in layout.DATA_OF:
        assert SERVICES[name]["volumes"][0].split(":")[0].endswith(f"}}/data/{name}")
        assert (made / layout.DATA / name).is_dir()
    assert check.findings(made) == []
