"""Lists as files, CSV or NDJSON: all rows in pieces, a page at a time, so that memory stays bounded.

A file has the members of a row as columns. CSV (RFC 4180) is UTF-8 without a byte order mark, and begins with
their names; null is an empty cell, a list's elements have a space between them, and a cell that a spreadsheet
would calculate has an apostrophe before it.
"""

import asyncio
import csv
import inspect
import io
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, Final, TypeVar

import msgspec
from fastapi import APIRouter, Response
from fastapi.params import Depends as Dependency
from fastapi.responses import StreamingResponse

from api.directory.reading import FileFormat, harmless
from api.openapi import LOADING, PARAMETERS, UNEXPECTED, Responses

Rows = Sequence[Mapping[str, object]]
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_FORMAT: Final = "file_format"


def list_files(
    router: APIRouter,
    path: str,
    example: Mapping[str, object],
    *,
    summary: str,
    dependencies: Sequence[Dependency],
    headers: Mapping[str, str] | None = None,
    responses: Responses | None = None,
) -> Callable[[Endpoint], Endpoint]:
    """Have GET of a path with the suffix of each format answered by an endpoint that takes `file_format`.

    Args:
        router: where the routes are added.
        path: without the suffix.
        example: a row, for the OpenAPI document.
        summary: what the list is; the format is added.
        dependencies: the role that the routes ask for.
        headers: what beside the usual ones every file has, each with its description.
        responses: answers beside the usual ones.
    """

    def add(endpoint: Endpoint) -> Endpoint:
        for file_format in FileFormat:
            router.add_api_route(
                f"{path}.{file_format}",
                _in_format(endpoint, file_format),
                summary=f"{summary}, as {file_format.upper()}",
                response_model=None,
                dependencies=dependencies,
                responses=_responses(file_format, example, headers or {}, responses or {}),
            )
        return endpoint

    return add


async def file_response(
    file_format: FileFormat,
    name: str,
    columns: Sequence[str],
    pages: AsyncIterator[Rows],
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The file of this name, without a suffix.

    The first page is there before the answer begins, so that what it raises is answered as a problem. One
    that cannot be finished is cut off: it has no end, which every client notices.
    """
    first = await anext(pages, None) or ()
    disposition = {"Content-Disposition": f'attachment; filename="{name}.{file_format}"'}
    return StreamingResponse(
        _pieces(file_format, columns, first, pages),
        media_type=f"{file_format.media_type}; charset=utf-8",
        headers={**disposition, **(headers or {})},
    )


async def _pieces(
    file_format: FileFormat, columns: Sequence[str], first: Rows, pages: AsyncIterator[Rows]
) -> AsyncIterator[bytes]:
    yield b"" if file_format is FileFormat.NDJSON else csv_lines([columns])
    yield _ENCODERS[file_format](first)
    async for page in pages:
        # Others have their turn between pages, also where the client takes all at once.
        await asyncio.sleep(0)
        yield _ENCODERS[file_format](page)


def _csv(rows: Rows) -> bytes:
    return csv_lines([cell_of(value) for value in row.values()] for row in rows)


def csv_lines(rows: Iterable[Sequence[str]]) -> bytes:
    """Rows of cells as lines of CSV."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def cell_of(value: object) -> str:
    """A member of a row as the text of a cell."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int():
            return str(int(value))
        case float():
            return repr(value)
        case str():
            text = str(value)
        case list() | tuple():
            text = " ".join(map(_element, value))
        case Mapping():
            text = msgspec.json.encode(value).decode()
        case _:
            raise TypeError(f"{type(value).__name__} has no form in a cell")
    return harmless(text)


def _element(value: object) -> str:
    if isinstance(value, Mapping):  # such as an error, its code and its message; or what an operator said
        return ": ".join(str(each) for each in value.values() if each)
    return str(value)


_ENCODERS: Final[Mapping[FileFormat, Callable[[Rows], bytes]]] = {
    FileFormat.CSV: _csv,
    FileFormat.NDJSON: msgspec.json.Encoder().encode_lines,
}


def _in_format(endpoint: Callable[..., Any], file_format: FileFormat) -> Callable[..., Any]:
    signature = inspect.signature(endpoint, eval_str=True)

    @wraps(endpoint)
    async def in_format(**values: Any) -> Response:
        response: Response = await endpoint(**values, **{_FORMAT: file_format})
        return response

    own = [each for name, each in signature.parameters.items() if name != _FORMAT]
    in_format.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
    return in_format


def _responses(
    file_format: FileFormat, example: Mapping[str, object], headers: Mapping[str, str], others: Responses
) -> Responses:
    text = _ENCODERS[file_format]([example])
    if file_format is FileFormat.CSV:
        text = csv_lines([list(example)]) + text
    answers: Responses = {
        200: {
            "description": "All rows; a file that is cut off has no end.",
            "content": {file_format.media_type: {"schema": {"type": "string"}, "example": text.decode()}},
            "headers": {
                name: {"description": description, "schema": {"type": "string"}}
                for name, description in headers.items()
            },
        },
        422: PARAMETERS,
        500: UNEXPECTED,
        503: LOADING,
    }
    return dict(sorted((answers | others).items(), key=lambda answer: int(answer[0])))
