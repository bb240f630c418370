"""The app factory: routes, their roles, problem documents and OpenAPI pages, put together over a state."""

from typing import Final

from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline

from api import documentation, middleware, openapi, problems
from api.auth.guard import hold_to_roles
from api.pages import access as access_page
from api.pages import (
    access_actions,
    account_actions,
    alert_actions,
    command_actions,
    device_actions,
    filter_actions,
    live,
    login,
    overview,
    recipient_actions,
    routing,
    static_files,
)
from api.pages import acknowledging as acknowledging_page
from api.pages import alerts as alerts_page
from api.pages import audit as audit_page
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
    audit,
    causes,
    commands,
    credentials,
    dead_letters,
    device,
    device_state,
    devices,
    directory,
    directory_files,
    enrol,
    failures,
    health,
    history_files,
    incidents,
    keys,
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

# Under /api. Each route declares the role that it asks for; `OPEN` ask for none.
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
    audit.router,
    causes.router,
    sites.router,
    site.router,
    site_activity.router,
    stats.router,
    health.router,
    commands.router,
    sync_now.router,
    keys.router,
    credentials.router,
    enrol.router,
)
OPEN: Final[tuple[APIRouter, ...]] = (probes.router,)
# What operators open, with the same roles; none of it is in the OpenAPI document.
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
    audit_page.router,
    access_page.router,
    access_actions.router,
    account_actions.router,
    login.router,
    live.router,
)


def create_app(settings: ApiSettings, state: State, requests: RequestMetrics | None = None) -> FastAPI:
    """The ASGI app over these stores and this publisher; opening and closing them is the caller's.

    Its requests are measured where that is asked for.

    Raises:
        RuntimeError: a route declares no role, and is not open on purpose.
    """
    app = FastAPIOffline(  # its /docs works in a school without internet
        docs_url=None,  # as it is in `documentation`
        redoc_url=None,
        static_url=documentation.STATIC,
        title="PiSync",
        version="1",  # of this contract, not of the program
        description="Sync events of offline-first learning devices in, history and repeated failures out.",
        redirect_slashes=False,
    )
    app.state.pisync = state
    app.state.settings = settings
    problems.install(app)
    routing.install(app)
    for router in GUARDED:
        app.include_router(router, prefix="/api")
    for router in (*OPEN, *PAGES, static_files.router):
        app.include_router(router)
    documentation.install(app)
    hold_to_roles(app.routes)
    openapi.install(app)
    middleware.install(app, settings, requests)
    return app
