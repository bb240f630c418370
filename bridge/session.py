"""The bridge's MQTT session: what the bridge adds to the client that all programs use.

The session itself lives in the broker, under a client id made of the bridge's id, and outlives every
connection: what is not acknowledged there is sent again on the next one.

Whoever connects under that client id takes the session. Where it is another bridge, which the registry
knows, this one ends; where it is any other client, this one connects again, and says so. MQTT 5 has a reason
code for it (0x8E); Mosquitto 2.0 hangs up without a word, as it does for other reasons, so there the sign is
that it does so again and again.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from bridge.metrics import Metrics
from bridge.projection.reception_clock import taken_over
from pisync import limits, logs
from pisync.domain import topics
from pisync.errors import BrokerHungUp, PiSyncError, SessionTakenOver
from pisync.metrics import Health
from pisync.mqtt.address import MqttAddress
from pisync.mqtt.client import Client
from pisync.mqtt.connection import FAILURE
from pisync.mqtt.messages import Subscription

log = logs.get(__name__)

NOT_CONNECTED: Final = "not connected to the broker"


class Session(Client):
    """A client with the bridge's id and a long session, which must be this process's alone."""

    def __init__(
        self,
        *,
        address: MqttAddress,
        ca_file: Path | None,
        bridge_id: str,
        subscriptions: Sequence[Subscription],
        on_connected: Callable[[], None],
        is_ours: Callable[[], Awaitable[bool]],
        known_before: bool,
        metrics: Metrics,
        leaving: bool = False,
        former_filters: Sequence[str] = (),
    ) -> None:
        """Prepare; `run` connects, and raises `SessionTakenOver` where another bridge uses the id.

        Args:
            address: the broker.
            ca_file: the certificate authorities to trust for `mqtts://`; None: those that the system trusts.
            bridge_id: the bridge's id, of which the client id is made that names the session in the broker.
            subscriptions: what to subscribe to, with the handlers of the messages.
            on_connected: called whenever a connection is subscribed.
            is_ours: whether the bridge's id is still this process's; asked whenever a connection is lost.
            known_before: whether a bridge of this id ran before, so that the broker should have its session.
            metrics: where connections are counted.
            leaving: unsubscribe instead, and take in only what the session still holds.
            former_filters: what an earlier version subscribed to; the session is rid of it.
        """
        super().__init__(
            address=address,
            ca_file=ca_file,
            client_id=topics.program_client_id(bridge_id),
            subscriptions=subscriptions,
            session_expiry_s=limits.SESSION_EXPIRY_S,
            leaving=leaving,
            former_filters=former_filters,
            on_up=self._count,
            on_down=self._judge_loss,
            on_refused=self._count_refused,
        )
        self._bridge_id = bridge_id
        self._on_connected = on_connected
        self._is_ours = is_ours
        self._has_session = known_before
        self.lacked_session: bool | None = None
        """Whether the first connection found no session, though it should; None: there was none yet."""
        self._metrics = metrics
        self._refused: set[int] = set()
        self._hung_up_at: deque[float] = deque(maxlen=limits.HANG_UPS_MAX)
        self.taken_over = 0
        metrics.sessions_taken_over.set_function(lambda: self.taken_over)
        metrics.ready.set_function(lambda: self.is_ready)
        metrics.published_at_qos_0.set_function(lambda: self.published_at_qos_0)

    @property
    def health(self) -> Health:
        """Whether messages can come, in words for everybody who reaches the metrics' address."""
        text = "connected and subscribed" if self.is_ready else NOT_CONNECTED
        if self.taken_over:
            text += f"; another client took this bridge's session {self.taken_over} times"
        return Health(self.is_ready, text)

    def _count(self, session_present: bool) -> None:
        self._metrics.connected(resumed=session_present)
        is_lost = self._has_session and not session_present
        if self.lacked_session is None:
            self.lacked_session = is_lost
        if is_lost:
            self._metrics.sessions_lost.inc()
            log.warning(
                "the broker lost this bridge's session",
                client_id=topics.program_client_id(self._bridge_id),
                meaning="what waited there is gone; devices that wait for a receipt will send theirs again",
            )
        self._has_session = True
        self._refused.clear()
        self._on_connected()

    def _count_refused(self, reason_code: int) -> None:
        """Count a receipt that the broker did not take, and say so once a connection for each reason.

        There is nothing to repeat: its device sends the message again when no receipt comes.
        """
        self._metrics.publish_refused(reason_code)
        if reason_code >= FAILURE and reason_code not in self._refused:
            self._refused.add(reason_code)
            log.error(
                "the broker does not take a receipt",
                reason_code=f"0x{reason_code:02X}",
                meaning="its device sends the message again when no receipt comes",
                hint="the broker's access list must let bridges publish to pisync/v1/devices/+/receipts,"
                " pisync/v1/devices/+/receipts/+, pisync/v1/api/+/receipts and pisync/v1/alerts/#, and, to"
                " clear what devices retain, to pisync/v1/devices/+/sync and pisync/v1/devices/+/sync/+",
            )

    async def _judge_loss(self, error: PiSyncError) -> None:
        if not await self._is_ours():
            raise taken_over(self._bridge_id) from None
        if isinstance(error, SessionTakenOver) or self._hung_up_too_often(error):
            self.taken_over += 1
            seen = isinstance(error, SessionTakenOver)
            log.error(
                "another connection, of no other bridge, took this bridge's client id"
                if seen
                else "the broker hangs up again and again: another client may have this bridge's client id",
                client_id=topics.program_client_id(self._bridge_id),
                meaning="a client that is no bridge gets messages that were this bridge's, and may end the"
                " session with all that waits",
                hint="once, after a line was cut, it may have been an earlier connection of this bridge that"
                " arrived late; else find the client in the broker's log, and have the broker's access list"
                " keep client ids that begin with @ for PiSync",
            )

    def _hung_up_too_often(self, error: PiSyncError) -> bool:
        if not isinstance(error, BrokerHungUp):
            return False
        hung_up_at, now = self._hung_up_at, asyncio.get_running_loop().time()
        hung_up_at.append(now)
        return len(hung_up_at) == limits.HANG_UPS_MAX and now - hung_up_at[0] <= limits.HANG_UPS_WITHIN_S
