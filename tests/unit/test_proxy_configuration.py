"""deploy/proxy: what HAProxy answers itself is an error of the api's, or a page; and what it says of TLS."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from api.problems import MEDIA_TYPE, Problem
from local_stack import ports
from local_stack.process import running
from pisync import limits
from tests.support.certificates import made
from tests.support.haproxy import HaproxyServer

FOLDER: Final = Path(__file__).parents[2] / "deploy" / "proxy"
NAMES: Final = ("haproxy.cfg", "replicas.cfg")
PAGE: Final = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
LATER: Final = str(limits.RETRY_AFTER_S)

Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@pytest.mark.parametrize("name", NAMES)
def test_its_errors_have_the_shape_of_the_apis(name: str) -> None:
    text = (FOLDER / name).read_text()
    told = re.findall(
        r"(?m)^ +http-(?:error|request return) status (\d+) content-type application/problem\+json"
        r" string '(.*?)'(.*)$",
        text,
    )
    assert [int(status) for status, *_ in told] == [500, 502, 503, 504, 404]
    for status, body, rest in told:
        problem = Problem.model_validate_json(body)
        assert problem.model_fields_set == json.loads(body).keys() == Problem.model_fields.keys()
        assert (problem.status, problem.title) == (int(status), HTTPStatus(int(status)).phrase)
        is_later = status in {"502", "503", "504"}
        assert (f" hdr Retry-After {LATER}" == rest) is is_later
    assert MEDIA_TYPE == "application/problem+json"
    assert f'content="{LATER}"' in text


@asynccontextmanager
async def proxied(name: str, directory: Path, answer: Answering | None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of HAProxy, by plain HTTP, before an api that answers so; None: there is none."""
    server = None if answer is None else await asyncio.start_server(answer, ports.HOST, 0)
    port = ports.any_free() if server is None else server.sockets[0].getsockname()[1]
    haproxy = HaproxyServer(directory)
    text = re.sub(r"bind :8443 .*", f"bind {ports.HOST}:{haproxy.port}", (FOLDER / name).read_text())
    text = re.sub(r"server api api:8080 .*", f"server api-1 {ports.HOST}:{port} check inter 100ms", text)
    text = re.sub(r"api-1 10\.0\.0\.1:8080", f"api-1 {ports.HOST}:{port}", text)
    text = re.sub(r"\n *server api-[23] .*|\nresolvers docker(?:\n .*)*", "", text)
    text = text.replace("inter 2s fall 2", "inter 100ms fall 1").replace(
        "timeout server 75s", "timeout server 500ms"
    )
    haproxy.configure(text)
    try:
        async with (
            running(haproxy),
            httpx.AsyncClient(base_url=f"http://{ports.HOST}:{haproxy.port}") as client,
        ):
            yield client
    finally:
        if server is not None:
            server.close()


def is_problem(answer: httpx.Response, status: int) -> None:
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, MEDIA_TYPE)
    assert Problem.model_validate_json(answer.content).status == status


@pytest.mark.parametrize("name", NAMES)
async def test_without_an_api_programs_get_a_problem_and_people_a_page(name: str, tmp_path: Path) -> None:
    async with proxied(name, tmp_path, None) as client:
        answer = await client.post("/api/sync-event", content=b"{}")
        is_problem(answer, 503)
        assert answer.headers["Retry-After"] == LATER
        is_problem(await client.get("/metrics"), 404)
        async with asyncio.timeout(10):  # until a check has failed
            while (page := await client.get("/devices", headers=PAGE)).headers["Content-Type"] == MEDIA_TYPE:
                await asyncio.sleep(0.05)
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert (page.status_code, page.headers["Retry-After"]) == (503, LATER)
        is_problem(await client.get("/api/devices"), 503)


async def test_an_api_that_ends_or_hangs_in_the_middle_is_told_as_a_problem(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/livez" in head or b"/readyz" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        else:
            seen.append(head)
        if b"/hangs" in head:
            await reader.read()
        writer.close()

    async with proxied("haproxy.cfg", tmp_path, answer) as client:
        for path, status in (("/ends", 502), ("/hangs", 504)):
            answered = await client.post(path, content=b"{}", headers={"X-Forwarded-Proto": "https"})
            is_problem(answered, status)
            assert answered.headers["Retry-After"] == LATER
            assert "may be done" in answered.json()["detail"]
    # Without TLS it must not be said that there is some: nobody could sign in.
    assert all(b"\r\nx-forwarded-proto: http\r\n" in head.lower() for head in seen)


@pytest.mark.parametrize("name", NAMES)
async def test_haproxy_takes_it_as_it_is(name: str, tmp_path: Path) -> None:
    text = (FOLDER / name).read_text().replace("/run/secrets/certificate", str(made(tmp_path)))
    HaproxyServer(tmp_path).configure(text)
