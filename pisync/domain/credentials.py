"""Which devices may connect, and by what: certificates and passwords, their ends, and how they change."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from pisync import limits


class Kind(StrEnum):
    """What a device shows the broker."""

    CERTIFICATE = "certificate"
    PASSWORD = "password"  # noqa: S105 - a kind, not a password


class Source(StrEnum):
    """How a credential came to be."""

    ISSUED = "issued"
    ENROLLED = "enrolled"
    IMPORTED = "imported"


class Standing(StrEnum):
    """Whether a device may connect, and if not, why."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, kw_only=True, slots=True)
class Credential:
    """What a device may connect with.

    `identifier` is a certificate's serial number, hexadecimal in lower case, and of a password an id of its
    own. `secret` is by what a password is checked, None of a certificate.
    """

    kind: Kind = Kind.CERTIFICATE
    identifier: str
    not_before: datetime
    not_after: datetime
    source: Source
    given_by: str
    given_at: datetime
    secret: str | None = None
    revoked_by: str | None = None
    revoked_at: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        """Whether a device may connect with it."""
        return self.revoked_at is None and now < self.not_after


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceCredentials:
    """All that is kept of a device's credentials, the latest last."""

    device_id: str
    credentials: tuple[Credential, ...] = ()

    @property
    def valid_until(self) -> datetime | None:
        """When the last of those ends that are not revoked; None: all are."""
        return max((each.not_after for each in self.credentials if each.revoked_at is None), default=None)

    def standing(self, now: datetime) -> Standing:
        """Whether the device may connect."""
        until = self.valid_until
        if until is None:
            return Standing.REVOKED
        return Standing.ACTIVE if now < until else Standing.EXPIRED

    def valid(self, now: datetime) -> tuple[Credential, ...]:
        """Those that the device may connect with."""
        return tuple(each for each in self.credentials if each.is_valid(now))


@dataclass(frozen=True, kw_only=True, slots=True)
class CredentialCounts:
    """How many devices have a credential that is valid, ends soon, ended, or was revoked.

    `expiring` are of the active ones, by the days within which their last one ends; the longer time counts
    the shorter one, too.
    """

    active: int
    expired: int
    revoked: int
    expiring: dict[int, int]


def has_room(kept: DeviceCredentials, now: datetime) -> bool:
    """Whether a device may have one more: one that is valid is never forgotten, or nobody could revoke it."""
    return len(kept.valid(now)) < limits.DEVICE_CREDENTIALS_MAX


def added(kept: DeviceCredentials, credential: Credential, now: datetime) -> DeviceCredentials:
    """With one more, which changes nothing where it is there; the oldest that are over are forgotten."""
    if any(
        (each.kind, each.identifier) == (credential.kind, credential.identifier) for each in kept.credentials
    ):
        return kept
    credentials = [*kept.credentials, credential]
    over = [each for each in credentials if not each.is_valid(now)]
    for each in over[: max(0, len(credentials) - limits.DEVICE_CREDENTIALS_MAX)]:
        credentials.remove(each)
    return replace(kept, credentials=tuple(credentials))


def revoked(
    kept: DeviceCredentials, *, by: str, now: datetime, only: Collection[str] | None = None
) -> DeviceCredentials:
    """With all of them revoked, or `only` these; what was revoked before stays as it was."""
    return replace(
        kept,
        credentials=tuple(
            replace(each, revoked_by=by, revoked_at=now)
            if each.revoked_at is None and (only is None or each.identifier in only)
            else each
            for each in kept.credentials
        ),
    )


def days_left(until: datetime, now: datetime) -> int:
    """How many days are left, those that have begun not counted; negative: it is over."""
    return (until - now) // timedelta(days=1)


def ends_soon(until: datetime | None, now: datetime) -> bool:
    """Whether somebody must see to it: it ends within the longest of the times that are warned of."""
    return until is not None and until - now < timedelta(days=max(limits.EXPIRY_WARNED_DAYS))
