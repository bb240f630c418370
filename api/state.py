"""What the routes work with: given to the app once, and read from there by every route."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import Request

from api.auth.access import Access
from api.auth.denials import Denials
from api.auth.signing_in import SigningIn
from api.daily_counts import DailyCounts
from api.pages.kept import PageState
from api.publisher import SyncPublisher
from fleet.feeding import Feeding
from pisync import limits
from pisync.stores.interfaces.acknowledgements import AcknowledgementStore, FailingByCode
from pisync.stores.interfaces.actions import ActionStore
from pisync.stores.interfaces.alerts import AlertStore
from pisync.stores.interfaces.bridges import BridgeRegistry
from pisync.stores.interfaces.broker import BrokerFiguresReader
from pisync.stores.interfaces.commands import CommandStore
from pisync.stores.interfaces.credentials import CredentialStore
from pisync.stores.interfaces.dead_letters import DeadLetterStore
from pisync.stores.interfaces.device_notes import DeviceNotesReader
from pisync.stores.interfaces.directory import DirectoryStore
from pisync.stores.interfaces.events import EventStore
from pisync.stores.interfaces.incidents import IncidentStore
from pisync.stores.interfaces.keys import KeyStore
from pisync.stores.interfaces.leases import LeaseStore
from pisync.stores.interfaces.listening import ListeningRecord
from pisync.stores.interfaces.notifications import NotificationStore
from pisync.stores.interfaces.projection import ProjectionReader
from pisync.stores.interfaces.recipients import RecipientStore
from pisync.stores.interfaces.retention import RetentionReader
from pisync.stores.interfaces.rollups import RollupReader
from pisync.stores.interfaces.sessions import SessionStore
from pisync.stores.interfaces.stale_reads import StaleReads
from pisync.stores.interfaces.users import UserStore
from pisync.stores.known_bridges import KnownBridges
from pisync.stores.open_incidents import OpenIncidents

if TYPE_CHECKING:
    from api.enrolment import Enrolment  # it writes actions, which know the state


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """The stores that are read, the fleet in memory, and the one way in.

    What the api writes itself are operators' acts: on dead letters a replay, a correction, and a purge; the
    directory, acknowledgements, recipients, commands and tests, which a worker sends, keys, and the actions
    that tell what was changed. `stale_reads` is where histories are read if not from the primary. `access` is
    who may call, by `keys` among others; `signing_in` is by what people sign in, as `users` among others, and
    where: `sessions`. `imports` and `bulks` are the places for imports and for bodies of events a line at
    once, `publishes` those of messages that wait for receipts of such; `failing` counts devices by cause;
    `daily` keeps counts of devices' days for a while, `pages` what the web page keeps between requests,
    `denials` what was denied whom.
    """

    events: EventStore
    projection: ProjectionReader
    dead_letters: DeadLetterStore
    alerts: AlertStore
    bridges: BridgeRegistry
    directory: DirectoryStore
    device_notes: DeviceNotesReader
    actions: ActionStore
    acknowledgements: AcknowledgementStore
    incidents: IncidentStore
    open_incidents: OpenIncidents
    recipients: RecipientStore
    notifications: NotificationStore
    listening: ListeningRecord
    rollups: RollupReader
    retention: RetentionReader
    leases: LeaseStore
    broker: BrokerFiguresReader
    known_bridges: KnownBridges
    fleet: Feeding
    commands: CommandStore
    credentials: CredentialStore
    failing: FailingByCode
    publisher: SyncPublisher
    keys: KeyStore
    access: Access
    users: UserStore
    sessions: SessionStore
    signing_in: SigningIn
    enrolment: "Enrolment | None" = None
    stale_reads: StaleReads | None = None
    denials: Denials = field(default_factory=Denials)
    daily: DailyCounts = field(default_factory=DailyCounts)
    pages: PageState = field(default_factory=PageState)
    imports: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(limits.IMPORTS_AT_ONCE))
    bulks: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(limits.BULKS_AT_ONCE))
    publishes: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(limits.BULK_PUBLISHES_AT_ONCE)
    )


def state_of(request: Request) -> State:
    """The state of the app that serves this request.

    A dependency would cost the routes with much traffic a third of a bare answer again.
    """
    state: State = request.app.state.pisync
    return state
