"""The packets that a device sends and takes, in MQTT 5 and in MQTT 3.1.1; pure.

The simulator has a codec of its own: it speaks both versions, writes packets that are wrong on purpose, and a
slip in the codec of the bridge would not be made here as well.
"""

from enum import IntEnum
from typing import Final

import msgspec

from pisync.errors import ProtocolError

PACKET_ID_MAX: Final = 65_535
PINGREQ: Final = b"\xc0\x00"
_CONNECT: Final = 0x10
_PUBLISH_QOS_1: Final = 0x32
_RETAIN: Final = 0x01
_SUBSCRIBE: Final = 0x82
_DISCONNECT: Final = 0xE0
_NORMAL_DISCONNECTION: Final = 0x00
_SESSION_EXPIRY_INTERVAL: Final = 0x11
_SERVER_KEEP_ALIVE: Final = 0x13
_RESPONSE_TOPIC: Final = 0x08
_CORRELATION_DATA: Final = 0x09
_REMAINING_BYTES: Final = 4  # the most bytes that tell a packet's length
_NO_PROPERTIES: Final = b"\x00"

# How long the values of properties are (MQTT 5, 2.2.2.2): bytes, or what tells it.
_BYTES: Final = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), 1),
    **dict.fromkeys((0x13, 0x21, 0x22, 0x23), 2),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), 4),
}
_TEXTS: Final = {**dict.fromkeys((0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F), 1), 0x26: 2}
_SUBSCRIPTION_IDENTIFIER: Final = 0x0B


class Version(IntEnum):
    """The protocol level in CONNECT."""

    V311 = 4
    V5 = 5


