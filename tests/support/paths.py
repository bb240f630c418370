"""Paths of the OpenAPI document with a value for each of their parameters."""

from typing import Final

VALUES: Final = {
    "device_id": "PB-1",
    "site_id": "S-1",
    "dead_letter_id": "0" * 32,
    "alert_id": "0" * 32,
    "command_id": "0" * 28,
    "incident_id": "0" * 28,
    "recipient_id": "office",
    "code": "E_NET",
}


def filled(template: str) -> str:
    """The path of a request that the template takes.

    Raises:
        KeyError: a parameter has no value here yet.
    """
    return template.format(**VALUES)
