"""Raw payloads, shown: escapes, cuts, and what is no text."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisync.domain.payloads import HEAD_BYTES_MAX, PREVIEW_CHARS_MAX, Preview, preview, printable


def shown(raw: bytes) -> Preview:
    return preview(raw[:HEAD_BYTES_MAX], len(raw))


def text(content: str, *, truncated: bool = False) -> Preview:
    return Preview(encoding="text", content=content, truncated=truncated)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", text("")),
        ('{"ä": "😀"}'.encode(), text('{"ä": "😀"}')),
        (b"\x1b[2J\0\r\n\t\x7f", text(r"\x1b[2J\x00\r\n\t\x7f")),
        ("a\u202eb\u2028\u200bc".encode(), text(r"a\u202eb\u2028\u200bc")),
        (b"<script>", text("<script>")),
        (b"a" * 200, text("a" * 200)),
        (b"a" * 201, text("a" * 200, truncated=True)),
        ("😀".encode() * 200, text("😀" * 200)),
        (b"a" + "😀".encode() * 300, text("a" + "😀" * 199, truncated=True)),
    ],
)
def test_text_is_shown_without_what_steers_a_terminal(raw: bytes, expected: Preview) -> None:
    assert shown(raw) == expected


@pytest.mark.parametrize(
    "raw", [b"\xff", b"\x00" * 30 + b"\xfe", "é".encode()[:1], b"\xed\xa0\x80", b"\xff" * 9999]
)
def test_what_is_not_utf8_is_base64(raw: bytes) -> None:
    found = shown(raw)
    assert found.encoding == "base64"
    content = base64.b64decode(found.content)
    assert raw.startswith(content)
    assert found.truncated == (len(content) < len(raw))


@given(st.text())
def test_every_text_is_printable_and_what_is_kept_is_kept(content: str) -> None:
    assert printable(content).isprintable()
    assert printable(content, keep="\n").count("\n") == content.count("\n")


@given(st.binary(max_size=3 * HEAD_BYTES_MAX) | st.text(max_size=3 * PREVIEW_CHARS_MAX).map(str.encode))
def test_any_payload_has_a_preview(raw: bytes) -> None:
    found = shown(raw)
    assert found.content.isprintable()
    assert found.truncated or found.encoding == "base64" or found.content == printable(raw.decode())
