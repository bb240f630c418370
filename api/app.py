"""The app factory: routes, problem documents, keys and the OpenAPI pages, put together over a given state."""

from typing import Final

from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline

from api import auth, middleware, openapi, problems
from api.pages import acknowledging as acknowledging_page
from api.pages import (
    alert_actions,
    command_actions,
    device_actions,
    filter_actions,
    live,
    overview,
    recipient_actions,
    routing,
    static_files,
)
from api.pages import alerts as alerts_page
from api.pages import causes as causes_page
from api.pages import commands as commands_page
from api.pages import dead_letters as dead_letters_page
from api.pages import device as device_page
from api.pages import devices as devices_page
from api.pages import health as health_page
from api.pages import recipients as recipients_page
from api.pages import replaying as replaying_page
from api.pages import replaying_many as replaying_many_page
from api.pages import site as site_page
from api.pages import sites as sites_page
from api.pages import undoing as undoing_page
from api.request_metrics import RequestMetrics
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
    replays_many,
    site,
    site_activity,
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
    replays_many.router,
    directory.router,
    directory_files.router,
    actions.router,
    causes.router,
    sites.router,
    site.router,
    site_activity.router,
    stats.router,
    health.router,
    commands.router,
    sync_now.router,
)
OPEN: Final[tuple[APIRouter, ...]] = (probes.router,)
# What operators open: behind the same keys, by HTTP Basic; none of it is in the OpenAPI document.
PAGES: Final[tuple[APIRouter, ...]] = (
    overview.router,
    devices_page.router,
    device_page.router,
    device_actions.router,
    filter_actions.router,
    undoing_page.router,
    acknowledging_page.router,
    command_actions.router,
    recipients_page.router,
    recipient_actions.router,
    replaying_page.router,
    replaying_many_page.router,
    sites_page.router,
    site_page.router,
    causes_page.router,
    alerts_page.router,
    alert_actions.router,
    dead_letters_page.router,
    commands_page.router,
    health_page.router,
    live.router,
)


def create_app(settings: ApiSettings, state: State, requests: RequestMetrics | None = None) -> FastAPI:
    """The ASGI app over these stores and this publisher; opening and closing them is the caller's.

    Its requests are measured where that is asked for.
    """
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
    app.state.settings = settings
    problems.install(app)
    routing.install(app)
    guard = auth.guard(settings.api_keys)
    for router in GUARDED:
        app.include_router(router, prefix="/api", dependencies=guard.dependencies, responses=guard.responses)
    for router in OPEN:
        app.include_router(router)
    for router in PAGES:
        app.include_router(router, dependencies=guard.page_dependencies)
    app.include_router(static_files.router)  # open to everyone
    openapi.install(app)
    middleware.install(app, settings, requests)
    return app
