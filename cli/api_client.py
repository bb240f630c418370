"""The api as the command line uses it: one HTTP client, pages followed, and clear errors for what fails."""

import ssl
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx

from pisync import settings, urls
from pisync.domain.payloads import printable
from pisync.errors import ConfigurationError, PiSyncError

# Longer than the api may wait for a receipt (60 s at most), so that its own answer is seen.
ANSWER_TIMEOUT_S: Final = 75.0
CONNECT_TIMEOUT_S: Final = 5.0
# An import of a million entries is looked at and applied before it is answered.
IMPORT_TIMEOUT_S: Final = 3600.0

Json = dict[str, Any]


class ApiRefused(PiSyncError):  # noqa: N818 - what the api did
    """The api answered with a problem, whose document is `body`.

    `errors` are the faults it names, of events, parameters or lines.
    """

    def __init__(self, message: str, status: int, body: Json) -> None:
        super().__init__(message)
        self.status = status
        self.body = body
        self.errors: list[Json] = body.get("errors", [])


def connect(url: str, key: str | None) -> "ApiClient":
    """A client with this key, or with the first in the settings.

    Raises:
        ConfigurationError: the URL or a setting is wrong.
    """
    if key is None:
        keys = settings.load(settings.ApiSettings).api_keys
        key = keys[0].get_secret_value() if keys else None
    return ApiClient(url, key)


class ApiClient:
    """A client of one api, for use in a `with`."""

    def __init__(self, url: str, key: str | None) -> None:
        """Prepare; nothing is sent yet.

        Raises:
            ConfigurationError: the URL is not one, or the key could not be sent. Neither is quoted.
        """
        _check_url(url)
        if key is not None and not key.isprintable():
            raise ConfigurationError("--key: holds a character that cannot be printed")
        self._url = url.rstrip("/")
        self._root_path = urlsplit(self._url).path
        headers = {} if key is None else {b"Authorization": f"Bearer {key}".encode()}
        try:
            self._http = httpx.Client(
                base_url=url.rstrip("/"),
                headers=headers,
                timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                verify=ssl.create_default_context(),  # the system's certificates, as for mqtts://
                trust_env=False,  # no proxy between this machine and itself
            )
        except (httpx.InvalidURL, ValueError):  # whose texts quote the URL
            raise ConfigurationError("--url: cannot be understood") from None

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
        return self._call("GET", path, params=_given(parameters))

    def delete(self, path: str, parameters: Mapping[str, Any] | None = None) -> Json:
        """DELETE; parameters that are None are left out; raises as `get` does."""
        return self._call("DELETE", path, params=_given(parameters))

    def post(self, path: str, parameters: Mapping[str, Any] | None = None) -> Json:
        """POST without a body; parameters that are None are left out; raises as `get` does."""
        return self._call("POST", path, params=_given(parameters))

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
        try:
            with self._http.stream("GET", path, params=_given(parameters)) as response:
                if response.is_success:
                    yield from response.iter_bytes()
                    return
                response.read()
        except httpx.HTTPError as error:
            raise _unreachable(error) from None
        raise _refusal(response, _json(response))

    def rows(self, path: str, name: str, parameters: Mapping[str, Any]) -> Iterator[Json]:
        """All rows of all pages of a list, whose rows are the member `name`; raises as `get` does."""
        page = self.get(path, parameters)
        while True:
            yield from page[name]
            if page["next"] is None:
                return
            page = self.get(page["next"].removeprefix(self._root_path))  # it stands in --url, too

    def _call(self, method: str, path: str, **options: Any) -> Json:
        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise _unreachable(error) from None
        body = _json(response)
        if response.is_success and body is not None:
            return body
        raise _refusal(response, body)


def _unreachable(error: httpx.HTTPError) -> PiSyncError:
    return PiSyncError(
        f"the api cannot be reached at the address in --url: {error or type(error).__name__};"
        " is it running, and is --url right?"
    )


def _refusal(response: httpx.Response, body: Json | None) -> PiSyncError:
    if body is None or "detail" not in body:
        return PiSyncError(
            f"what is at --url answered {response.status_code}, but not as PiSync does; is --url right?"
        )
    message = printable(str(body["detail"]))
    if response.status_code == HTTPStatus.UNAUTHORIZED:
        message += " Give it with --key, or in PISYNC_API_KEYS."
    return ApiRefused(message, response.status_code, body)


def _check_url(url: str) -> None:
    try:
        parts = urls.parse(url, schemes=("http", "https"))
        if len(parts.hosts) != 1:
            raise ValueError("must name one host")
        if parts.username is not None:
            raise ValueError("takes no user name and no password; the api's key is given with --key")
        urls.check_options(parts, taken={}, refused={})
    except ValueError as error:
        raise ConfigurationError(f"--url: {error}") from None


def _given(parameters: Mapping[str, Any] | None) -> Json | None:
    given = {name: value for name, value in (parameters or {}).items() if value is not None}
    return given or None  # {} would wipe the query in a path


def _json(response: httpx.Response) -> Json | None:
    try:
        body = response.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None
