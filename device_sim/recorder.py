"""Writes what passes through the broker to a file, a line a message, and takes nothing away from the bridges.

It has plain subscriptions, no shared one. A message is acknowledged once the system has its line, so that a
recorder that is killed leaves at most its last line half, and the broker keeps for it what comes while its
connection is away. What it can miss it says: messages of a time in which the broker forgot its session, and
messages that the broker dropped meanwhile, whosever they were.
"""

import asyncio
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from device_sim.recording import Properties, Recorded, encode, to_base64
from pisync import clock, limits
from pisync.domain import broker, topics
from pisync.errors import PiSyncError
from pisync.mqtt.address import MqttAddress
from pisync.mqtt.connection import Connection
from pisync.mqtt.tap import Published, Tap


class Recorder:
    """Records to one file until `ended`, or cancelled.

    `messages` and `size_bytes` are what was written. `gaps` counts connections after which the broker had
    forgotten the session; `dropped` the messages that the broker says to have dropped since the beginning.
    """

    def __init__(
        self,
        address: MqttAddress,
        ca_file: Path | None,
        *,
        filters: list[str],
        target: BinaryIO,
        messages_max: int | None = None,
    ) -> None:
        self.messages = 0
        self.size_bytes = 0
        self.gaps = 0
        self.dropped = 0
        self.trouble: str | None = "not connected yet"
        self.ended = asyncio.Event()
        self.subscribed = asyncio.Event()
        self._target = target
        self._messages_max = messages_max
        self._figure: int | None = None
        self._lines: list[bytes] = []
        self._packet_ids: list[int] = []
        self._connection: Connection | None = None
        self._failure: OSError | None = None
        self._client = Tap(
            address=address,
            ca_file=ca_file,
            client_id=topics.program_client_id(f"recorder-{token_hex(6)}"),
            filters=filters,
            optional_filters=[broker.DROPPED],
            session_expiry_s=limits.RECORDER_SESSION_EXPIRY_S,
            on_published=self._take,
            on_up=self._up,
            on_down=self._down,
        )

    async def run(self) -> None:
        """Record until `ended`; then the session in the broker is ended, too.

        Raises:
            ConfigurationError: the broker refuses us for good.
            OSError: the file cannot be written.
        """
        running = asyncio.create_task(self._client.run(), name="recorder")
        ending = asyncio.create_task(self.ended.wait(), name="recorder-ended")
        try:
            await asyncio.wait((running, ending), return_when=asyncio.FIRST_COMPLETED)
            self._flush()
            if running.done():
                running.result()
        finally:
            ending.cancel()
            self._client.end_session()
            if not running.done():
                await asyncio.wait((running,), timeout=1)
            running.cancel()
        if self._failure is not None:
            raise self._failure

    def _up(self, session_kept: bool) -> None:
        self.gaps += self.subscribed.is_set() and not session_kept
        self.trouble = None
        self.subscribed.set()

    async def _down(self, error: PiSyncError) -> None:
        self.trouble = str(error)

    def _take(self, packet: Published) -> None:
        if packet.topic == broker.DROPPED:
            self._judge(packet.payload)
            return
        if self.ended.is_set():
            return  # it is not acknowledged, and goes with the session
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._flush)
        self._lines.append(encode(_recorded(packet)))
        if packet.packet_id is not None:
            self._packet_ids.append(packet.packet_id)
        self._connection = packet.connection
        if self._messages_max is not None and self.messages + len(self._lines) >= self._messages_max:
            self._flush()
            self.ended.set()

    def _flush(self) -> None:
        """Write the lines, then acknowledge their messages."""
        if not self._lines or self._failure is not None:
            return
        data = b"".join(self._lines)
        try:
            self._target.write(data)
            self._target.flush()
        except OSError as error:
            self._failure = error
            self.ended.set()
            return
        self.messages += len(self._lines)
        self.size_bytes += len(data)
        if self._connection is not None and self._packet_ids:
            self._connection.acknowledge(self._packet_ids)
        self._lines.clear()
        self._packet_ids.clear()

    def _judge(self, payload: bytes) -> None:
        figure = broker.number(payload)
        if figure is None:
            return
        if self._figure is not None:
            # A smaller count is that of a broker that started anew since.
            self.dropped += figure - self._figure if figure >= self._figure else figure
        self._figure = figure


def _recorded(packet: Published) -> Recorded:
    correlation_data = packet.correlation_data
    properties = Properties(
        payload_format_indicator=packet.payload_format_indicator or None,
        message_expiry_interval=packet.message_expiry_interval,
        content_type=packet.content_type,
        response_topic=packet.response_topic,
        correlation_data=None if correlation_data is None else to_base64(correlation_data),
        user_properties=packet.user_properties or None,
    )
    return Recorded(
        time=clock.now(),
        topic=packet.topic,
        qos=packet.qos,
        retain=packet.retain,
        duplicate=packet.duplicate,
        properties=None if properties == Properties() else properties,
    ).with_payload(packet.payload)
