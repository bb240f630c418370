"""Settings: what is wrong or contradicts itself stops the program and is named."""

import os
from pathlib import Path

import pytest

from pisync import limits, settings
from pisync.domain.access import Role
from pisync.errors import ConfigurationError
from pisync.mqtt.address import MqttAddress
from pisync.settings import ApiSettings, BridgeSettings, CommonSettings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):  # noqa: TID251 - the settings of the shell that runs the tests go
        if name.startswith(settings.PREFIX):
            monkeypatch.delenv(name)


def test_the_defaults_are_safe() -> None:
    api = settings.load(ApiSettings)
    assert api.http_host == "127.0.0.1"
    assert settings.load(ApiSettings).api_id != api.api_id
    assert settings.load(BridgeSettings).inflight_bytes_max == limits.INFLIGHT_BYTES_MAX


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PISYNC_MQTT_URL", "mqtts://us%40er:p%2Fw@[::1]:9999")
    monkeypatch.setenv("PISYNC_API_KEYS", "0123456789abcdef, fedcba9876543210")
    loaded = settings.load(ApiSettings, http_port=1)
    address = loaded.mqtt
    assert (address.host, address.port, address.tls) == ("::1", 9999, True)
    assert (address.username, address.password) == ("us@er", "p/w")
    assert "p/w" not in str(address)
    assert [key.get_secret_value() for key in loaded.api_keys] == ["0123456789abcdef", "fedcba9876543210"]
    assert "0123456789abcdef" not in repr(loaded)
    assert loaded.http_port == 1


