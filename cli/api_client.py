"""The api as the command line uses it: one HTTP client, pages followed, and clear errors for what fails."""

import ipaddress
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from http import HTTPStatus
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit

import httpx

from cli.progress import progress
from pisync import settings, urls
from pisync.domain.payloads import printable
from pisync.errors import ConfigurationError, PiSyncError

# Longer than the api may wait for a receipt (60 s at most), so that its own answer is seen.
ANSWER_TIMEOUT_S: Final = 75.0
CONNECT_TIMEOUT_S: Final = 5.0
# Of who does not wait for an api that is loading, nor for one that hangs.
IMPATIENT_TIMEOUT_S: Final = 10.0
# An import of a million entries is looked at and applied before it is answered.
IMPORT_TIMEOUT_S: Final = 3600.0
# How long a command waits for an api that has just started and still reads the fleet.
LOADING_TIMEOUT_S: Final = 60.0
LOADING_INTERVAL_S: Final = 1.0

Json = dict[str, Any]
Answer = TypeVar("Answer")


class ApiAway(PiSyncError):  # noqa: N818 - a state that passes, not a mistake
    """Nothing answers at the address, or something that is not PiSync's api."""

    exit_code = 69


class ApiRefused(PiSyncError):  # noqa: N818 - what the api did
    """The api answered with a problem, whose document is `body`.

    `errors` are the faults it names, of events, parameters or lines.
    """

    def __init__(self, message: str, status: int, body: Json) -> None:
        super().__init__(message)
        self.status = status
        self.body = body
        self.errors: list[Json] = body.get("errors", [])


class StillLoading(ApiRefused):
    """The api still reads the fleet, and a part of it is no answer: `read` devices `of` so many, if known."""

    def __init__(self, message: str, status: int, body: Json) -> None:
        super().__init__(f"{message} Try again in a moment.", status, body)
        self.read: int = body["read"]
        self.of: int | None = body.get("of")


def connect(url: str | None, key: str | None, *, waits: bool = True, option: str = "--url") -> "ApiClient":
    """A client of the api at this address with this key, or of what the settings say.

    `option` is what the address was given with, for what errors say.

    Raises:
        ConfigurationError: the URL or a setting is wrong.
    """
    if url is None or key is None:
        loaded = settings.load(settings.ApiSettings)
        url = url or _address(loaded)
        if key is None and loaded.api_keys:
            key = loaded.configured_keys[0].secret.get_secret_value()
    return ApiClient(url, key, waits=waits, option=option)


def _address(loaded: settings.ApiSettings) -> str:
    """Where an api with these settings is reached from its own machine."""
    host = loaded.http_host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{loaded.http_port}"
    if address.is_unspecified:
        host = "127.0.0.1"
    elif address.version == 6:
        host = f"[{host}]"
    return f"http://{host}:{loaded.http_port}"


