"""Tokens by which a device may have one certificate signed: how they look, and what is kept of them."""

import hashlib
import re
import secrets
from typing import Final

_PREFIX: Final = "enrol_"
_TOKEN: Final = re.compile(r"enrol_[A-Za-z0-9_-]{43}")


def new_token() -> str:
    """A token of 256 random bits, which nobody can guess, so that a plain hash of it keeps it secret."""
    return _PREFIX + secrets.token_urlsafe(32)


def is_token(text: str) -> bool:
    """Whether the text looks like a token."""
    return _TOKEN.fullmatch(text) is not None


def hash_of(secret: str | bytes) -> str:
    """What is kept of a token, or of the key that it was used for."""
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).hexdigest()
