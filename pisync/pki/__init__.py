"""Certificates: an authority that signs and revokes them, and what is read from those of others."""

from pisync.pki.authority import Authority
from pisync.pki.certificates import (
    Certificate,
    Issued,
    Request,
    Usage,
    all_certificates,
    is_signed_by,
    read_certificate,
    read_request,
)
from pisync.pki.revocations import Revocations, read_revocations

__all__ = [
    "Authority",
    "Certificate",
    "Issued",
    "Request",
    "Revocations",
    "Usage",
    "all_certificates",
    "is_signed_by",
    "read_certificate",
    "read_request",
    "read_revocations",
]
