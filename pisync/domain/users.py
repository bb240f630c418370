"""Users: people who sign in with a name and a password, and what either may be.

A password is held to what NIST SP 800-63B asks for: its length, and that it is not the name; no rules about
kinds of characters, and none that has it changed after a while.
"""

import re
import unicodedata
from datetime import datetime
from typing import Final

import msgspec

from pisync import limits
from pisync.domain.access import Role

_NAME: Final = re.compile(rf"[a-z0-9][a-z0-9._@+-]{{0,{limits.USER_NAME_CHARS_MAX - 1}}}")
_TAKEN: Final = re.compile(r"local|unknown|enrolment|configured-[0-9]+")
_DISTINCT_CHARS_MIN: Final = 5


class User(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who may sign in. `hashed` is the hash of the password, which no log and no answer has."""

    name: str
    role: Role
    hashed: str
    created_at: datetime
    version: int = 0
    disabled: bool = False
    last_login: datetime | None = None

    def __repr__(self) -> str:
        """Without the hash."""
        return f"User({self.name}, {self.role})"


def read_name(text: str) -> str:
    """The name of a user as it is kept: in small letters.

    Raises:
        ValueError: it is none; the text goes on after "it".
    """
    name = text.strip().lower()
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"must be 1 to {limits.USER_NAME_CHARS_MAX} of letters, digits, '.', '_', '@', '+' and '-', and"
            " begin with a letter or digit"
        )
    if is_taken(name):
        raise ValueError("is how actions tell somebody who is not known")
    return name


def is_taken(name: str) -> bool:
    """Whether actions tell somebody by this name who is not known, or no person."""
    return _TAKEN.fullmatch(name.lower()) is not None


def as_hashed(password: str) -> str:
    """A password in the form that is hashed, so that each keyboard's way to write it is the same one."""
    return unicodedata.normalize("NFKC", password)


def check_password(password: str, name: str) -> None:
    """Refuse a password that is easily found.

    Raises:
        ValueError: it is; the text goes on after "it".
    """
    text = as_hashed(password)
    if len(text) < limits.PASSWORD_CHARS_MIN:
        raise ValueError(f"must have at least {limits.PASSWORD_CHARS_MIN} characters; several words will do")
    if is_too_long(password):
        raise ValueError(f"must have at most {limits.PASSWORD_CHARS_MAX} characters")
    if len(set(text)) < _DISTINCT_CHARS_MIN:
        raise ValueError("is a few characters again and again")
    if text.lower().replace(name.lower(), "", 1).strip() == "" or name.lower() == text.lower():
        raise ValueError("must not be the name")


def is_too_long(password: str) -> bool:
    """Whether a password is longer than any that is taken, so that nobody hashes it."""
    return len(password) > limits.PASSWORD_CHARS_MAX
