"""The files of the pages: their addresses have their digest, so that browsers keep them for good."""

import base64
import gzip
import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from api.parameters import StrictRoute

FOLDER: Final = Path(__file__).parent / "static"
router = APIRouter(route_class=StrictRoute, include_in_schema=False)

_MEDIA_TYPES: Final[Mapping[str, str]] = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FOR_GOOD: Final = "public, max-age=31536000, immutable"
# After another version was installed, pages of before ask for what they know: it is not to be kept for good.
_NOT_FOR_GOOD: Final = "no-cache"


class StaticFile:
    """A file with its digest, as it is and compressed."""

    def __init__(self, path: Path) -> None:
        self.content = path.read_bytes()
        self.compressed = gzip.compress(self.content, mtime=0)
        self.media_type = _MEDIA_TYPES[path.suffix]
        digest = hashlib.sha256(self.content).digest()
        self.digest = base64.urlsafe_b64encode(digest[:12]).decode()


@lru_cache(maxsize=1)
def static_files() -> Mapping[str, StaticFile]:
    """All of them, by their path below the folder."""
    return {
        path.relative_to(FOLDER).as_posix(): StaticFile(path)
        for path in sorted(FOLDER.rglob("*"))
        if path.suffix in _MEDIA_TYPES
    }


def address_of(name: str) -> str:
    """The path at which a file is found."""
    return f"/static/{static_files()[name].digest}/{name}"


@router.get("/static/{digest}/{name:path}")
async def static_file(request: Request, digest: str, name: str) -> Response:
    """One file; it holds nothing that anybody may not know, so that no key is asked for."""
    file = static_files().get(name)
    if file is None:
        raise HTTPException(404, "There is no such file.")
    headers = {
        "Cache-Control": _FOR_GOOD if digest == file.digest else _NOT_FOR_GOOD,
        "Vary": "Accept-Encoding",
    }
    if takes_gzip(request):
        headers["Content-Encoding"] = "gzip"
        return Response(file.compressed, headers=headers, media_type=file.media_type)
    return Response(file.content, headers=headers, media_type=file.media_type)


def takes_gzip(request: Request) -> bool:
    """Whether the client says that it understands gzip."""
    return any(
        name.strip() == "gzip" and quality.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
        for line in request.headers.getlist("accept-encoding")
        for name, _, quality in (each.partition(";") for each in line.lower().split(","))
    )
