"""From a message to its receipt, over one connection that publishes for all devices, as the api does.

The receipts come to a topic of the replay's own, `pisync/v1/api/{replay's id}/receipts`. A broker with an
access list has to let its user do what the api's may: publish to devices' sync topics and read that topic.
"""

import asyncio
import secrets
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from pisync import limits
from pisync.domain import receipts, topics
from pisync.domain.events import Reason, Rejection
from pisync.domain.receipts import Receipt
from pisync.errors import BrokerUnavailable, ConfigurationError, PiSyncError, PublishRefused, ReplyLost
from pisync.mqtt.address import MqttAddress
from pisync.mqtt.client import Client

_NO_MATCHING_SUBSCRIBERS: Final = 0x10
_NOT_AUTHORIZED: Final = 0x87
_QUOTA_EXCEEDED: Final = 0x97
_NOT_READY_S: Final = 0.05
_OF_NO_DEVICE: Final = Receipt(
    stored=0,
    duplicates=0,
    rejected=[
        Rejection(
            index=None,
            reason=Reason.DEVICE_ID,
            detail=f"the topic names no device, and no receipt tells of it: an id is {topics.DEVICE_ID_RULE}",
        )
    ],
)


class Sender:
    """Sends messages until each has its receipt. `trouble` is what is wrong now, for people."""

    def __init__(
        self,
        address: MqttAddress,
        ca_file: Path | None,
        *,
        receipt_timeout_s: float = limits.REPLAY_RECEIPT_TIMEOUT_S,
        refused_wait_s: float = limits.REPLAY_REFUSED_WAIT_S,
    ) -> None:
        replay_id = f"replay-{secrets.token_hex(6)}"
        self.trouble: str | None = None
        self.sent_again = 0
        self._address = address
        self._receipt_timeout_s = receipt_timeout_s
        self._refused_wait_s = refused_wait_s
        self._random = Random()
        self._client = Client(
            address=address,
            ca_file=ca_file,
            client_id=topics.program_client_id(replay_id),
            reply_topic=topics.api_receipts(replay_id),
            on_up=self._up,
            on_down=self._down,
            beside=True,
        )
        self._ready = asyncio.Event()

    async def run(self) -> None:
        """Stay connected until cancelled.

        Raises:
            ConfigurationError: the broker refuses us for good.
        """
        await self._client.run()

    def _up(self, _session_kept: bool) -> None:
        self.trouble = None
        self._ready.set()

    async def _down(self, error: PiSyncError) -> None:
        self.trouble = f"broker: {error}"
        self._ready.clear()

    async def send(self, topic: str, payload: bytes) -> Receipt:
        """Publish a message, as often as it takes, and return its receipt; sending twice counts once.

        A message to a topic that names no device is kept as a dead letter, and no receipt answers it: the
        broker's PUBACK has to do, and the receipt is what the bridge would have said.

        Raises:
            ConfigurationError: the broker does not let us publish there.
        """
        refused = unanswered = 0
        while True:
            await self._ready.wait()
            if not self._client.send_quota:
                await asyncio.sleep(_NOT_READY_S)  # beyond it a message would go at QoS 0, and may be lost
                continue
            try:
                async with asyncio.timeout(self._wait_s(self._receipt_timeout_s, unanswered)):
                    if not _is_answered(topic):
                        await self._client.publish_acknowledged(topic, payload)
                        return _OF_NO_DEVICE
                    receipt = _taken(receipts.decode(await self._client.request(topic, payload)))
            except TimeoutError:
                unanswered += 1
                self.trouble = "no receipt in time: does a bridge keep up?"
            except msgspec.DecodeError:
                self.trouble = "a receipt that cannot be read"
                await asyncio.sleep(self._refused_wait_s)
            except PublishRefused as error:
                self._heed(error, topic)
                await asyncio.sleep(self._wait_s(self._refused_wait_s, refused))
                refused += 1
            except ReplyLost:
                pass
            except BrokerUnavailable as error:
                self.trouble = str(error)
                await asyncio.sleep(_NOT_READY_S)
                continue
            else:
                self.trouble = None
                return receipt
            self.sent_again += 1

    def _heed(self, error: PublishRefused, topic: str) -> None:
        if error.reason_code == _NOT_AUTHORIZED:
            raise ConfigurationError(
                f"{self._address} does not let this user publish to {topic}: give the api's user in"
                " --mqtt-url, or send through a running api with --via"
            )
        if error.reason_code == _QUOTA_EXCEEDED:
            self.trouble = "a device has more than a bridge takes of one at once"
            return
        no_bridge = error.reason_code == _NO_MATCHING_SUBSCRIBERS
        self.trouble = "no bridge has subscribed" if no_bridge else str(error)

    def _wait_s(self, first_s: float, earlier: int) -> float:
        doubled_s = min(first_s * (1 << min(earlier, 30)), max(first_s, limits.REPLAY_WAIT_S_MAX))
        return doubled_s * self._random.uniform(0.75, 1.25)


def _is_answered(topic: str) -> bool:
    """Whether a bridge sends a receipt for what is published there."""
    return topic == topics.SYNC_OF_NO_DEVICE or topics.device(topic) is not None


def _taken(receipt: Receipt) -> Receipt:
    """The receipt, of a message that was looked at.

    Raises:
        PublishRefused: the device sends more than is taken of one, so that it is to be sent again later.
    """
    if receipt.rejected and receipt.rejected[0].reason is Reason.RATE_EXCEEDED:
        raise PublishRefused(_QUOTA_EXCEEDED)
    return receipt
