"""The app factory: routes, problem documents, keys and the OpenAPI pages, put together over given parts."""

from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline

from api import openapi, problems
from api.auth import KeyGuard
from api.publisher import SyncPublisher
from api.routes import alerts as alerts_routes
from api.routes import dead_letters, device, failures, probes, sync_event
from api.state import Parts
from pisync.settings import Settings
from pisync.stores.interfaces.alerts import AlertStore
from pisync.stores.interfaces.dead_letters import DeadLetterStore
from pisync.stores.interfaces.events import EventStore
from pisync.stores.interfaces.projection import ProjectionReader


def create_app(
    settings: Settings,
    *,
    events: EventStore,
    streaks: ProjectionReader,
    letters: DeadLetterStore,
    alerts: AlertStore,
    publisher: SyncPublisher,
) -> FastAPI:
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
    app.state.parts = Parts(
        events=events, streaks=streaks, letters=letters, alerts=alerts, publisher=publisher
    )
    problems.install(app)
    guarded = settings.api_keys != ()
    for resource in (sync_event, device, failures, alerts_routes, dead_letters):
        app.include_router(
            resource.router,
            prefix="/api",
            dependencies=[Depends(KeyGuard(settings.api_keys))] if guarded else [],
            responses={401: openapi.UNAUTHORIZED} if guarded else {},
        )
    app.include_router(probes.router)
    openapi.install(app)
    return app
