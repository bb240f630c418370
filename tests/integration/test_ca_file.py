"""A CA file that is of no use stops each program that connects to the broker, with a message."""

import asyncio
from pathlib import Path

import pytest

from tests.support.programs import program

OPTIONS = {"bridge": (), "api": (), "simulate": ("--devices=1", "--events=1", "--timeout-s=30")}


@pytest.mark.parametrize("name", OPTIONS)
async def test_a_ca_file_without_certificates_stops_a_program(
    tmp_path: Path, name: str, mongodb_url: str, redis_url: str
) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text("nothing")
    child = program(
        name,
        tmp_path / "log",
        *OPTIONS[name],
        mqtt_url="mqtts://127.0.0.1:1",
        mqtt_ca_file=ca_file,
        mongodb_url=mongodb_url,
        redis_url=redis_url,
        **({"http_port": 0} if name == "api" else {}),
    )
    await child.start()
    async with asyncio.timeout(60):
        assert await child.wait() == 78
    assert child.log is not None
    log = child.log.read_text()
    assert f"PISYNC_MQTT_CA_FILE: {ca_file} holds no certificates" in log
    assert "Traceback" not in log
