"""Several processes of one api: begun, begun again, stopped together; how they end: tests/scale."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from api import processes
from api.processes import settings_of
from api.service import _parent_ended
from local_stack.process import running
from pisync import settings
from pisync.errors import ConfigurationError
from pisync.settings import ApiSettings
from tests.support.api_processes import PROCESSES, ServingApi
from tests.support.commands import forget_settings
from tests.support.waiting import until


async def test_they_share_a_port_are_begun_again_and_stop_together(tmp_path: Path) -> None:
    async with running(ServingApi(tmp_path)) as api:
        before = await api.all_answer()
        assert sorted(before) == ["test-0", "test-1", "test-2"]
        os.kill(before["test-1"], signal.SIGKILL)
        await until(lambda: before["test-1"] not in api.children() and len(api.children()) == PROCESSES)
        after = await api.all_answer()
        assert after["test-1"] != before["test-1"]
        assert (after["test-0"], after["test-2"]) == (before["test-0"], before["test-2"])
        assert "a process of the api ended" in api.text()
        children = list(api.children().values())
        await api.terminate()
        assert await api.wait() == 0, api.text()
        assert not any(child.is_running() for child in children)


def test_a_process_of_somebody_else_that_ends_here_is_none_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the first process of a container it inherits those that lost their parents."""
    forget_settings(monkeypatch)
    ended = [(8, 0), (7, 9)]
    monkeypatch.setattr(os, "waitpid", lambda *_: ended.pop(0))
    with socket.socket() as listener:
        watching = processes._Processes(settings.load(ApiSettings, api_workers=1), listener)
        [ours], watching._waiting = watching._waiting, []
        watching._running = {7: ours}
        watching._reap()
    assert (watching._running, watching._waiting) == ({}, [ours])


async def test_the_end_of_the_one_that_listens_is_noticed_once() -> None:
    """The end of a pipe stays readable: the loop would turn on it until the last request is answered."""
    read_end, write_end = os.pipe()
    os.close(write_end)
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(read_end, _parent_ended, loop, read_end, stop)
    await stop.wait()
    assert not loop.remove_reader(read_end)
    os.close(read_end)


def test_each_has_a_topic_and_a_port_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_settings(monkeypatch)
    loaded = settings.load(ApiSettings, api_id="api", api_workers=3, metrics_port=9101)
    own = [settings_of(loaded, number) for number in range(3)]
    assert [each.api_id for each in own] == ["api-0", "api-1", "api-2"]
    assert [each.metrics_port for each in own] == [9101, 9102, 9103]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"metrics_port": 65534}, "go beyond 65535"), ({"api_id": "a" * 63}, "is too long for the numbers")],
)
def test_places_that_are_none_are_refused(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, object], told: str
) -> None:
    forget_settings(monkeypatch)
    with pytest.raises(ConfigurationError, match=told):
        settings.load(ApiSettings, api_workers=3, **wrong)
    settings.load(ApiSettings, api_workers=1, **wrong)
