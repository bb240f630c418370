"""A bare FastAPI app under the api's own server options: what any answer costs that FastAPI gives.

`GET /ready` answers with ready bytes, `POST /read` reads its body and answers nothing more than a number.
"""

import asyncio
import sys
from pathlib import Path
from typing import Final

import uvicorn
import uvloop
from fastapi import FastAPI, Request, Response

from api.connections import Connections
from api.service import server_config
from local_stack import ports
from local_stack.process import ChildProcess

_STOP_S: Final = 1


class BareApp(ChildProcess):
    """The app as a process; ready when its port is open."""

    def __init__(self, directory: Path, ready: bytes = b"{}") -> None:
        """Describe the app that answers with these bytes."""
        (directory / "ready.json").write_bytes(ready)
        self.port = ports.any_free()
        super().__init__(
            "bare app",
            [sys.executable, "-m", __name__, str(self.port), str(directory / "ready.json")],
            log=directory / "bare_app.log",
        )

    async def is_ready(self) -> bool:
        """Whether it answers."""
        request = b"GET /ready HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % ports.HOST.encode()
        return await ports.first_line(self.port, request, timeout_s=_STOP_S) is not None


def _app(ready: bytes) -> FastAPI:
    app = FastAPI(redirect_slashes=False)

    @app.get("/ready", response_model=None)
    async def answer() -> Response:
        return Response(ready, media_type="application/json")

    @app.post("/read", response_model=None)
    async def read(request: Request) -> Response:
        return Response(b"%d" % len(await request.body()), 201, media_type="application/json")

    return app


def _main(port: str, ready_file: str) -> None:
    config = server_config(_app(Path(ready_file).read_bytes()), Connections(), stop_s=_STOP_S)
    config.host, config.port = ports.HOST, int(port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    _main(*sys.argv[1:])
