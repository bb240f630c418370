"""deploy/systemd/ against the programs, what `pisync init-production` makes, and systemd's own check.

Nothing is started; that is in tests/scale.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from cli.production import layout
from pisync import limits, settings
from pisync.errors import ConfigurationError, SessionTakenOver
from pisync.settings import ApiSettings, BridgeSettings, CommonSettings, WorkerSettings
from tests.support.commands import forget_settings
from tests.support.systemd import CODE, DIRECTORY, PYTHON, ROOT, SERVICES, Unit, unit

READS: Final[dict[str, type[CommonSettings]]] = {
    "pisync-api.service": ApiSettings,
    "pisync-bridge@.service": BridgeSettings,
    "pisync-retire@.service": BridgeSettings,
    "pisync-worker.service": WorkerSettings,
}
PROGRAMS: Final = [name for name in SERVICES if "retire" not in name]
URLS: Final = {
    "mongodb_url": "mongodb://mongodb/pisync",
    "redis_url": "redis://redis",
    "mqtt_url": "mqtts://mqtt",
    "broker_admin_url": "mqtts://mqtt",
    "api_keys": "a-key-of-many-characters",
}


def loaded(described: Unit, directory: Path, monkeypatch: pytest.MonkeyPatch) -> CommonSettings:
    """The settings that its program has, with exactly its environment."""
    forget_settings(monkeypatch)
    for name in described.credentials:
        (directory / name).write_text(URLS.get(name, "any"))
    for name, value in described.environment({"/etc/pisync/pisync.env": ""}, str(directory)).items():
        monkeypatch.setenv(name, value)
    return settings.load(READS[described.name.replace("@3", "@")])


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("with_drop_ins", [False, True])
def test_the_environment_of_each_unit_is_what_its_program_takes(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, with_drop_ins: bool
) -> None:
    described = unit(service, "3", with_drop_ins=with_drop_ins)
    if not with_drop_ins:
        monkeypatch.setitem(URLS, "mqtt_url", "mqtt://mqtt")
    found = loaded(described, tmp_path, monkeypatch)
    assert found.mongodb_url == URLS["mongodb_url"]
    assert found.redis_url == URLS["redis_url"]
    assert found.mqtt_url == URLS["mqtt_url"]
    assert (found.mqtt_cert_file == tmp_path / "certificate") is with_drop_ins
    if isinstance(found, BridgeSettings) and "bridge@" in service:
        assert found.bridge_id == "bridge-3"
    if isinstance(found, ApiSettings):
        assert [key.get_secret_value() for key in found.api_keys] == [URLS["api_keys"]]
    if isinstance(found, WorkerSettings):
        assert bool(found.broker_admin_url) is with_drop_ins


@pytest.mark.parametrize("service", SERVICES)
def test_every_secret_is_a_file_that_init_production_makes_and_none_is_in_the_environment(
    service: str,
) -> None:
    described = unit(service, "3", with_drop_ins=True)
    who = READS[service].__name__.removesuffix("Settings").lower()
    expected = {f"/etc/pisync/{layout.SECRETS}/{who}_{server}_url" for server in ("mongodb", "redis", "mqtt")}
    expected |= {f"/etc/pisync/{layout.CERTIFICATES}/{who}.{end}" for end in ("pem", "key")}
    expected |= {"/etc/pisync/authority.pem"}
    expected |= {"/etc/pisync/secrets/api_keys"} if who == "api" else set()
    expected |= {"/etc/pisync/secrets/warden_mqtt_url"} if who == "worker" else set()
    assert set(described.credentials.values()) == expected
    secret = {f"{settings.PREFIX}{name.upper()}" for name in settings.secret_settings(READS[service])}
    given = described.environment({"/etc/pisync/pisync.env": ""}, "/run/credentials")
    assert not secret & given.keys()


@pytest.mark.parametrize("service", SERVICES)
def test_each_unit_runs_a_command_from_one_place_confined(service: str) -> None:
    described = unit(service, "3")
    assert described.command[:3] == [PYTHON, "-m", "cli"]
    assert described.one("WorkingDirectory") == CODE
    own = {line for line in (DIRECTORY / service).read_text().splitlines() if line.startswith("Protect")}
    for other in SERVICES:
        lines = (DIRECTORY / other).read_text().splitlines()
        assert own <= set(lines)
    assert described.one("DynamicUser") == "yes"
    assert described.all("CapabilityBoundingSet") == []
    assert described.one("MemoryMax")


# Refuses what MemoryDenyWriteExecute does (prctl(2), PR_SET_MDWE, Linux 6.3), then becomes the program given.
CONFINED: Final = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""
ALL_IN_USE: Final = """
import asyncio, ctypes, mmap, os
import api.service, bridge.service, cli.main, worker.service
import numpy, uvloop
print(len(os.listdir("/proc/self/task")))
try:
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
except PermissionError:
    print("confined")