class ApiClient:
    """A client of one api, for use in a `with`.

    Where it `waits`, an api that still reads the fleet is asked again for a minute, and standard error says
    how far that is; and one that is slow is given longer than otherwise.
    """

    def __init__(self, url: str, key: str | None, *, waits: bool = True, option: str = "--url") -> None:
        """Prepare; nothing is sent yet.

        Raises:
            ConfigurationError: the URL is not one, or the key could not be sent. Neither is quoted.
        """
        _check_url(url, option)
        self._option = option
        if key is not None and not key.isprintable():
            raise ConfigurationError("--key: holds a character that cannot be printed")
        self._url = url.rstrip("/")
        self._root_path = urlsplit(self._url).path
        self._waits = waits
        self.stale_reads: list[str | None] = []
        """As of when the answers are that were read from secondaries; None: not known."""
        headers = {} if key is None else {b"Authorization": f"Bearer {key}".encode()}
        try:
            self._http = httpx.Client(
                base_url=url.rstrip("/"),
                headers=headers,
                timeout=httpx.Timeout(
                    ANSWER_TIMEOUT_S if waits else IMPATIENT_TIMEOUT_S, connect=CONNECT_TIMEOUT_S
                ),
                verify=_tls_context(self._url),
                trust_env=False,  # no proxy between this machine and itself
            )
        except (httpx.InvalidURL, ValueError):  # whose texts quote the URL
            raise ConfigurationError(f"{option}: cannot be understood") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, parameters: Mapping[str, Any] | None = None) -> Json:
        """GET; parameters that are None are left out.

        Raises:
            ApiRefused: the api answers with an error.
            PiSyncError: it does not answer, or is not PiSync's.
        """
        return self._when_loaded(lambda: self._call("GET", path, params=_given(parameters)))

    def delete(self, path: str, parameters: Mapping[str, Any] | None = None) -> Json:
        """DELETE; parameters that are None are left out; raises as `get` does."""
        return self._call("DELETE", path, params=_given(parameters))

    def post(self, path: str, parameters: Mapping[str, Any] | None = None) -> Json:
        """POST without a body; parameters that are None are left out; raises as `get` does."""
        return self._call("POST", path, params=_given(parameters))

    def send(self, method: str, path: str, body: Json, parameters: Mapping[str, Any] | None = None) -> Json:
        """A request with a JSON body; raises as `get` does."""
        return self._when_loaded(lambda: self._call(method, path, params=_given(parameters), json=body))

    def upload(
        self, path: str, parameters: Mapping[str, Any], media_type: str, pieces: Iterable[bytes]
    ) -> Json:
        """POST a file in pieces; raises as `get` does."""
        return self._call(
            "POST",
            path,
            params=_given(parameters),
            content=pieces,
            headers={"Content-Type": media_type},
            timeout=httpx.Timeout(IMPORT_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        )

    def download(self, path: str, parameters: Mapping[str, Any]) -> Iterator[bytes]:
        """GET a file in pieces; one that is cut off is an error; raises as `get` does."""
        response = self._when_loaded(lambda: self._open(path, parameters))
        try:
            yield from response.iter_bytes()
        except httpx.HTTPError as error:
            raise PiSyncError(f"the answer of the api was cut off: {error or type(error).__name__}") from None
        finally:
            response.close()

    def _open(self, path: str, parameters: Mapping[str, Any]) -> httpx.Response:
        try:
            request = self._http.build_request("GET", path, params=_given(parameters))
            response = self._http.send(request, stream=True)
            if response.is_success:
                return response
            try:
                response.read()
            finally:
                response.close()
        except httpx.HTTPError as error:
            raise _unreachable(error, self._option) from None
        raise _refusal(response, _json(response), self._option)

    def pages(self, path: str, parameters: Mapping[str, Any]) -> Iterator[Json]:
        """All pages of a list, one after the other; raises as `get` does."""
        page = self.get(path, parameters)
        while True:
            yield page
            if page["next"] is None:
                return
            page = self.get(page["next"].removeprefix(self._root_path))  # it stands in --url, too

    def rows(self, path: str, name: str, parameters: Mapping[str, Any]) -> Iterator[Json]:
        """All rows of all pages of a list, whose rows are the member `name`; raises as `get` does."""
        for page in self.pages(path, parameters):
            yield from page[name]

    def _when_loaded(self, ask: Callable[[], Answer]) -> Answer:
        """The answer, once the api has read the fleet."""
        started_s = time.monotonic()
        with ExitStack() as stack:
            update = None
            while True:
                try:
                    return ask()
                except StillLoading as loading:
                    if not self._waits or time.monotonic() - started_s >= LOADING_TIMEOUT_S:
                        raise
                    update = update or stack.enter_context(progress("The api reads the fleet", "devices"))
                    update(loading.read, loading.of or 0)
                time.sleep(LOADING_INTERVAL_S)

    def _call(self, method: str, path: str, **options: Any) -> Json:
        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise _unreachable(error, self._option) from None
        body = _json(response)
        if response.is_success and body is not None:
            if "PiSync-Reads" in response.headers:
                self.stale_reads.append(response.headers.get("PiSync-As-Of"))
            return body
        raise _refusal(response, body, self._option)


def _tls_context(url: str) -> ssl.SSLContext:
    """The system's certificates, as for mqtts://; without https none are read, which takes 20 ms."""
    if urlsplit(url).scheme.lower() == "https":
        return ssl.create_default_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _unreachable(error: httpx.HTTPError, option: str) -> ApiAway:
    settings_too = " (or PISYNC_HTTP_HOST and PISYNC_HTTP_PORT)" if option == "--url" else ""
    return ApiAway(
        f"the api cannot be reached at the address in {option}: {error or type(error).__name__};"
        f" is it running, and is {option}{settings_too} right?"
    )


def _refusal(response: httpx.Response, body: Json | None, option: str) -> PiSyncError:
    if body is None or "detail" not in body:
        return ApiAway(
            f"what is at {option} answered {response.status_code}, but not as PiSync does; is {option} right?"
        )
    message = printable(str(body["detail"]))
    if response.status_code == HTTPStatus.UNAUTHORIZED:
        by_option = "with --key, or " if option == "--url" else ""
        message += f" Give it {by_option}in PISYNC_API_KEYS."
    if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE and isinstance(body.get("read"), int):
        return StillLoading(message, response.status_code, body)
    return ApiRefused(message, response.status_code, body)


def _check_url(url: str, option: str) -> None:
    try:
        parts = urls.parse(url, schemes=("http", "https"))
        if len(parts.hosts) != 1:
            raise ValueError("must name one host")
        if parts.username is not None:
            raise ValueError("takes no user name and no password; the api's key is given with --key")
        urls.check_options(parts, taken={}, refused={})
    except ValueError as error:
        raise ConfigurationError(f"{option}: {error}") from None


def _given(parameters: Mapping[str, Any] | None) -> Json | None:
    given = {name: value for name, value in (parameters or {}).items() if value is not None}
    return given or None  # {} would wipe the query in a path


def _json(response: httpx.Response) -> Json | None:
    try:
        body = response.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None
