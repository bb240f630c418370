"""`/openapi.json`, and `/docs`: the document as a page to read and try, of files of this machine alone.

The document is half a megabyte that anybody may ask for, so it is written once. The page stands at the origin
of the others, so that it has a content security policy as they have: its one script within the page is named
by its digest.
"""

import base64
import gzip
import hashlib
import re
from functools import lru_cache
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import JSONResponse

from api.pages.static_files import takes_gzip
from pisync import limits

PATH: Final = "/docs"
STATIC: Final = "/docs/static"
_OPENAPI: Final = "/openapi.json"
_INLINE: Final = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
# Swagger UI sets styles of elements, and has its pictures in its style sheet.
_POLICY: Final = (
    "default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


def install(app: FastAPI) -> None:
    """Give the app both, in the place of FastAPI's own document, which is written anew each time."""
    app.router.routes[:] = [each for each in app.router.routes if getattr(each, "path", None) != _OPENAPI]

    # Prefixes are a trusted proxy's, or the setting.
    @lru_cache(maxsize=limits.DOCUMENTS_KEPT_MAX)
    def written(prefix: str) -> tuple[bytes, bytes]:
        schema = app.openapi()
        content = bytes(JSONResponse(schema | {"servers": [{"url": prefix}]} if prefix else schema).body)
        return content, gzip.compress(content, mtime=0)

    @app.get(_OPENAPI, include_in_schema=False)
    async def document(request: Request) -> Response:
        content, compressed = written(request.scope.get("root_path", ""))
        headers = {"Vary": "Accept-Encoding"}
        if takes_gzip(request):
            return Response(
                compressed, headers=headers | {"Content-Encoding": "gzip"}, media_type="application/json"
            )
        return Response(content, headers=headers, media_type="application/json")

    @app.get(PATH, include_in_schema=False)
    async def documentation(request: Request) -> Response:
        prefix = request.scope.get("root_path", "")
        page = get_swagger_ui_html(
            openapi_url=f"{prefix}{_OPENAPI}",
            title=f"{app.title} - Swagger UI",
            swagger_js_url=f"{prefix}{STATIC}/swagger-ui-bundle.js",
            swagger_css_url=f"{prefix}{STATIC}/swagger-ui.css",
            swagger_favicon_url=f"{prefix}{STATIC}/favicon.png",
        )
        digests = (hashlib.sha256(script).digest() for script in _INLINE.findall(bytes(page.body)))
        scripts = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
        page.headers["Content-Security-Policy"] = _POLICY.format(scripts=scripts)
        return page
