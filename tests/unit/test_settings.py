"""Settings: what is wrong or contradicts itself stops the program and is named."""

import os

import pytest

from pisync import limits, settings
from pisync.errors import ConfigurationError
from pisync.mqtt.address import MqttAddress


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):  # noqa: TID251 - the settings of the shell that runs the tests go
        if name.startswith(settings.PREFIX):
            monkeypatch.delenv(name)


def test_the_defaults_are_safe() -> None:
    loaded = settings.load()
    assert loaded.http_host == "127.0.0.1"
    assert loaded.inflight_bytes_max == limits.INFLIGHT_BYTES_MAX
    assert settings.load().api_id != loaded.api_id


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PISYNC_MQTT_URL", "mqtts://us%40er:p%2Fw@[::1]:9999")
    monkeypatch.setenv("PISYNC_API_KEYS", "0123456789abcdef, fedcba9876543210")
    loaded = settings.load(http_port=1)
    address = loaded.mqtt
    assert (address.host, address.port, address.tls) == ("::1", 9999, True)
    assert (address.username, address.password) == ("us@er", "p/w")
    assert "p/w" not in str(address)
    assert [key.get_secret_value() for key in loaded.api_keys] == ["0123456789abcdef", "fedcba9876543210"]
    assert "0123456789abcdef" not in repr(loaded)
    assert loaded.http_port == 1


WRONG = [
    ({"PISYNC_MQTT_URL": "http://x"}, "PISYNC_MQTT_URL"),
    ({"PISYNC_MQTT_URL": "mqtt://"}, "no host"),
    ({"PISYNC_MQTT_URL": "mqtt://x/y"}, "no path"),
    ({"PISYNC_MQTT_URL": "mqtt://:pw@x"}, "user name"),
    ({"PISYNC_MQTT_URL": "mqtt://x:99999"}, "PISYNC_MQTT_URL"),
    ({"PISYNC_MQTT_CA_FILE": "/nowhere/ca.pem"}, "not encrypted"),
    ({"PISYNC_MQTT_URL": "mqtts://x", "PISYNC_MQTT_CA_FILE": "/nowhere/ca.pem"}, "no file"),
    ({"PISYNC_MONGODB_URL": "mongodb://x"}, "database"),
    ({"PISYNC_MONGODB_URL": "postgres://x/y"}, "PISYNC_MONGODB_URL"),
    ({"PISYNC_MONGODB_URL": "mongodb://x/y?w=0"}, "w=0"),
    ({"PISYNC_MONGODB_URL": "mongodb://x/y?journal=false"}, "journal"),
    ({"PISYNC_REDIS_URL": "x"}, "PISYNC_REDIS_URL"),
    ({"PISYNC_HTTP_HOST": "0.0.0.0"}, "PISYNC_HTTP_HOST"),
    ({"PISYNC_HTTP_PORT": "70000"}, "PISYNC_HTTP_PORT"),
    ({"PISYNC_HTTP_PORT": "many"}, "PISYNC_HTTP_PORT"),
    ({"PISYNC_API_KEYS": "short"}, "16 characters"),
    ({"PISYNC_BRIDGE_ID": "a/b"}, "PISYNC_BRIDGE_ID"),
    ({"PISYNC_INFLIGHT_BYTES_MAX": "1000"}, "INFLIGHT_BYTES_MAX"),
    ({"PISYNC_INFLIGHT_MESSAGES_MAX": "2"}, "INFLIGHT_MESSAGES_MAX"),
    ({"PISYNC_LOG_FORMAT": "xml"}, "PISYNC_LOG_FORMAT"),
    ({"PISYNC_MQTT_ULR": "mqtt://x"}, "PISYNC_MQTT_ULR: there is no such setting"),
]


@pytest.mark.parametrize(("environment", "said"), WRONG)
def test_what_is_wrong_is_said(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], said: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as raised:
        settings.load()
    assert said in str(raised.value)


@pytest.mark.parametrize(
    "guard", [{"PISYNC_API_KEYS": "0123456789abcdef"}, {"PISYNC_ALLOW_ANONYMOUS": "true"}]
)
def test_the_api_opens_beyond_loopback_only_on_purpose(
    monkeypatch: pytest.MonkeyPatch, guard: dict[str, str]
) -> None:
    for name, value in guard.items():
        monkeypatch.setenv(name, value)
    assert settings.load(http_host="0.0.0.0").http_host == "0.0.0.0"


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
