"""Topic names of the MQTT contract, what a device id may be, and client ids that no device has."""

import re
from functools import lru_cache
from typing import Final

from pisync.limits import TOPICS_REMEMBERED

PREFIX: Final = "pisync/v1"
BRIDGE_GROUP: Final = "pisync-bridge"

DEVICE_ID_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
DEVICE_ID_RULE: Final = "1 to 64 of letters, digits, '.', '_' and '-', beginning with a letter or digit"
_DEVICE_ID: Final = re.compile(DEVICE_ID_PATTERN)
_PROGRAM: Final = "@"
_API_RECEIPTS: Final = re.compile(rf"{PREFIX}/api/{DEVICE_ID_PATTERN}/receipts")
_DEVICES: Final = f"{PREFIX}/devices/"
_SYNC: Final = "/sync"

RULE_OF_TOKENS: Final = "1 to 64 of letters, digits, '.', '_' and '-'"
_TOKENS: Final = r"[A-Za-z0-9._-]{1,64}"
_SYNC_TOPIC: Final = re.compile(rf"{_DEVICES}({DEVICE_ID_PATTERN}){_SYNC}(?:/({_TOKENS}))?")
_SYNC_AND_BELOW: Final = re.compile(rf"{_DEVICES}({DEVICE_ID_PATTERN}){_SYNC}(?:/.*)?", re.DOTALL)

SYNC_OF_NO_DEVICE: Final = f"{_DEVICES}-{_SYNC}"
"""Where an api replica publishes a body that names no device, so that it is kept; no device id begins so."""
# `#` matches its parent level, too [MQTT-4.7.1-2]: one filter for topics with a token and without.
SYNC_FILTER: Final = f"{_DEVICES}+{_SYNC}/#"
SHARED_SYNC_FILTER: Final = f"$share/{BRIDGE_GROUP}/{SYNC_FILTER}"
# What bridges subscribed to before there were tokens. A session that has it beside the other would get every
# message twice.
FORMER_SHARED_SYNC_FILTER: Final = f"$share/{BRIDGE_GROUP}/{_DEVICES}+{_SYNC}"

COMMAND_REPLIES_FILTER: Final = f"{_DEVICES}+/commands/reply"
STATUS_FILTER: Final = f"{_DEVICES}+/status"

ALERTS_FILTER: Final = f"{PREFIX}/alerts/#"
# Everything under the prefix, and under the prefix with a slash before it: a common slip.
EVERYTHING_FILTERS: Final = ("$share/pisync-strays/pisync/#", "$share/pisync-strays//pisync/#")
_KNOWN: Final = re.compile(
    rf"{_DEVICES}[^/]*/(?:sync(?:/.*)?|receipts(?:/[^/]*)?|commands|commands/reply|status)"
    rf"|{PREFIX}/alerts/[^/]*/[^/]*"
    rf"|{PREFIX}/api/[^/]*/receipts",
    re.DOTALL,
)


def is_known(topic: str) -> bool:
    """Whether the topic is of a kind that PiSync has, whatever ids stand in it."""
    return _KNOWN.fullmatch(topic) is not None


def is_device_id(text: str) -> bool:
    """Whether the text is 1 to 64 of letters, digits, `.` `_` `-`, beginning with a letter or digit."""
    return _DEVICE_ID.fullmatch(text) is not None


def program_client_id(name: str) -> str:
    """The MQTT client id of a bridge or an api replica: no device can have it, because no id begins so.

    Devices connect under their own ids, and who connects under an id takes its session, and all that waits
    in it.
    """
    return f"{_PROGRAM}{name}"


def sync(device_id: str, token: str | None = None) -> str:
    """Where a device publishes its sync events, with a token where it cannot set a Response Topic."""
    return f"{_DEVICES}{device_id}{_SYNC}" if token is None else f"{_DEVICES}{device_id}{_SYNC}/{token}"


def receipts(device_id: str, token: str | None = None) -> str:
    """Where a device receives the bridge's receipts: that of a message with a token under the token."""
    return f"{_DEVICES}{device_id}/receipts" if token is None else f"{_DEVICES}{device_id}/receipts/{token}"


def commands(device_id: str) -> str:
    """Where a device receives commands."""
    return f"{_DEVICES}{device_id}/commands"


def command_replies(device_id: str) -> str:
    """Where a device answers commands: it has the device's id, so that a broker can bind it to the device."""
    return f"{_DEVICES}{device_id}/commands/reply"


def status(device_id: str) -> str:
    """Where a device keeps its retained `online` or `offline`."""
    return f"{_DEVICES}{device_id}/status"


def alerts(device_id: str, rule: str) -> str:
    """Where a device's open alert of a rule is retained."""
    return f"{PREFIX}/alerts/{device_id}/{rule}"


def api_receipts(api_id: str) -> str:
    """Where one api replica receives receipts for what it published."""
    return f"{PREFIX}/api/{api_id}/receipts"


@lru_cache(maxsize=TOPICS_REMEMBERED)
def device(topic: str) -> str | None:
    """The device whose topic this is; None where it is no device's, or the id is not one."""
    if not topic.startswith(_DEVICES):
        return None
    device_id, _, level = topic[len(_DEVICES) :].partition("/")
    return device_id if level and is_device_id(device_id) else None


@lru_cache(maxsize=TOPICS_REMEMBERED)
def sync_source(topic: str) -> tuple[str | None, str | None]:
    """The device id and the token in a sync topic; a token is None where there is none.

    Both are None where the topic is another, the id is none, or what stands behind it is no token.
    """
    match = _SYNC_TOPIC.fullmatch(topic)
    return (None, None) if match is None else (match[1], match[2])


def sync_device(topic: str) -> str | None:
    """The device whose sync topic this is, or would be, were it not for what stands in the token's place."""
    match = _SYNC_AND_BELOW.fullmatch(topic)
    return None if match is None else match[1]


def token_receipts(topic: str) -> str | None:
    """Where the receipt of a message goes by the token in its sync topic; None where it has none."""
    device_id, token = sync_source(topic)
    return None if device_id is None or token is None else receipts(device_id, token)


def may_receive_receipt(topic: str, device_id: str | None) -> bool:
    """Whether a Response Topic is one the bridge answers.

    Only the device's own receipts topic, or an api replica's: a publisher must not be able to talk the
    bridge into publishing elsewhere.
    """
    is_own = device_id is not None and topic == receipts(device_id)
    return is_own or is_api_receipts(topic)


def is_api_receipts(topic: str) -> bool:
    """Whether a topic is one where an api replica receives receipts."""
    return _API_RECEIPTS.fullmatch(topic) is not None
