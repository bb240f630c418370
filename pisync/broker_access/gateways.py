"""What a PiBox may that serves a classroom: to speak for the devices that are listed, and for no other."""

from collections.abc import Iterable, Sequence
from typing import Final

from pisync.broker_access.roles import Acl, Kind, Role
from pisync.domain import topics

_ACCOUNT: Final = topics.program_client_id("gateway-")


def gateway_account(gateway_id: str) -> str:
    """The common name of its certificate, and so its user name and client id, and the name of its role.

    Not the PiBox's own id, under which its own sync program may be connected at the same time.
    """
    return f"{_ACCOUNT}{gateway_id}"


def sent_by(device_id: str) -> Sequence[str]:
    """The topics of a device whose messages cross to the cloud."""
    return (
        topics.sync(device_id),
        topics.sync(device_id, "+"),
        topics.status(device_id),
        topics.command_replies(device_id),
    )


def sent_to(device_id: str) -> Sequence[str]:
    """The topics of a device whose messages come from the cloud."""
    return (topics.receipts(device_id), topics.receipts(device_id, "+"), topics.commands(device_id))


def gateway_role(gateway_id: str, device_ids: Iterable[str]) -> Role:
    """The role of a PiBox with these devices, each topic by its name."""
    every = sorted(device_ids)
    received = [topic for device_id in every for topic in sent_to(device_id)]
    sent = [topic for device_id in every for topic in sent_by(device_id)]
    named = {Kind.SEND: sent, Kind.RECEIVE: received, Kind.SUBSCRIBE_EXACTLY: received}
    acls = tuple(Acl(kind=kind, topic=topic) for kind, several in named.items() for topic in several)
    return Role(name=gateway_account(gateway_id), acls=acls)
