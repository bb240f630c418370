"""The bridge's MQTT session: what the bridge adds to the client that all programs use.

The session itself lives in the broker, under the bridge's id, and outlives every connection: what is not
acknowledged there is sent again on the next one.
"""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from bridge.metrics import Metrics
from pisync import limits, logs
from pisync.errors import PiSyncError, SessionTakenOver
from pisync.mqtt.address import MqttAddress
from pisync.mqtt.client import Client
from pisync.mqtt.messages import Subscription

log = logs.get(__name__)


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
    ) -> None:
        """Prepare; `run` connects, and raises `SessionTakenOver` where another bridge uses the id.

        Args:
            address: the broker.
            ca_file: the certificate authorities to trust for `mqtts://`; None: those that the system trusts.
            bridge_id: the client id, which names the session in the broker.
            subscriptions: what to subscribe to, with the handlers of the messages.
            on_connected: called whenever a connection is subscribed.
            is_ours: whether the bridge's id is still this process's; asked when a connection is lost, because
                Mosquitto 2.0 hangs up without a word on the first of two clients with one id.
            known_before: whether a bridge of this id ran before, so that the broker should have its session.
            metrics: where connections are counted.
            leaving: unsubscribe instead, and take in only what the session still holds.
        """
        super().__init__(
            address=address,
            ca_file=ca_file,
            client_id=bridge_id,
            subscriptions=subscriptions,
            session_expiry_s=limits.SESSION_EXPIRY_S,
            leaving=leaving,
            on_up=self._count,
            on_down=self._stop_if_taken_over,
        )
        self._bridge_id = bridge_id
        self._on_connected = on_connected
        self._is_ours = is_ours
        self._has_session = known_before
        self._metrics = metrics
        metrics.ready.set_function(lambda: self.is_ready)
        metrics.published_at_qos_0.set_function(lambda: self.published_at_qos_0)

    def _count(self, session_present: bool) -> None:
        self._metrics.connected(resumed=session_present)
        if self._has_session and not session_present:
            self._metrics.sessions_lost.inc()
            log.warning(
                "the broker lost this bridge's session",
                client_id=self._bridge_id,
                meaning="what waited there is gone; devices that wait for a receipt will send theirs again",
            )
        self._has_session = True
        self._on_connected()

    async def _stop_if_taken_over(self, error: PiSyncError) -> None:
        if isinstance(error, SessionTakenOver) or not await self._is_ours():
            raise SessionTakenOver(
                f"another bridge runs as {self._bridge_id!r}:"
                " every bridge needs a PISYNC_BRIDGE_ID of its own"
            ) from None
