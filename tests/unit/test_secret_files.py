"""Secrets from files: what is in them arrives whole, and nothing that is wrong with them quotes them."""

import os
import string
from pathlib import Path
from urllib.parse import quote

import pytest

from pisync import limits, settings
from pisync.errors import ConfigurationError
from pisync.settings import ApiSettings, CommonSettings, WorkerSettings
from pisync.smtp_address import SmtpAddress
from pisync.stores.mongodb import address as mongodb_address

# Every character that a password may have and a URL, a shell or a configuration file could take for its own.
NASTY = f"{string.punctuation} äß€"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):  # noqa: TID251 - the settings of the shell that runs the tests go
        if name.startswith(settings.PREFIX):
            monkeypatch.delenv(name)


def given(monkeypatch: pytest.MonkeyPatch, path: Path, name: str, content: str | bytes) -> None:
    file = path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    monkeypatch.setenv(f"PISYNC_{name}_FILE", str(file))


def fault(program: type[CommonSettings] = CommonSettings) -> str:
    with pytest.raises(ConfigurationError) as raised:
        settings.load(program)
    return str(raised.value)


def test_the_settings_with_secrets_are_these() -> None:
    secrets = settings.secret_settings()
    assert secrets >= {"mqtt_url", "mongodb_url", "redis_url", "api_keys", "smtp_url"}
    assert not {"http_host", "mqtt_ca_file", "public_url", "log_format"} & secrets
    assert "PISYNC_API_KEYS_FILE" in settings.variables(ApiSettings)
    assert "PISYNC_API_KEYS_FILE" not in settings.variables(CommonSettings)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_password_of_any_characters_arrives_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: str
) -> None:
    password = quote(NASTY, safe="")
    given(monkeypatch, tmp_path, "MQTT_URL", f"mqtts://{password}:{password}@broker{end}")
    given(monkeypatch, tmp_path, "MONGODB_URL", f"mongodb://u:{password}@mongodb/pisync{end}")
    given(monkeypatch, tmp_path, "REDIS_URL", f"rediss://u:{password}@redis:6379/0{end}")
    given(monkeypatch, tmp_path, "SMTP_URL", f"smtps://u:{password}@mail{end}")
    monkeypatch.setenv("PISYNC_SMTP_FROM", "a@example.org")
    loaded = settings.load(WorkerSettings)
    assert (loaded.mqtt.username, loaded.mqtt.password) == (NASTY, NASTY)
    assert mongodb_address.parse(loaded.mongodb_url).password == NASTY
    assert loaded.redis_url.endswith(":6379/0")
    assert SmtpAddress(loaded.smtp_url).password == NASTY
    for shown in (repr(loaded), str(loaded)):
        assert password not in shown
        assert NASTY not in shown


def test_keys_stand_one_a_line_or_with_commas(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given(monkeypatch, tmp_path, "API_KEYS", "0123456789abcdef\nfedcba9876543210,0000111122223333\n")
    keys = [key.get_secret_value() for key in settings.load(ApiSettings).api_keys]
    assert keys == ["0123456789abcdef", "fedcba9876543210", "0000111122223333"]


def test_both_ways_at_once_stop_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given(monkeypatch, tmp_path, "MQTT_URL", "mqtt://u:s3cret@x")
    monkeypatch.setenv("PISYNC_MQTT_URL", "mqtt://u:s3cret@y")
    said = fault()
    assert said.startswith("PISYNC_MQTT_URL and PISYNC_MQTT_URL_FILE are both set")
    assert "s3cret" not in said
    # Compose's `${NAME:-}` sets an empty one.
    monkeypatch.setenv("PISYNC_MQTT_URL", "")
    assert settings.load(CommonSettings).mqtt.host == "x"


def test_an_option_is_stronger_than_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given(monkeypatch, tmp_path, "MQTT_URL", "mqtt://x")
    assert settings.load(CommonSettings, mqtt_url="mqtt://y").mqtt.host == "y"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("\n", "the file is empty"),
        (b"mqtt://u:s3cret\xff@x", "the file is not UTF-8 text"),
        ("mqtt://u:s3cret@x" + " " * limits.SECRET_FILE_BYTES_MAX, "is larger than"),
        ("mqtt://u:s3cret@x\n\n", "must be visible ASCII characters"),
        ("mqtt://u:s3/cret@x", "must be percent-encoded"),
    ],
)
def test_a_file_that_holds_no_usable_secret_is_told_without_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | bytes, message: str
) -> None:
    given(monkeypatch, tmp_path, "MQTT_URL", content)
    said = fault()
    assert said.startswith("PISYNC_MQTT_URL")
    assert message in said
    assert "s3" not in said


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nowhere/mqtts://u:s3cret@x", "PISYNC_MQTT_URL_FILE: the file cannot be read: No such file"),
        ("mqtts://u:s3cret@x", "PISYNC_MQTT_URL_FILE: the file cannot be read: No such file"),
        ("/", "PISYNC_MQTT_URL_FILE: the file cannot be read: "),
        (f"/{'s3cret' * 1000}", "PISYNC_MQTT_URL_FILE: the file cannot be read: File name too long"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.setenv("PISYNC_MQTT_URL_FILE", path)
    said = fault()
    assert said.startswith(message)
    assert "s3cret" not in said


def test_only_secrets_come_from_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PISYNC_HTTP_PORT_FILE", "/x")
    assert "PISYNC_HTTP_PORT_FILE: there is no such setting" in fault(ApiSettings)


def test_the_file_of_another_program_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PISYNC_SMTP_URL_FILE", "/nowhere")
    settings.load(CommonSettings)
    assert "PISYNC_SMTP_URL_FILE" in fault(WorkerSettings)
