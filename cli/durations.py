"""How long something takes, as people type it: `90s`, `30m`, `1h`, `2d`; a bare number is seconds."""

import re
from typing import Final

from pisync.errors import ConfigurationError

_UNITS_S: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)", re.ASCII)


def seconds(option: str, text: str) -> float:
    """The seconds that the value of this option says.

    Raises:
        ConfigurationError: it says none.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"{option} {text}: give a time such as 90s, 30m or 1h")
    return float(match[1]) * _UNITS_S[match[2]]
