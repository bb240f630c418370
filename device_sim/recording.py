"""A recording: a line of JSON for each message that passed through the broker, with its bytes exactly."""

import base64
import binascii

import msgspec

from pisync.clock import Moment


class Properties(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The properties of a PUBLISH (MQTT 5, 3.3.2.3), those that it had; bytes are base64."""

    payload_format_indicator: int | None = None
    message_expiry_interval: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: str | None = None
    user_properties: list[tuple[str, str]] | None = None


class Recorded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message and when the recorder received it.

    `qos` is what the broker delivered it with: a subscription at QoS 1 sees QoS 2 as 1. `duplicate` says that
    the broker delivered it again, because an acknowledgement was lost. The payload is text where it is UTF-8.
    """

    time: Moment
    topic: str
    qos: int = msgspec.field(default=-1)
    retain: bool = False
    duplicate: bool = False
    properties: Properties | None = None
    payload: str | None = None
    payload_base64: str | None = None

    def with_payload(self, payload: bytes) -> "Recorded":
        """The same with this payload."""
        try:
            return msgspec.structs.replace(self, payload=payload.decode())
        except UnicodeDecodeError:
            return msgspec.structs.replace(self, payload_base64=to_base64(payload))

    @property
    def payload_bytes(self) -> bytes:
        """The payload.

        Raises:
            ValueError: it is neither text nor base64.
        """
        if self.payload is not None:
            return self.payload.encode()
        try:
            return base64.b64decode(self.payload_base64 or "", validate=True)
        except binascii.Error as error:
            raise ValueError(f"payload_base64 is no base64: {error}") from None


_decoder = msgspec.json.Decoder(Recorded)
_encoder = msgspec.json.Encoder()


def encode(message: Recorded) -> bytes:
    """The message as a line, with its break."""
    return _encoder.encode(message) + b"\n"


def decode(line: bytes) -> Recorded:
    """The message that a line holds.

    Raises:
        msgspec.DecodeError: it holds none.
        UnicodeDecodeError: it is not UTF-8.
    """
    return _decoder.decode(line)


def to_base64(data: bytes) -> str:
    """Bytes as text."""
    return base64.b64encode(data).decode()
