"""Dead letters as the commands name them: their paths in the api, and their parts in words."""

from typing import Final
from urllib.parse import quote

from cli.api_client import Json
from pisync.domain.payloads import printable

PATH: Final = "/api/dead-letters"
UNIT: Final = "dead letters"


def path(dead_letter_id: str) -> str:
    """Where the api has this letter."""
    return f"{PATH}/{quote(dead_letter_id, safe='')}"


def field(value: object) -> str:
    """One value of a letter; several counts behind one another."""
    if isinstance(value, dict):
        return ", ".join(f"{count} {what}" for what, count in value.items())
    return "-" if value is None else printable(str(value))


def place(rejected: Json) -> str:
    """Which event of a message was rejected, or that all of it was."""
    return "message" if rejected["index"] is None else f"event {rejected['index']}"


def why(rejected: Json) -> str:
    """Why it was."""
    detail = printable(rejected.get("detail", ""))
    return f"{rejected['reason']}: {detail}" if detail else str(rejected["reason"])


def amount(correction: Json) -> str:
    """Such as `-60d`, or `-60d (received_at)` where it was stated in other words."""
    stated, offset = printable(correction["correction"]), str(correction["offset"])
    return offset if stated == offset else f"{offset} ({stated})"
