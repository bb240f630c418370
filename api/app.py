"""The app factory: routes, problem documents, keys and the OpenAPI pages, put together over a given state."""

from typing import Final

from fastapi import APIRouter, FastAPI, Request
from fastapi_offline import FastAPIOffline
from starlette.responses import RedirectResponse

from api import auth, middleware, openapi, problems
from api.routes import (
    acknowledgements,
    actions,
    alerts,
    causes,
    commands,
    dead_letters,
    device,
    device_state,
    devices,
    directory,
    directory_files,
    failures,
    health,
    history_files,
    incidents,
    probes,
    recipients,
    replays,
    site,
    sites,
    stats,
    sync_event,
    sync_now,
)
from api.state import State
from pisync.settings import ApiSettings

# Under /api and behind the guard; the others are open to everyone.
GUARDED: Final[tuple[APIRouter, ...]] = (
    sync_event.router,
    device.router,
    devices.router,
    device_state.router,
    history_files.router,
    failures.router,
    alerts.router,
    incidents.router,
    acknowledgements.router,
    recipients.router,
    dead_letters.router,
    replays.router,
    directory.router,
    directory_files.router,
    actions.router,
    causes.router,
    sites.router,
    site.router,
    stats.router,
    health.router,
    commands.router,
    sync_now.router,
)
OPEN: Final[tuple[APIRouter, ...]] = (probes.router,)


def create_app(settings: ApiSettings, state: State) -> FastAPI:
    """The ASGI app over these stores and this publisher; opening and closing them is the caller's."""
    app = FastAPIOffline(  # its /docs works in a school without internet
        docs_url="/docs",
        redoc_url=None,
        static_url="/docs/static",
        title="PiSync",
        version="1",  # of this contract, not of the program
        description="Sync events of offline-first learning devices in, history and repeated failures out.",
        redirect_slashes=False,
    )
    app.state.pisync = state
    problems.install(app)
    guard = auth.guard(settings.api_keys)
    for router in GUARDED:
        app.include_router(router, prefix="/api", dependencies=guard.dependencies, responses=guard.responses)
    for router in OPEN:
        app.include_router(router)
    openapi.install(app)
    app.add_api_route("/", _begin, include_in_schema=False)
    middleware.install(app, settings)
    return app


async def _begin(request: Request) -> RedirectResponse:
    """Lead whoever comes without a path to what can be read."""
    return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")
