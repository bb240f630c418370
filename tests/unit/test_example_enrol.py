"""examples/enrol.sh against the api: a device's key is signed, and stays where it was made."""

import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import uvicorn
from structlog.testing import capture_logs

from api.enrolment import Enrolment, Stores
from local_stack import ports
from pisync import clock
from pisync.domain.enrolment import hash_of, new_token
from pisync.pki import Authority, read_certificate
from pisync.stores.interfaces.credentials import EnrolmentToken
from tests.support.api_client import Api

SCRIPT = Path(__file__).parents[2] / "examples/enrol.sh"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, str]]:
    authority = Authority.create(tmp_path_factory.mktemp("ca") / "ca")

    def enrolment(api: Api) -> Enrolment:
        stores = Stores(tokens=api.enrolment_tokens, credentials=api.credentials, actions=api.actions)
        return Enrolment(authority, stores)

    pisync = Api(enrolment=enrolment)
    port = ports.any_free()
    server = uvicorn.Server(uvicorn.Config(pisync.app, port=port, lifespan="off", log_config=None, ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    with capture_logs():
        yield pisync, f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


async def token_for(pisync: Api, device_id: str, path: Path) -> Path:
    token = new_token()
    until = clock.now() + timedelta(days=1)
    kept = EnrolmentToken(device_id=device_id, token_hash=hash_of(token), expires_at=until, given_by="ann")
    await pisync.enrolment_tokens.put([kept])
    path.write_text(f"{token}\n")  # noqa: ASYNC240 - a few bytes
    return path


def enrol(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )


async def test_the_key_stays_and_its_certificate_comes(served: tuple[Api, str], tmp_path: Path) -> None:
    pisync, url = served
    token = await token_for(pisync, "PB-1", tmp_path / "token")
    place = tmp_path / "etc"
    done = enrol("PB-1", f"{url}/", token, place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path.name for path in place.iterdir()} == {"PB-1.key", "PB-1.pem"}
    assert (place / "PB-1.key").stat().st_mode & 0o777 == 0o600
    certificate = read_certificate((place / "PB-1.pem").read_bytes())
    assert certificate.common_name == "PB-1"
    [credential] = pisync.credentials.kept["PB-1"].entry.credentials
    assert credential.identifier == certificate.serial
    # Once it is there, nothing is asked of anybody.
    assert enrol("PB-1", "http://127.0.0.1:1", token, place).returncode == 0


async def test_where_the_answer_was_lost_the_same_key_is_sent_again(
    served: tuple[Api, str], tmp_path: Path
) -> None:
    pisync, url = served
    token = await token_for(pisync, "PB-2", tmp_path / "token")
    place = tmp_path / "etc"
    assert enrol("PB-2", "http://127.0.0.1:1", token, place).returncode == 1
    key = (place / "PB-2.key").read_bytes()
    assert enrol("PB-2", url, token, place).returncode == 0
    first = (place / "PB-2.pem").read_bytes()
    (place / "PB-2.pem").unlink()
    assert enrol("PB-2", url, token, place).returncode == 0
    assert ((place / "PB-2.pem").read_bytes(), (place / "PB-2.key").read_bytes()) == (first, key)


async def test_the_token_is_found_in_what_the_command_wrote(served: tuple[Api, str], tmp_path: Path) -> None:
    pisync, url = served
    token = (await token_for(pisync, "PB-4", tmp_path / "token")).read_text().strip()
    (tmp_path / "tokens.csv").write_text(f"device_id,token\nPB-4,{token}\nPB-44,{new_token()}\n")
    assert enrol("PB-4", url, tmp_path / "tokens.csv", tmp_path / "etc").returncode == 0
    assert (tmp_path / "etc" / "PB-4.pem").is_file()


async def test_a_wrong_token_is_told_apart_from_what_passes(served: tuple[Api, str], tmp_path: Path) -> None:
    _, url = served
    (tmp_path / "token").write_text(new_token())
    done = enrol("PB-3", url, tmp_path / "token", tmp_path / "etc")
    assert done.returncode == 2
    assert "ask for a new one" in done.stderr
    assert {path.name for path in (tmp_path / "etc").iterdir()} == {"PB-3.key"}
    assert enrol("PB-3").returncode == 64
