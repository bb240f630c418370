"""What is measured of the requests that the app answers: by which route, how they ended, and for how long.

A label has a route's template, such as `/api/device/{device_id}`, and never a path, which is the client's.
"""

from collections.abc import Iterable
from time import perf_counter
from typing import Final

from fastapi.routing import iter_route_contexts
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pisync.metrics import Reading

_SECONDS: Final = (0.0025, 0.005, 0.01, 0.025, 0.04, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Of a route where none was found or asked, of a method that no route has, of a status that was never sent.
NO_ROUTE: Final = "none"
OTHER_METHOD: Final = "other"
NO_STATUS: Final = "none"


class RequestMetrics:
    """The metrics of requests; `measure` answers one and counts it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "pisync_api_request_duration_seconds",
            "Time from when a request's head was there until its answer was handed to the connection; of an"
            " answer that stays open, until it began.",
            ["route", "method", "status"],
            buckets=_SECONDS,
            registry=registry,
        )
        Reading(
            GaugeMetricFamily, "pisync_api_requests_inflight", "Requests that are being answered.", registry
        ).set_function(lambda: self._inflight)
        Reading(
            GaugeMetricFamily,
            "pisync_api_streams_open",
            "Answers that stay open (text/event-stream).",
            registry,
        ).set_function(lambda: self._streams)
        self._inflight = 0
        self._streams = 0
        # The template of each route by what the app puts into the scope, which lives as long as the app.
        self._templates: dict[int, str] | None = None
        # To look a series up by its labels costs more than to count in it.
        self._series: dict[tuple[str, str, int], Histogram] = {}

    async def measure(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and count it."""
        began_s = perf_counter()
        status, is_stream = 0, False
        self._inflight += 1

        async def watched(message: Message) -> None:
            nonlocal status, is_stream
            if message["type"] == "http.response.start":
                status = message["status"]
                is_stream = _is_stream(message)
                if is_stream:
                    self._end(scope, status, began_s)
                    self._streams += 1
            await send(message)

        try:
            await app(scope, receive, watched)
        finally:
            if is_stream:
                self._streams -= 1
            else:
                self._end(scope, status, began_s)

    def _end(self, scope: Scope, status: int, began_s: float) -> None:
        self._inflight -= 1
        key = self._template(scope), scope["method"], status // 100
        series = self._series.get(key)
        if series is None:
            series = self._labelled(*key)
            if scope["method"] in _METHODS:  # others are made up by clients, and would fill it
                self._series[key] = series
        series.observe(perf_counter() - began_s)

    def _labelled(self, template: str, method: str, status_class: int) -> Histogram:
        return self._seconds.labels(
            template,
            method if method in _METHODS else OTHER_METHOD,
            f"{status_class}xx" if status_class else NO_STATUS,
        )

    def _template(self, scope: Scope) -> str:
        if self._templates is None:
            self._templates = _templates(scope["app"].routes)
        found = self._templates.get(id(scope.get("route")))
        return found or self._templates.get(id(scope.get("endpoint")), NO_ROUTE)


def _is_stream(start: Message) -> bool:
    return any(
        name == b"content-type" and value.startswith(b"text/event-stream") for name, value in start["headers"]
    )


def _templates(routes: Iterable[BaseRoute]) -> dict[int, str]:
    """The templates by route, and by endpoint, which is all that the scope has of one that FastAPI added."""
    found: dict[int, str] = {}
    for context in iter_route_contexts(list(routes)):
        template = context.path_format
        if template is None:
            continue
        found[id(context.original_route)] = template
        endpoint = getattr(context.original_route, "endpoint", getattr(context.original_route, "app", None))
        if endpoint is not None:
            found.setdefault(id(endpoint), template)
    return found
