"""Opens the real stores of a program: one connection to MongoDB and one to Redis, which they share."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from pisync.settings import ApiSettings, CommonSettings
from pisync.stores.interfaces.acknowledgements import AcknowledgementStore
from pisync.stores.interfaces.actions import ActionStore
from pisync.stores.interfaces.alerts import AlertStore
from pisync.stores.interfaces.bridges import BridgeRegistry
from pisync.stores.interfaces.broker import BrokerFiguresStore
from pisync.stores.interfaces.commands import CommandStore
from pisync.stores.interfaces.credentials import CredentialStore, EnrolmentTokens
from pisync.stores.interfaces.dead_letters import DeadLetterStore
from pisync.stores.interfaces.device_notes import DeviceNotesReader
from pisync.stores.interfaces.directory import DirectoryStore
from pisync.stores.interfaces.events import EventStore
from pisync.stores.interfaces.incidents import IncidentStore
from pisync.stores.interfaces.keys import KeyStore
from pisync.stores.interfaces.leases import LeaseStore
from pisync.stores.interfaces.listening import ListeningRecord
from pisync.stores.interfaces.notifications import NotificationStore
from pisync.stores.interfaces.presence import PresenceStore
from pisync.stores.interfaces.projection import Projection
from pisync.stores.interfaces.recipients import RecipientStore
from pisync.stores.interfaces.retention import RetentionStore
from pisync.stores.interfaces.rollups import ReceivedEvents, RollupStore
from pisync.stores.interfaces.sessions import SessionStore
from pisync.stores.interfaces.stale_reads import StaleReads
from pisync.stores.interfaces.users import UserStore
from pisync.stores.known_bridges import KnownBridges
from pisync.stores.mongodb.acknowledgements import MongoAcknowledgementStore
from pisync.stores.mongodb.actions import MongoActionStore
from pisync.stores.mongodb.alerts import MongoAlertStore
from pisync.stores.mongodb.bridges import MongoBridgeRegistry
from pisync.stores.mongodb.broker import MongoBrokerFigures
from pisync.stores.mongodb.commands import MongoCommandStore
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.credentials import MongoCredentialStore
from pisync.stores.mongodb.dead_letters import MongoDeadLetterStore
from pisync.stores.mongodb.device_notes import MongoDeviceNotes
from pisync.stores.mongodb.directory import MongoDirectoryStore
from pisync.stores.mongodb.enrolment_tokens import MongoEnrolmentTokens
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.mongodb.incidents import MongoIncidentStore
from pisync.stores.mongodb.keys import MongoKeyStore
from pisync.stores.mongodb.leases import MongoLeaseStore
from pisync.stores.mongodb.listening import MongoListeningRecord
from pisync.stores.mongodb.notifications import MongoNotificationStore
from pisync.stores.mongodb.presence import MongoPresenceStore
from pisync.stores.mongodb.received import MongoReceivedEvents
from pisync.stores.mongodb.recipients import MongoRecipientStore
from pisync.stores.mongodb.retention import MongoRetentionStore
from pisync.stores.mongodb.rollups import MongoRollupStore
from pisync.stores.mongodb.secondaries import SnapshotAges
from pisync.stores.mongodb.sessions import MongoSessionStore
from pisync.stores.mongodb.users import MongoUserStore
from pisync.stores.redis.connection import RedisConnection
from pisync.stores.redis.projection import RedisProjection


@dataclass(frozen=True, kw_only=True, slots=True)
class Stores:
    """Every store there is.

    `known_bridges` is what the projection goes by when it says that it is complete: who asks for that runs or
    refreshes it.
    """

    events: EventStore
    dead_letters: DeadLetterStore
    alerts: AlertStore
    bridges: BridgeRegistry
    listening: ListeningRecord
    directory: DirectoryStore
    actions: ActionStore
    acknowledgements: AcknowledgementStore
    commands: CommandStore
    credentials: CredentialStore
    enrolment_tokens: EnrolmentTokens
    presence: PresenceStore
    broker: BrokerFiguresStore
    incidents: IncidentStore
    keys: KeyStore
    recipients: RecipientStore
    users: UserStore
    sessions: SessionStore
    notifications: NotificationStore
    device_notes: DeviceNotesReader
    known_bridges: KnownBridges
    projection: Projection
    leases: LeaseStore
    received: ReceivedEvents
    rollups: RollupStore
    retention: RetentionStore


@asynccontextmanager
async def open_stale_reads(settings: ApiSettings) -> AsyncIterator[StaleReads | None]:
    """Events as secondaries have them, over a connection of their own; None: all is read from the primary.

    Raises:
        ConfigurationError: the address cannot be understood.
    """
    if settings.api_reads == "primary":
        yield None
        return
    ages = SnapshotAges()
    mongodb = MongoConnection(settings.mongodb_url, ages)
    try:
        yield StaleReads(events=MongoEventStore(mongodb), age=ages)
    finally:
        await mongodb.close()


@asynccontextmanager
async def open_stores(settings: CommonSettings) -> AsyncIterator[Stores]:
    """The stores at the addresses in the settings; nothing is asked of a server before a store is used.

    Raises:
        ConfigurationError: an address cannot be understood.
    """
    async with AsyncExitStack() as stack:
        mongodb = MongoConnection(settings.mongodb_url)
        stack.push_async_callback(mongodb.close)
        redis = RedisConnection(settings.redis_url)
        stack.push_async_callback(redis.close)
        bridges = MongoBridgeRegistry(mongodb)
        known_bridges = KnownBridges(bridges)
        yield Stores(
            events=MongoEventStore(mongodb),
            dead_letters=MongoDeadLetterStore(mongodb),
            alerts=MongoAlertStore(mongodb),
            bridges=bridges,
            listening=MongoListeningRecord(mongodb),
            directory=MongoDirectoryStore(mongodb),
            actions=MongoActionStore(mongodb),
            acknowledgements=MongoAcknowledgementStore(mongodb),
            commands=MongoCommandStore(mongodb),
            credentials=MongoCredentialStore(mongodb),
            enrolment_tokens=MongoEnrolmentTokens(mongodb),
            presence=MongoPresenceStore(mongodb),
            broker=MongoBrokerFigures(mongodb),
            incidents=MongoIncidentStore(mongodb),
            keys=MongoKeyStore(mongodb),
            recipients=MongoRecipientStore(mongodb),
            users=MongoUserStore(mongodb),
            sessions=MongoSessionStore(mongodb),
            notifications=MongoNotificationStore(mongodb),
            device_notes=MongoDeviceNotes(mongodb),
            known_bridges=known_bridges,
            projection=RedisProjection(redis, known_bridges),
            leases=MongoLeaseStore(mongodb),
            received=MongoReceivedEvents(mongodb),
            rollups=MongoRollupStore(mongodb),
            retention=MongoRetentionStore(mongodb),
        )
