"""One device's network connection to the broker: bytes in, packets out, and no task of its own.

It makes the connection ready (CONNECT, SUBSCRIBE), and then hands its owner what comes. Thousands of them run
in one process, so it holds as little as it can: no futures, no timers, no queue.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar, cast

from device_sim import packets
from device_sim.packets import Version
from pisync.errors import ProtocolError

Argument = TypeVar("Argument")

FAILURE: Final = 0x80  # reason codes from here on are failures (MQTT 5, 2.4); return codes of 3.1.1 from 1
_SUBSCRIBE_ID: Final = packets.PACKET_ID_MAX

# What a CONNACK or SUBACK says that no second attempt can change, by version (MQTT 5, 3.2.2.2 and 3.9.3; MQTT
# 3.1.1, 3.2.2.3).
_HOPELESS: Final = {
    Version.V5: {
        0x84: "Unsupported Protocol Version",
        0x85: "Client Identifier not valid",
        0x86: "Bad User Name or Password",
        0x87: "Not authorized",
        0x8A: "Banned",
        0x8C: "Bad authentication method",
    },
    Version.V311: {
        1: "unacceptable protocol version",
        2: "identifier rejected",
        4: "bad user name or password",
        5: "not authorized",
    },
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """Why a connection ended: as the device wanted, or the broker refuses it `for_good`."""

    why: str
    for_good: bool = False
    is_wanted: bool = False


class Owner(Protocol):
    """The device whose connection it is."""

    def connect_packet(self) -> bytes:
        """The CONNECT packet."""

    def is_up(self, *, session_present: bool) -> None:
        """We are connected and subscribed."""

    def received(self, message: packets.Received) -> None:
        """A message came; it is acknowledged when this returns."""

    def acknowledged(self, correlation_data: bytes, reason_code: int) -> None:
        """The broker acknowledged a publish."""

    def is_down(self, ended: Ended) -> None:
        """The connection is closed; called once."""

    def crashed(self, error: Exception) -> None:
        """Something failed that is no broker's fault."""


