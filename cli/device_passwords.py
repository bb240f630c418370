"""What `pisync devices password` does: a device that has no certificate is let in by a password.

MongoDB says that it may connect, and the broker alone can check by what: the plugin's commands take a
password and no hash of one, so that it is given to the broker here, and kept nowhere else.
"""

import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta

import typer

from cli.credentials import Asked, opened, written_down
from pisync import clock, limits, logs, settings
from pisync.broker_access.dynsec import new_password
from pisync.clock import rfc3339
from pisync.domain import topics
from pisync.domain.actions import What
from pisync.domain.credentials import Credential, Kind, Source
from pisync.errors import BrokerUnavailable, ConfigurationError
from pisync.mqtt.dynamic_security import DynamicSecurity, all_connected
from pisync.settings import WorkerSettings
from pisync.stores import credential_changes
from pisync.stores.opening import Stores
from pisync.tasks import supervise


async def give(asked: Asked, days: int) -> int:
    """Give a device a new password, shown once, in place of one that it had.

    Raises:
        ConfigurationError: it is not one device, or no account may say whom each broker lets in.
        BrokerUnavailable: a broker is away, or did not take it; the device has no new password then.
    """
    loaded = settings.load(WorkerSettings)
    if not loaded.broker_admin_url:
        raise ConfigurationError(
            "PISYNC_BROKER_ADMIN_URL: names no account that may say whom the broker lets in, which is what a"
            " password needs"
        )
    loaded.check_every_broker_is_told()
    logs.configure(loaded)
    client_id = topics.program_client_id(f"passwords-{secrets.token_hex(8)}")
    brokers = {
        str(address): DynamicSecurity(address=address, ca_file=loaded.mqtt_ca_file, client_id=client_id)
        for address in loaded.broker_admins
    }
    links = {f"link to {name}": broker.run() for name, broker in brokers.items()}
    async with opened(offline=False) as stores, supervise(links):
        assert stores is not None  # noqa: S101 - it is not offline
        ids = await asked.devices(stores)
        if len(ids) != 1:
            raise ConfigurationError("a password is shown once: name one device at a time")
        await all_connected(brokers, limits.CONNECT_TIMEOUT_S)
        async with written_down(stores, asked, What.ISSUE, ids) as told:
            told["kind"] = Kind.PASSWORD.value
            password, until, told["replaced"] = await _given(stores, brokers, ids[0], by=asked.by, days=days)
    typer.echo(password)
    typer.echo(
        f"{ids[0]} connects with its id as user name and this password, which is kept nowhere, until"
        f" {rfc3339(until)}.",
        err=True,
    )
    return 0


async def _given(
    stores: Stores, brokers: Mapping[str, DynamicSecurity], device_id: str, *, by: str, days: int
) -> tuple[str, datetime, int]:
    """The password, until when it holds, and how many it replaces."""
    now = clock.now()
    credential = Credential(
        kind=Kind.PASSWORD,
        identifier=secrets.token_hex(8),
        not_before=now,
        not_after=now + timedelta(days=days),
        source=Source.ISSUED,
        given_by=by,
        given_at=now,
    )
    # Known first: whom MongoDB does not know a worker takes off the broker's list.
    if await credential_changes.give(stores.credentials, {device_id: credential}, now, beside=True):
        raise ConfigurationError(
            f"{device_id} has {limits.DEVICE_CREDENTIALS_MAX} credentials that are valid: revoke some"
        )
    try:
        password = await _told(brokers, device_id)
    except BaseException:
        await credential_changes.revoke(
            stores.credentials, [device_id], by=by, now=clock.now(), only={credential.identifier}
        )
        raise
    kept = (await stores.credentials.get([device_id]))[device_id].entry
    former = {
        each.identifier
        for each in kept.valid(now)
        if each.kind is Kind.PASSWORD and each.identifier != credential.identifier
    }
    if former:
        await credential_changes.revoke(stores.credentials, [device_id], by=by, now=clock.now(), only=former)
    return password, credential.not_after, len(former)


async def _told(brokers: Mapping[str, DynamicSecurity], device_id: str) -> str:
    """A new password, which every broker has taken.

    Raises:
        BrokerUnavailable: one did not; the text says where a former password is good no more.
    """
    password, took = new_password(), list[str]()
    for name, broker in brokers.items():
        try:
            await broker.allow_by_password(device_id, password)
        except BrokerUnavailable as error:
            if not took:
                raise
            raise BrokerUnavailable(
                f"{name} did not take the new password, and {', '.join(took)} did: one that {device_id} had"
                f" is good no more there. Run this again once {name} is there: {error}"
            ) from None
        took.append(name)
    return password
