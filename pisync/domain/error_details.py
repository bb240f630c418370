"""How much is kept of an event's `errors`: entries and bytes of each text, and marks for what is cut off.

A cut depends on nothing but what it cuts, and cutting again changes nothing: an event that is sent again is
the same event, also where it was stored before there was a limit.
"""

from typing import Final

from pisync import limits

Errors = list[dict[str, str]]
# The last entry that is kept where there were too many.
LEFT_OUT: Final = "pisync:left_out"
# A text of so many characters fits, whatever its characters are.
_CHARS_THAT_FIT: Final = limits.ERROR_TEXT_BYTES_MAX // 4


def kept(errors: Errors) -> Errors:
    """The errors as they are kept: these themselves, unless there are too many or a text is too long."""
    if len(errors) <= limits.ERRORS_KEPT_MAX:
        for error in errors:
            if len(error["message"]) > _CHARS_THAT_FIT or len(error["code"]) > _CHARS_THAT_FIT:
                break
        else:
            return errors
        return [_cut(error) for error in errors]
    first = errors[: limits.ERRORS_KEPT_MAX - 1]
    message = f"{len(errors) - len(first)} more errors were left out"
    return [*map(_cut, first), {"code": LEFT_OUT, "message": message}]


def _cut(error: dict[str, str]) -> dict[str, str]:
    return {"code": _cut_text(error["code"]), "message": _cut_text(error["message"])}


def _cut_text(text: str) -> str:
    """The text, or its beginning and how long it was; a character is kept whole."""
    encoded = text.encode()
    if len(encoded) <= limits.ERROR_TEXT_BYTES_MAX:
        return text
    mark = f"… [cut: {len(encoded)} bytes]"
    head = encoded[: limits.ERROR_TEXT_BYTES_MAX - len(mark.encode())]
    return head.decode(errors="ignore") + mark