WRONG_FOR_ALL = [
    ({"PISYNC_MQTT_URL": "http://x"}, "PISYNC_MQTT_URL"),
    ({"PISYNC_MQTT_URL": "mqtt://"}, "no host"),
    ({"PISYNC_MQTT_URL": "mqtt://x/y"}, "no path"),
    ({"PISYNC_MQTT_URL": "mqtt://:pw@x"}, "user name"),
    ({"PISYNC_MQTT_URL": "mqtt://x:99999"}, "PISYNC_MQTT_URL"),
    ({"PISYNC_MQTT_CA_FILE": "/nowhere/ca.pem"}, "not encrypted"),
    ({"PISYNC_MQTT_URL": "mqtts://x", "PISYNC_MQTT_CA_FILE": "/nowhere/ca.pem"}, "no file"),
    ({"PISYNC_MONGODB_URL": "mongodb://x"}, "database"),
    ({"PISYNC_MONGODB_URL": "postgres://x/y"}, "PISYNC_MONGODB_URL"),
    ({"PISYNC_MONGODB_URL": "mongodb://x/y?w=0"}, "its option w must be majority"),
    ({"PISYNC_MONGODB_URL": "mongodb://x/y?journal=false"}, "journal"),
    (
        {"PISYNC_MONGODB_URL": "mongodb://x/y?readPreference=secondaryPreferred"},
        "readPreference must be primary",
    ),
    ({"PISYNC_MONGODB_URL": "mongodb://x/y?READCONCERNLEVEL=available"}, "readConcernLevel must be majority"),
    ({"PISYNC_MONGODB_URL": "mongodb://x/y?retryWrites=false"}, "retryWrites must be true"),
    ({"PISYNC_MONGODB_URL": "mongodb://x/y?wtimeoutMS=1"}, "may not set wTimeoutMS: PiSync sets its own"),
    ({"PISYNC_MONGODB_URL": "mongodb://x/y?tlsInsecure=true"}, "may not set tlsInsecure"),
    ({"PISYNC_MONGODB_URL": "mongodb://x/y?appName=a;w=0"}, "appName must be a text without a semicolon"),
    (
        {"PISYNC_MONGODB_URL": "mongodb://x/y?retryWrite=true"},
        "option number 1 is not known (is it retryWrites?)",
    ),
    ({"PISYNC_MONGODB_URL": "mongodb://x/y?w=majority&W=majority"}, "sets w more than once"),
    ({"PISYNC_REDIS_URL": "redis://x/0?decode_responses=false"}, "may not set decode_responses"),
    ({"PISYNC_REDIS_URL": "redis://x/0?ssl_ca_certs=x"}, "ssl_ca_certs: it is for rediss:// only"),
    ({"PISYNC_REDIS_URL": "rediss://x/0?ssl_cert_reqs=none"}, "ssl_cert_reqs must be required"),
    ({"PISYNC_REDIS_URL": "rediss://x/0?ssl_ca_certs=/nowhere"}, "ssl_ca_certs must be the path of a file"),
    ({"PISYNC_REDIS_URL": "redis://x/zero"}, "number of a database"),
    ({"PISYNC_MQTT_URL": "mqtt://x?tls=no"}, "option number 1 is not known"),
    ({"PISYNC_MQTT_URL": "mqtt://a..b"}, "host that is no name"),
    ({"PISYNC_MQTT_URL": "mqtt://x:0"}, "port that is not an integer from 1"),
    ({"PISYNC_REDIS_URL": "x"}, "PISYNC_REDIS_URL"),
    ({"PISYNC_LOG_FORMAT": "xml"}, "PISYNC_LOG_FORMAT"),
    ({"PISYNC_MQTT_ULR": "mqtt://x"}, "PISYNC_MQTT_ULR: there is no such setting"),
]
SERVICE_LINKS = {
    "PISYNC_API_SERVICE_HOST": "10.0.0.7",
    "PISYNC_API_SERVICE_PORT": "8080",
    "PISYNC_API_SERVICE_PORT_HTTP": "8080",
    "PISYNC_API_PORT": "tcp://10.0.0.7:8080",
    "PISYNC_API_PORT_8080_TCP": "tcp://10.0.0.7:8080",
    "PISYNC_API_PORT_8080_TCP_PROTO": "tcp",
    "PISYNC_API_PORT_8080_TCP_PORT": "8080",
    "PISYNC_API_PORT_8080_TCP_ADDR": "10.0.0.7",
}
WRONG_FOR_ALL += [
    (SERVICE_LINKS, "Kubernetes sets such variables in every pod for the service named pisync-api."),
    # These would be settings: the services are named pisync-http and pisync-metrics.
    (
        {"PISYNC_HTTP_PORT": "tcp://10.0.0.7:80"},
        "the service named pisync-http. Set enableServiceLinks: false",
    ),
    ({"PISYNC_METRICS_PORT": "udp://10.0.0.7:80"}, "the service named pisync-metrics."),
    ({"PISYNC_PORT": "tcp://10.0.0.7:80"}, "the service named pisync."),
]
WRONG_FOR_THE_BRIDGE = [
    ({"PISYNC_BRIDGE_ID": "a/b"}, "PISYNC_BRIDGE_ID: must be 1 to 64"),
    ({"PISYNC_INFLIGHT_BYTES_MAX": "1000"}, "PISYNC_INFLIGHT_BYTES_MAX must hold"),
    ({"PISYNC_INFLIGHT_MESSAGES_MAX": "2"}, "PISYNC_INFLIGHT_MESSAGES_MAX is smaller"),
]
WRONG_FOR_THE_API = [
    ({"PISYNC_HTTP_PORT": "70000"}, "PISYNC_HTTP_PORT"),
    ({"PISYNC_HTTP_PORT": "many"}, "PISYNC_HTTP_PORT"),
    ({"PISYNC_API_KEYS": "short"}, "16 characters"),
    ({"PISYNC_API_KEYS": "gateway:ingest:short"}, "16 characters"),
    ({"PISYNC_API_KEYS": "gateway:ingets:0123456789abcdef"}, "at place 1 has colons"),
    ({"PISYNC_API_KEYS": ":read:0123456789abcdef"}, "at place 1 has colons"),
    ({"PISYNC_API_KEYS": "a:read:0123456789abcdef,a:admin:0123456789abcdee"}, "each name may be given once"),
    ({"PISYNC_API_ID": "a/b"}, "PISYNC_API_ID: must be 1 to 64"),
]


def fault(program: type[CommonSettings]) -> str:
    with pytest.raises(ConfigurationError) as raised:
        settings.load(program)
    return str(raised.value)


