"""Raw payloads made safe to show: they come from outside and may hold anything."""

import base64
import codecs
from dataclasses import dataclass
from typing import Final, Literal

PREVIEW_CHARS_MAX: Final = 200
# Enough of a payload for a preview, however many bytes its characters have in UTF-8.
HEAD_BYTES_MAX: Final = 4 * PREVIEW_CHARS_MAX
_BASE64_BYTES_MAX: Final = PREVIEW_CHARS_MAX // 4 * 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """The beginning of a payload: text with escapes, or base64; `truncated` where the payload goes on."""

    encoding: Literal["text", "base64"]
    content: str
    truncated: bool


def preview(head: bytes, size_bytes: int) -> Preview:
    """A preview of a payload, from its first `HEAD_BYTES_MAX` bytes and the size of the whole."""
    try:
        # A character that the cut went through is left out; one that the payload itself breaks is a fault.
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) == size_bytes)
    except UnicodeDecodeError:
        return Preview(
            encoding="base64",
            content=base64.b64encode(head[:_BASE64_BYTES_MAX]).decode(),
            truncated=size_bytes > _BASE64_BYTES_MAX,
        )
    beginning = text[:PREVIEW_CHARS_MAX]
    return Preview(
        encoding="text",
        content=printable(beginning),
        truncated=len(head) < size_bytes or len(beginning) < len(text),
    )


def printable(text: str, *, keep: str = "") -> str:
    r"""The text with each character that is not to be seen as an escape, such as `\n`, `\x1b`, `\u202e`.

    Control characters would steer a terminal, and others turn the direction of writing; a backslash that
    stood in the text stays as it is. The characters in `keep` are left alone.
    """
    return "".join(
        character
        if character.isprintable() or character in keep
        else character.encode("unicode_escape").decode()
        for character in text
    )
