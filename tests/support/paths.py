"""Paths of routes, and of the OpenAPI document, with a value for each of their parameters."""

import re
from typing import Final

VALUES: Final = {
    "device_id": "PB-1",
    "site_id": "S-1",
    "dead_letter_id": "0" * 32,
    "alert_id": "0" * 32,
    "command_id": "0" * 28,
    "incident_id": "0" * 28,
    "key_id": "k3v9x0qa",
    "session_id": "0" * 64,
    "recipient_id": "office",
    "code": "E_NET",
    "task": "mute",
    "kind": "causes",
    "target": "E_NET",
    "digest": "0",
    "name": "style.css",
}


# How a route says of which kind a parameter is; the document leaves it out.
_CONVERTER: Final = re.compile(":[a-z_]+}")


def filled(template: str) -> str:
    """The path of a request that the template takes.

    Raises:
        KeyError: a parameter has no value here yet.
    """
    return _CONVERTER.sub("}", template).format(**VALUES)