@pytest.mark.parametrize("program", [CommonSettings, BridgeSettings, ApiSettings])
@pytest.mark.parametrize(("environment", "message"), WRONG_FOR_ALL)
def test_what_is_wrong_for_all_stops_every_program(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    message: str,
    program: type[CommonSettings],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert message in fault(program)


@pytest.mark.parametrize(
    ("environment", "message", "program", "others"),
    [
        *((*row, BridgeSettings, (ApiSettings, CommonSettings)) for row in WRONG_FOR_THE_BRIDGE),
        *((*row, ApiSettings, (BridgeSettings, CommonSettings)) for row in WRONG_FOR_THE_API),
    ],
)
def test_what_is_wrong_for_one_program_stops_that_one_alone(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    message: str,
    program: type[CommonSettings],
    others: tuple[type[CommonSettings], ...],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert message in fault(program)
    for other in others:
        settings.load(other)


def test_faults_of_what_is_common_and_of_the_program_are_told_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PISYNC_REDIS_URL", "x")
    monkeypatch.setenv("PISYNC_BRIDGE_ID", "a/b")
    assert [line.partition(":")[0] for line in fault(BridgeSettings).splitlines()] == [
        "PISYNC_REDIS_URL",
        "PISYNC_BRIDGE_ID",
    ]


def test_a_program_is_given_no_setting_of_another() -> None:
    with pytest.raises(ConfigurationError, match=r"^--http-port: Extra inputs"):
        settings.load(BridgeSettings, http_port=1)


@pytest.mark.parametrize(
    ("ca_file", "url", "message"),
    [
        (None, "mqtt://", "--mqtt-url: names no host"),
        ("/nowhere/ca.pem", "mqtt://x", "PISYNC_MQTT_CA_FILE is set, but --mqtt-url is mqtt://, "),
    ],
)
def test_a_fault_of_an_option_names_the_option(
    ca_file: str | None, url: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ca_file is not None:
        monkeypatch.setenv("PISYNC_MQTT_CA_FILE", ca_file)
    with pytest.raises(ConfigurationError) as raised:
        settings.load(CommonSettings, mqtt_url=url)
    assert str(raised.value).startswith(message)
    assert "PISYNC_MQTT_URL" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "scheme", "path"),
    [("mqtt", "mqtt", ""), ("mongodb", "mongodb", "/pisync"), ("redis", "redis", "/0")],
)
@pytest.mark.parametrize(
    "password", ["s3/cret", "s3?cret", "s3#cret", "s3@cret", "/s3", "[s3/cret", "s3,/cret"]
)
@pytest.mark.parametrize("user", ["", "u"])
def test_a_password_that_is_not_percent_encoded_is_told_as_that(
    name: str, scheme: str, path: str, password: str, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"PISYNC_{name.upper()}_URL", f"{scheme}://{user}:{password}@127.0.0.1{path}")
    assert "must be percent-encoded" in fault(CommonSettings)


def test_a_configured_key_has_a_name_and_a_role_or_is_an_admins(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = "0123456789abcdef,gateway:ingest:with:colons-0123456789,one:colon-0123456789"
    monkeypatch.setenv("PISYNC_API_KEYS", keys)
    found = settings.load(ApiSettings).configured_keys
    assert [(each.name, set(each.roles), each.secret.get_secret_value()) for each in found] == [
        ("configured-1", {Role.ADMIN}, "0123456789abcdef"),
        ("gateway", {Role.INGEST}, "with:colons-0123456789"),
        ("configured-3", {Role.ADMIN}, "one:colon-0123456789"),
    ]
    assert "0123456789" not in repr(found)


def test_default_ports() -> None:
    assert MqttAddress("mqtt://x").port == 1883
    assert MqttAddress("mqtts://x").port == 8883


def test_a_child_sees_only_the_settings_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PISYNC_HTTP_PORT", "1")
    monkeypatch.setenv("UNRELATED", "x")
    child = settings.child_environment({"bridge_id": "b"})
    assert {name: value for name, value in child.items() if name.startswith("PISYNC_")} == {
        "PISYNC_BRIDGE_ID": "b"
    }
    assert child["UNRELATED"] == "x"


def test_a_certificate_and_its_key_are_set_together_and_travel_with_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file.pem"
    file.touch()
    monkeypatch.setenv("PISYNC_MQTT_CERT_FILE", str(file))
    assert "MQTT_CERT_FILE is set, but MQTT_URL is mqtt://" in fault(CommonSettings)
    monkeypatch.setenv("PISYNC_MQTT_URL", "mqtts://127.0.0.1")
    assert "MQTT_CERT_FILE and MQTT_KEY_FILE are set together, or neither" in fault(CommonSettings)
    monkeypatch.setenv("PISYNC_MQTT_KEY_FILE", str(tmp_path / "absent"))
    assert "MQTT_KEY_FILE: there is no file" in fault(CommonSettings)
    monkeypatch.setenv("PISYNC_MQTT_KEY_FILE", str(file))
    shows = settings.load(CommonSettings).mqtt.shows
    assert shows is not None
    assert (shows.certificate, shows.key) == (file, file)