class Connection(asyncio.Protocol):
    """Speaks MQTT over one transport."""

    __slots__ = (
        "_buffer",
        "_ended",
        "_is_pinging",
        "_next_packet_id",
        "_outgoing",
        "_owner",
        "_session_present",
        "_topic_filters",
        "_transport",
        "_version",
        "_was_made",
        "awaiting",
        "is_ready",
        "keep_alive_s",
    )

    def __init__(
        self, owner: Owner, version: Version, *, topic_filters: list[str], keep_alive_s: int
    ) -> None:
        """Prepare; asyncio's `create_connection` brings the transport."""
        self._owner = owner
        self._version = version
        self._topic_filters = topic_filters
        self.keep_alive_s = keep_alive_s
        self.awaiting: dict[int, bytes] = {}
        """The publishes without a PUBACK, by packet id: the Correlation Data of sync messages."""
        self.is_ready = False
        self._session_present = False
        self._is_pinging = False
        self._was_made = False
        self._next_packet_id = 1
        self._buffer = b""
        self._outgoing: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._ended: Ended | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is there, and nobody has closed it."""
        return self._transport is not None and self._ended is None

    @property
    def ended(self) -> Ended | None:
        """Why it ended or is about to; None: it has not."""
        return self._ended

    @property
    def is_there(self) -> bool:
        """Whether there is a transport."""
        return self._transport is not None

    @property
    def was_made(self) -> bool:
        """Whether there was a transport, so that the owner hears of its end."""
        return self._was_made

    # For the owner, who calls `flush` after what it wrote

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        response_topic: str | None = None,
        correlation_data: bytes = b"",
        confirms: bytes = b"",
    ) -> None:
        """Publish at QoS 1; the owner is told of the PUBACK with what it `confirms`, unless that is empty."""
        packet_id = self._free_packet_id()
        self.awaiting[packet_id] = confirms
        self._outgoing.append(
            packets.publish(
                self._version,
                packet_id,
                topic,
                payload,
                retain=retain,
                response_topic=response_topic,
                correlation_data=correlation_data,
            )
        )

    def cut_last(self, share: float) -> None:
        """Write only this share of the last packet, and close the connection without a word."""
        last = self._outgoing.pop()
        self._outgoing.append(last[: int(share * len(last))])
        self.flush()
        self.end(Ended(why="broken on purpose"))

    def flush(self) -> None:
        """Send what was written, in one system call."""
        if self._outgoing and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()

    def keep_alive(self) -> None:
        """Send PINGREQ; a broker that has not answered the last one is given up."""
        if self._is_pinging:
            self.end(Ended(why="the broker answers no PINGREQ"))
            self.abort()  # it need not take what is still to be sent
            return
        self._is_pinging = True
        self._outgoing.append(packets.PINGREQ)
        self.flush()

    def disconnect(self, *, session_expiry_s: int | None) -> None:
        """Say goodbye, after everything written so far, and have the broker close the connection.

        Were we to close it, a PUBACK that comes later would reset it, and the broker might never read this.
        """
        self._outgoing.append(packets.disconnect(self._version, session_expiry_s=session_expiry_s))
        self.flush()
        self._ended = Ended(why="the device is done", is_wanted=True)

    def end(self, ended: Ended) -> None:
        """Close; the owner hears of it when the connection is closed."""
        if self._ended is None:
            self._ended = ended
            if self._transport is not None:
                self._transport.close()

    def abort(self) -> None:
        """Close at once, whatever is still to be sent."""
        if self._transport is not None:
            self._transport.abort()

    def read_slowly(self, pause_s: float) -> None:
        """Read nothing for so long."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.pause_reading()

        def go_on() -> None:
            if not transport.is_closing():
                transport.resume_reading()

        asyncio.get_running_loop().call_later(pause_s, go_on)

    # For asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send CONNECT, unless the connection was given up before there was one."""
        if self._ended is not None:
            transport.close()
            return
        self._was_made = True
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._outgoing.append(self._owner.connect_packet())
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the owner, who has heard already of the end of what was never made."""
        if not self._was_made:
            return
        if self._ended is None:
            # Mosquitto closes a connection without a word when it has no file descriptor left for it.
            begun = "" if self.is_ready else " before it let us in (max_connections, or its open files?)"
            what = "the broker closed the connection" if error is None else f"connection lost: {error}"
            self._ended = Ended(why=what + begun)
        self._transport = None
        self._guarded(self._owner.is_down, self._ended)

    def data_received(self, data: bytes) -> None:
        """Take in bytes and handle every whole packet among them."""
        self._guarded(self._take_in, data)

    # Inside

    def _guarded(self, work: Callable[[Argument], None], argument: Argument) -> None:
        """Do the work; asyncio would take what it raises for a broken connection."""
        try:
            work(argument)
        except ProtocolError as error:
            self.end(Ended(why=str(error)))
        except Exception as error:  # noqa: BLE001 - handed to who runs the fleet
            self._owner.crashed(error)

    def _take_in(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        offset = 0
        while self._ended is None:
            found = packets.read(self._version, buffer, offset)
            if found is None:
                break
            packet, offset = found
            self._handle(packet)
        self._buffer = buffer[offset:]
        self.flush()

    def _handle(self, packet: packets.Packet) -> None:
        match packet:
            case packets.Received():
                # Before the owner closes the connection, or the broker would deliver it once more.
                if packet.packet_id is not None:
                    self._outgoing.append(packets.puback(packet.packet_id))
                self._owner.received(packet)
            case packets.PubAck(packet_id=packet_id, reason_code=reason_code):
                confirms = self.awaiting.pop(packet_id, b"")
                self._owner.acknowledged(confirms, reason_code)
            case packets.PingResp():
                self._is_pinging = False
            case packets.ConnAck():
                self._accepted(packet)
            case packets.SubAck(reason_codes=reason_codes):
                self._subscribed(reason_codes)
            case packets.Disconnect(reason_code=reason_code):
                self.end(Ended(why=f"the broker disconnected us: {reason_code:#04x}"))

    def _accepted(self, packet: packets.ConnAck) -> None:
        if packet.reason_code:
            self._refused("the connection", packet.reason_code)
            return
        if packet.keep_alive_s is not None:
            self.keep_alive_s = packet.keep_alive_s
        self._session_present = packet.session_present
        # With every connection: a session that the broker has forgotten has no subscription either.
        self._outgoing.append(packets.subscribe(self._version, _SUBSCRIBE_ID, self._topic_filters))

    def _subscribed(self, reason_codes: bytes) -> None:
        for code in reason_codes:
            if code >= FAILURE:
                self._refused("the subscription to receipts and commands", code)
                return
        self.is_ready = True
        self._owner.is_up(session_present=self._session_present)

    def _refused(self, what: str, code: int) -> None:
        hopeless = _HOPELESS[self._version].get(code)
        named = f"{code:#04x}" if hopeless is None else f"{hopeless} ({code:#04x})"
        self.end(Ended(why=f"{named}, to {what}", for_good=hopeless is not None))

    def _free_packet_id(self) -> int:
        # SUBSCRIBE has the last id for itself.
        while self._next_packet_id in self.awaiting or self._next_packet_id == _SUBSCRIBE_ID:
            self._next_packet_id = self._next_packet_id % _SUBSCRIBE_ID + 1
        packet_id = self._next_packet_id
        self._next_packet_id = packet_id % _SUBSCRIBE_ID + 1
        return packet_id