class ConnAck(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The broker's answer to CONNECT. `keep_alive_s`: what it wants instead of ours."""

    session_present: bool
    reason_code: int
    keep_alive_s: int | None = None


class SubAck(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The broker's answer to SUBSCRIBE."""

    reason_codes: bytes


class Received(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A message that the broker delivers. Without a packet id it came at QoS 0."""

    topic: str
    payload: bytes
    packet_id: int | None
    correlation_data: bytes = b""


class PubAck(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The broker's answer to PUBLISH; MQTT 3.1.1 has no reason code but success."""

    packet_id: int
    reason_code: int = 0


class PingResp(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The broker's answer to PINGREQ."""


class Disconnect(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The broker closes the connection, and says why."""

    reason_code: int


Packet = ConnAck | SubAck | Received | PubAck | PingResp | Disconnect
PING_RESP: Final = PingResp()


def connect(
    version: Version,
    client_id: str,
    *,
    keep_alive_s: int,
    session_expiry_s: int,
    username: str | None,
    password: str | None,
    will_topic: str | None,
    will_payload: bytes,
) -> bytes:
    """CONNECT that resumes the session, which in MQTT 3.1.1 has no end; a last will is retained, at QoS 1."""
    flags = 0
    properties = will = credentials = b""
    if version is Version.V5:
        properties = _properties(bytes([_SESSION_EXPIRY_INTERVAL]) + session_expiry_s.to_bytes(4, "big"))
    if will_topic is not None:
        flags |= 0b0010_1100
        no_properties = _NO_PROPERTIES if version is Version.V5 else b""
        will = no_properties + _text(will_topic) + _data(will_payload)
    if username is not None:
        flags |= 0b1000_0000
        credentials += _text(username)
    if password is not None:
        flags |= 0b0100_0000
        credentials += _text(password)
    head = _text("MQTT") + bytes([version, flags]) + keep_alive_s.to_bytes(2, "big")
    return _packet(_CONNECT, head + properties + _text(client_id) + will + credentials)


def subscribe(version: Version, packet_id: int, topic_filters: list[str]) -> bytes:
    """SUBSCRIBE at QoS 1."""
    head = packet_id.to_bytes(2, "big") + (_NO_PROPERTIES if version is Version.V5 else b"")
    return _packet(_SUBSCRIBE, head + b"".join(_text(one) + b"\x01" for one in topic_filters))


def publish(
    version: Version,
    packet_id: int,
    topic: str,
    payload: bytes,
    *,
    retain: bool = False,
    response_topic: str | None = None,
    correlation_data: bytes = b"",
) -> bytes:
    """PUBLISH at QoS 1. MQTT 3.1.1 has neither Response Topic nor Correlation Data, and leaves them out."""
    head = _text(topic) + packet_id.to_bytes(2, "big")
    if version is Version.V5:
        properties = b""
        if response_topic is not None:
            properties = bytes([_RESPONSE_TOPIC]) + _text(response_topic)
        if correlation_data:
            properties += bytes([_CORRELATION_DATA]) + _data(correlation_data)
        head += _properties(properties)
    return _packet(_PUBLISH_QOS_1 | (_RETAIN if retain else 0), head + payload)


def puback(packet_id: int) -> bytes:
    """PUBACK with success, the same in both versions."""
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def disconnect(version: Version, *, session_expiry_s: int | None = None) -> bytes:
    """DISCONNECT without the last will; in MQTT 5 it may say anew how long the session is kept."""
    if version is Version.V311 or session_expiry_s is None:
        return _packet(_DISCONNECT, b"")
    properties = bytes([_SESSION_EXPIRY_INTERVAL]) + session_expiry_s.to_bytes(4, "big")
    return _packet(_DISCONNECT, bytes([_NORMAL_DISCONNECTION]) + _properties(properties))


def read(version: Version, buffer: bytes, offset: int) -> tuple[Packet, int] | None:
    """The packet that begins there, and where the next one does; None: it is not whole yet.

    Raises:
        ProtocolError: it is no packet that a broker sends to a device, or it is malformed.
    """
    found = _length(buffer, offset + 1)
    if found is None:
        return None
    length, begin = found
    end = begin + length
    if len(buffer) < end:
        return None
    try:
        return _read(version, buffer[offset], buffer[begin:end]), end
    except (IndexError, UnicodeDecodeError):
        raise ProtocolError("the broker sent a malformed packet") from None


def _read(version: Version, first: int, body: bytes) -> Packet:
    kind = first >> 4
    if kind == 3:
        return _read_publish(version, first, body)
    if kind == 4:
        return PubAck(packet_id=_number(body, 0), reason_code=body[2] if len(body) > 2 else 0)
    if kind == 13:
        return PING_RESP
    if kind == 2:
        keep_alive = _find(body, 2, _SERVER_KEEP_ALIVE) if version is Version.V5 else None
        return ConnAck(
            session_present=bool(body[0] & 1),
            reason_code=body[1],
            keep_alive_s=None if keep_alive is None else _number(keep_alive, 0),
        )
    if kind == 9:
        begin = 2
        if version is Version.V5:
            length, begin = _known_length(body, 2)
            begin += length
        return SubAck(reason_codes=body[begin:])
    if kind == 14 and version is Version.V5:
        return Disconnect(reason_code=body[0] if body else _NORMAL_DISCONNECTION)
    raise ProtocolError(f"the broker sent a packet of type {kind}")


def _read_publish(version: Version, first: int, body: bytes) -> Received:
    qos = first >> 1 & 3
    if qos > 1:
        raise ProtocolError("the broker sent a PUBLISH at QoS 2")
    offset = 2 + _number(body, 0)
    topic = body[2:offset].decode()
    packet_id = None
    if qos:
        packet_id = _number(body, offset)
        offset += 2
    correlation_data = b""
    if version is Version.V5:
        length, begin = _known_length(body, offset)
        if length:
            correlation_data = _find(body, offset, _CORRELATION_DATA) or b""
        offset = begin + length
    return Received(
        topic=topic, payload=body[offset:], packet_id=packet_id, correlation_data=correlation_data
    )


def _find(body: bytes, offset: int, wanted: int) -> bytes | None:
    """The value of a property, without the length of a text; those there begin with the length of all."""
    if offset >= len(body):
        return None
    length, offset = _known_length(body, offset)
    end = offset + length
    while offset < end:
        identifier = body[offset]
        offset += 1
        size = _BYTES.get(identifier)
        if size is not None:
            value = body[offset : offset + size]
            offset += size
        elif identifier == _SUBSCRIPTION_IDENTIFIER:
            begin = offset
            _, offset = _known_length(body, offset)
            value = body[begin:offset]
        elif identifier in _TEXTS:
            for _ in range(_TEXTS[identifier]):
                begin = offset + 2
                offset = begin + _number(body, offset)
            value = body[begin:offset]
        else:
            raise ProtocolError(f"the broker sent the property {identifier:#04x}")
        if identifier == wanted:
            return value
    return None


def _number(body: bytes, offset: int) -> int:
    return body[offset] << 8 | body[offset + 1]


def _known_length(body: bytes, offset: int) -> tuple[int, int]:
    found = _length(body, offset)
    if found is None:
        raise ProtocolError("the broker sent a malformed packet")
    return found


def _length(buffer: bytes, offset: int) -> tuple[int, int] | None:
    """A variable byte integer (MQTT 5, 1.5.5) and where it ends; None: it does not end yet."""
    value = 0
    for place in range(_REMAINING_BYTES):
        if offset >= len(buffer):
            return None
        byte = buffer[offset]
        offset += 1
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, offset
    raise ProtocolError("the broker sent a malformed packet")


def _packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + _variable(len(body)) + body


def _properties(properties: bytes) -> bytes:
    return _variable(len(properties)) + properties


def _variable(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def _text(text: str) -> bytes:
    return _data(text.encode())


def _data(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