numpy.sort(numpy.arange(9) @ numpy.ones((9, 9)))
ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1)()
uvloop.run(asyncio.sleep(0))
print("works")
"""


def test_programs_work_without_memory_that_is_written_and_run_and_begin_no_threads_for_cores() -> None:
    [described] = {tuple(unit(service).all("MemoryDenyWriteExecute")) for service in SERVICES}
    assert described == ("yes",)
    [threads] = {
        each for service in SERVICES for each in unit(service).all("Environment") if "OPENBLAS" in each
    }
    name, _, value = threads.partition("=")
    assert f"{threads}\n" in (DIRECTORY.parent / "Dockerfile").read_text()
    ended = subprocess.run(
        [sys.executable, "-c", CONFINED, sys.executable, "-c", ALL_IN_USE],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
        env={name: value},
    )
    if ended.returncode == 77:
        pytest.skip("this Linux cannot refuse it")
    assert (ended.stdout.split(), ended.stderr) == (["1", "confined", "works"], "")


@pytest.mark.parametrize("service", SERVICES)
def test_servers_of_this_machine_stop_after_the_programs_that_drain_into_them(service: str) -> None:
    after = unit(service).one("After", "Unit").split()
    assert {"mongod.service", "redis-server.service", "mosquitto.service"} <= set(after)


@pytest.mark.parametrize("service", PROGRAMS)
def test_a_program_comes_back_but_not_where_only_a_person_can_mend_it(service: str) -> None:
    described = unit(service, "3")
    assert described.one("Type") == "exec"  # none of them notifies
    assert described.one("Restart") == "on-failure"
    codes = [int(code) for code in described.one("RestartPreventExitStatus").split()]
    expected = {ConfigurationError.exit_code}
    if "bridge" in service:
        expected.add(
            SessionTakenOver.exit_code
        )  # else the two would take the session from each other for ever
    assert set(codes) == expected
    assert described.one("StartLimitBurst", "Unit")
    assert described.one("PartOf", "Unit") == described.one("WantedBy", "Install") == "pisync.target"


def test_a_stop_waits_for_as_long_as_the_program_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_settings(monkeypatch)
    bridge, api = unit("pisync-bridge@.service", "0"), unit("pisync-api.service")
    drains_s = float(bridge.environment({"/etc/pisync/pisync.env": ""}, "")["PISYNC_DRAIN_TIMEOUT_S"])
    assert float(bridge.one("TimeoutStopSec").removesuffix("s")) >= drains_s + 5
    answers_s = limits.RECEIPT_TIMEOUT_S + limits.STOP_MARGIN_S
    assert float(api.one("TimeoutStopSec").removesuffix("s")) >= answers_s + 5


def systemd_analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is not on PATH; Debian's package `systemd` has it")
    return subprocess.run(
        [found, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(arguments[-1]).parent,
    )


@pytest.fixture
def placed(tmp_path: Path) -> Path:
    """The units, with a Python and a directory that are here."""
    made = tmp_path / "systemd"
    shutil.copytree(DIRECTORY, made)
    for path in made.glob("*.service"):
        path.write_text(path.read_text().replace(PYTHON, sys.executable).replace(CODE, str(tmp_path)))
    return made


def test_systemd_takes_every_unit_and_finds_them_confined(placed: Path) -> None:
    units = [placed / name.replace("@.", "@3.") for name in SERVICES] + [placed / "pisync.target"]
    checked = systemd_analyze("verify", "--man=no", *map(str, units))
    assert (checked.returncode, checked.stderr) == (0, "")
    for name in SERVICES:
        # 0 is confined wholly, 10 not at all; the network alone is 1.
        rated = systemd_analyze(
            "security", "--offline=yes", "--threshold=15", "--no-pager", str(placed / name)
        )
        assert rated.returncode == 0, rated.stdout
    slip = placed / "pisync-api.service"
    slip.write_text(slip.read_text().replace("NoNewPrivileges=yes", "NoNewPriviliges=yes"))
    assert "NoNewPriviliges" in systemd_analyze("verify", "--man=no", str(slip)).stderr
