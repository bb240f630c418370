"""URLs of servers: whatever is wrong with one is said without quoting it, and never with a traceback."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pymongo import common
from redis.asyncio.connection import URL_QUERY_ARGUMENT_PARSERS

from cli import main
from cli.api_client import ApiClient
from pisync import urls
from pisync.errors import ConfigurationError
from pisync.mqtt.address import MqttAddress
from pisync.settings import PREFIX, ApiSettings, load
from pisync.stores.mongodb.address import check_mongodb_url
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.redis.address import check_redis_url
from pisync.stores.redis.connection import RedisConnection

SECRET: Final = "Zq7Xv9"  # noqa: S105
HALVES: Final = ("Zq7", "Xv9")

OPTIONS: Final = sorted(
    {*common.URI_OPTIONS_VALIDATOR_MAP, *URL_QUERY_ARGUMENT_PARSERS, "tlsCAFile", "ssl_ca_certs"}
)
URLS: Final = {
    "mqtt": ("PISYNC_MQTT_URL", "mqtt", "mqtts"),
    "mongodb": ("PISYNC_MONGODB_URL", "mongodb", "mongodb+srv"),
    "redis": ("PISYNC_REDIS_URL", "redis", "rediss", "unix"),
}
PLACES: Final = (
    "{scheme}://u:{secret}@h/pisync",
    "{scheme}://{secret}:p@h/0",
    "{scheme}://u:{secret}",
    "{scheme}://h:{secret}/pisync",
    "{scheme}://[{secret}]/pisync",
    "{scheme}://h/{secret}",
    "{scheme}://h/{secret}?w=0",
    "{scheme}://h/pisync?{secret}",
    "{scheme}://h/pisync?{secret}=true",
    "{scheme}://h/0?{option}={secret}",
    "{scheme}://u:{secret}@h/pisync?{option}={value}",
    "{scheme}://h/pisync?authMechanism=PLAIN&{option}={secret}",
    "{scheme}://h/pisync#{secret}",
    "{secret}://h/pisync",
    "{secret}",
    "{scheme}:{secret}",
)
secrets = st.builds(
    lambda left, between, right: f"{left}{between}{right}",
    st.just(HALVES[0]),
    st.text(alphabet=":/?#[]@!$&'()*+,;=%.\\\"<> \t\n\x00\x7f\xa0\u2100\ud800\ufffd0", max_size=4),
    st.just(HALVES[1]),
)
values = st.one_of(
    st.sampled_from(["", "0", "-1", "1", "true", "none", "zlib", "snappy", "1e9", "99999999999999999999"]),
    st.text(max_size=6),
)


@st.composite
def broken_urls(draw: st.DrawFn) -> tuple[str, str]:
    name = draw(st.sampled_from(sorted(URLS)))
    scheme = draw(st.sampled_from(URLS[name][1:]))
    url = draw(st.sampled_from(PLACES)).format(
        scheme=scheme, secret=draw(secrets), option=draw(st.sampled_from(OPTIONS)), value=draw(values)
    )
    return name, url


def _mqtt(url: str) -> None:
    MqttAddress(url)


def _mongodb(url: str) -> None:
    MongoConnection(url)


def _redis(url: str) -> None:
    RedisConnection(url)


USES: Final[dict[str, Callable[[str], None]]] = {"mqtt": _mqtt, "mongodb": _mongodb, "redis": _redis}


def fault_of(use: Callable[[], object]) -> Exception | None:
    """How a URL was refused; whatever else is raised would have been a traceback."""
    try:
        use()
    except (ValueError, ConfigurationError) as error:
        if type(error) not in {ValueError, ConfigurationError}:
            raise
        return error
    return None


def quotes(message: str) -> bool:
    return any(half in message for half in HALVES)


@given(broken_urls())
@settings(max_examples=600, deadline=None)
@example(("mqtt", f"mqtt://u:{SECRET}/@h"))
@example(("mongodb", f"mongodb://h/{SECRET}."))
@example(("mongodb", "mongodb://u:Zq7%EF%BF%B9Xv9@h/pisync"))  # what SASLprep does not let pass
@example(
    ("mongodb", f"mongodb://h/x?tlsCertificateKeyFile={__file__}&tlsCertificateKeyFilePassword={SECRET}")
)
@example(("redis", f"redis://\u2100:{SECRET}@h"))
def test_no_message_quotes_a_part_of_a_url(broken: tuple[str, str]) -> None:
    name, url = broken
    fault = fault_of(lambda: USES[name](url))
    assert fault is None or not quotes(str(fault)), str(fault)
    assert fault is None or fault.__suppress_context__ or fault.__context__ is None


@given(broken_urls())
@settings(max_examples=200, deadline=None)
@example(("mongodb", f"mongodb://h:{SECRET}/pisync"))
@example(("redis", f"redis://u:{SECRET}"))
def test_settings_name_the_variable_and_nothing_of_its_value(broken: tuple[str, str]) -> None:
    name, url = broken
    with pytest.MonkeyPatch.context() as patch:
        for variable in [one for one in os.environ if one.startswith(PREFIX)]:  # noqa: TID251 - the shell's
            patch.delenv(variable)
        try:
            patch.setenv(URLS[name][0], url)
        except ValueError:  # a NUL cannot stand there
            return
        loaded: list[ApiSettings] = []
        fault = fault_of(lambda: loaded.append(load(ApiSettings)))
    assert not quotes(repr(loaded))
    if fault is not None:
        assert str(fault).startswith(f"{URLS[name][0]}: ")
        assert not quotes(str(fault))


@given(st.sampled_from(PLACES), st.sampled_from(["http", "https", "ftp"]), secrets)
@settings(max_examples=300, deadline=None)
@example("{scheme}://h:{secret}/pisync", "http", SECRET)
@example("{scheme}://u:{secret}@127.0.0.1:1", "http", SECRET)
def test_the_address_of_the_api_is_not_quoted(place: str, scheme: str, secret: str) -> None:
    url = place.format(scheme=scheme, secret=secret, option="key", value="1")
    fault = fault_of(lambda: ApiClient(url, None))
    assert fault is None or str(fault).startswith("--url")
    assert fault is None or not quotes(str(fault))


@pytest.mark.parametrize("key", [f"{SECRET}\n", f"{SECRET}\x00"])
def test_a_key_that_cannot_be_sent_is_not_quoted(key: str) -> None:
    with pytest.raises(ConfigurationError, match="--key") as raised:
        ApiClient("http://127.0.0.1:1", key)
    assert not quotes(str(raised.value))


def test_an_api_that_does_not_answer_is_not_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://{SECRET}.invalid:12/"
    monkeypatch.setattr("sys.argv", ["pisync", "dead-letters", "list", "--url", url, "--key", "k" * 16])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 69
    assert not quotes("".join(capsys.readouterr()))


@given(
    st.sampled_from(["mongodb", "redis", "rediss"]),
    st.lists(st.tuples(st.sampled_from(OPTIONS), values), max_size=3),
)
@settings(max_examples=600, deadline=None)
def test_no_option_ends_in_a_traceback(scheme: str, options: list[tuple[str, str]]) -> None:
    """What is taken makes a client, and what is not taken is refused by name."""
    url = f"{scheme}://h/{'pisync' if scheme == 'mongodb' else 0}"
    if options:
        url += "?" + "&".join(f"{name}={value}" for name, value in options)
    with suppress(ConfigurationError):
        USES["mongodb" if scheme == "mongodb" else "redis"](url)


def test_what_providers_hand_out_is_taken() -> None:
    url = (
        "mongodb+srv://user:p%40ss@cluster0.abcde.mongodb.net/pisync"
        "?retryWrites=true&w=majority&appName=Cluster0"
    )
    check_mongodb_url(url)
    check_mongodb_url(
        "mongodb://a:1,b:2,[::1]:3/pisync?replicaSet=rs0&readPreference=primary&authSource=admin"
    )
    check_mongodb_url("mongodb://%2Frun%2Fmongodb.sock/pisync")
    check_redis_url("redis://:secret@redis:6379/0")
    check_redis_url("redis://redis")
    check_redis_url("unix://user:pw@/run/redis.sock?db=1")
    assert MqttAddress("mqtt://user:p:w@broker_1").password == "p:w"  # noqa: S105


def test_the_primary_and_what_is_committed_are_pinned() -> None:
    database = MongoConnection("mongodb://h/pisync").database
    assert database.read_preference.mongos_mode == "primary"
    assert database.read_concern.document == {"level": "majority"}
    assert database.write_concern.document == {"w": "majority", "j": True}
    assert database.client.options.retry_writes
    assert database.client.options.retry_reads


hosts = st.from_regex(re.compile(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{1,5}){0,2}"), fullmatch=True)


@given(hosts, st.integers(1, 65_535), st.text(min_size=1), st.text())
def test_a_url_is_taken_apart_as_it_was_put_together(host: str, port: int, user: str, password: str) -> None:
    from urllib.parse import quote  # noqa: PLC0415

    if not (user + password).isprintable():
        return
    try:
        encoded = f"{quote(user, safe='')}:{quote(password, safe='')}"
    except UnicodeEncodeError:
        return
    url = urls.parse(f"mqtt://{encoded}@{host}:{port}", schemes=("mqtt",))
    assert (url.username, url.password) == (user, password)
    assert url.hosts == (urls.Host(name=host, port=port),)
