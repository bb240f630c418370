"""A device has its own key signed, once, by a token: the key never leaves the device.

A token is bound to the first key that comes with it, so that a device whose answer was lost asks again, with
the same request, and gets the same certificate; nobody else gets anything for that token any more.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from time import monotonic
from typing import Final

from api.auth.addresses import limited_as
from api.auth.buckets import Buckets
from api.directory.changes import new_action
from pisync import clock, limits
from pisync.domain.actions import About, Progress, What
from pisync.domain.credentials import Credential, Source
from pisync.domain.enrolment import hash_of, is_token
from pisync.errors import CertificateRefused
from pisync.pki import Authority, Certificate, Request, Usage, read_certificate, read_request
from pisync.stores import credential_changes
from pisync.stores.interfaces.actions import ActionStore
from pisync.stores.interfaces.credentials import Claim, CredentialStore, EnrolmentTokens

WHO: Final = "enrolment"


class Outcome(StrEnum):
    """What became of a request; it is the label of a metric."""

    SIGNED = "signed"
    REPEATED = "repeated"
    WRONG_TOKEN = "wrong_token"  # noqa: S105 - what became of it
    WRONG_REQUEST = "wrong_request"
    LIMITED = "limited"


class WrongTokenError(Exception):
    """The token is none, or another device's, or another key's, or it expired."""


class TooManyError(Exception):
    """This address asked too often; `wait_s` is in seconds."""

    def __init__(self, wait_s: float) -> None:
        super().__init__()
        self.wait_s = wait_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Stores:
    """What enrolment reads and writes."""

    tokens: EnrolmentTokens
    credentials: CredentialStore
    actions: ActionStore


class Enrolment:
    """Signs for devices that have a token; how often an address may ask is counted here, for this replica."""

    def __init__(self, authority: Authority, stores: Stores, *, now: Callable[[], float] = monotonic) -> None:
        """Sign with this authority."""
        self.total: Counter[Outcome] = Counter()
        self.authority = authority
        self._stores = stores
        self._asking = Buckets(
            per_s=limits.ENROLMENTS_PER_MINUTE / 60, burst=limits.ENROLMENTS_PER_MINUTE, now=now
        )

    def hold_to_pace(self, address: str) -> None:
        """Let an address ask.

        Raises:
            TooManyError: it asked too often.
        """
        wait_s = self._asking.take(limited_as(address))
        if wait_s:
            self.total[Outcome.LIMITED] += 1
            raise TooManyError(wait_s)

    async def enrol(self, token: str, pem: bytes) -> bytes:
        """The certificate for a request, as PEM.

        Raises:
            CertificateRefused: the request is not taken; the token is as it was.
            WrongTokenError: there is no such token for the device and the key.
            MongodbUnavailable: the same request may be sent again.
        """
        try:
            request = read_request(pem)
        except CertificateRefused:
            self.total[Outcome.WRONG_REQUEST] += 1
            raise
        try:
            certificate, is_new = await self._certificate(token, request, pem)
        except WrongTokenError:
            self.total[Outcome.WRONG_TOKEN] += 1
            raise
        self.total[Outcome.SIGNED if is_new else Outcome.REPEATED] += 1
        return certificate

    async def _certificate(self, token: str, request: Request, pem: bytes) -> tuple[bytes, bool]:
        claim = await self._claim(token, request)
        if claim.certificate is not None:
            await self._keep(claim.certificate, claim, token, request)
            return claim.certificate, False
        device_id = request.common_name
        action = new_action(WHO, What.ENROL, About.CREDENTIALS, device_id)
        await self._stores.actions.begin(action)
        issued = self.authority.issue(device_id, usage=Usage.DEVICE, csr=pem)
        # Of two answers at once, the one that was kept first counts; nobody gets the other.
        certificate = await self._stores.tokens.answer(claim, issued.certificate)
        if certificate is None:
            await self._stores.actions.settle(action.action_id, Progress.NOT_DONE)
            raise WrongTokenError
        await self._keep(certificate, claim, token, request)
        told = {"invited_by": claim.token.given_by, "serial": read_certificate(certificate).serial}
        await self._stores.actions.settle(action.action_id, Progress.DONE, told)
        return certificate, True

    async def _claim(self, token: str, request: Request) -> Claim:
        if not is_token(token):
            raise WrongTokenError
        claim = await self._stores.tokens.claim(
            request.common_name, hash_of(token), hash_of(request.key), clock.now()
        )
        if claim is None:
            raise WrongTokenError
        return claim

    async def _keep(self, pem: bytes, claim: Claim, token: str, request: Request) -> None:
        """Have the store know of the certificate.

        A revocation takes the token first: where it is gone now, what was just kept may have come after it.
        """
        certificate, device_id, now = read_certificate(pem), request.common_name, clock.now()
        credential = _credential(certificate, claim, now)
        refused = await credential_changes.give(
            self._stores.credentials, {device_id: credential}, now, beside=True
        )
        if refused:
            raise CertificateRefused(
                f"{device_id} has {limits.DEVICE_CREDENTIALS_MAX} certificates that are valid: revoke some"
            )
        try:
            await self._claim(token, request)
        except WrongTokenError:
            await credential_changes.revoke(
                self._stores.credentials, [device_id], by=WHO, now=now, only=[certificate.serial]
            )
            raise


def _credential(certificate: Certificate, claim: Claim, now: datetime) -> Credential:
    return Credential(
        identifier=certificate.serial,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        source=Source.ENROLLED,
        given_by=claim.token.given_by,
        given_at=now,
    )
