"""Keys: made, written, and which of those that others made are taken."""

from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from pisync.errors import ConfigurationError
from pisync.limits import RSA_BITS_MAX, RSA_BITS_MIN

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey
SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
RULE: Final = f"EC on P-256, P-384 or P-521, Ed25519, or RSA of {RSA_BITS_MIN} to {RSA_BITS_MAX} bits"
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


def make() -> ec.EllipticCurvePrivateKey:
    """A new key on P-256, which every TLS library knows."""
    return ec.generate_private_key(ec.SECP256R1())


def to_pem(key: SigningKey) -> bytes:
    """A private key as PKCS #8 without a passphrase."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def taken(key: PublicKeyTypes) -> PublicKey | None:
    """The key, where it is of a kind and a size that is signed; otherwise None."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key if isinstance(key.curve, _CURVES) else None
    if isinstance(key, rsa.RSAPublicKey):
        return key if RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX else None
    return key if isinstance(key, ed25519.Ed25519PublicKey) else None


def same(one: PublicKeyTypes, other: PublicKeyTypes) -> bool:
    """Whether two public keys are one."""
    return to_der(one) == to_der(other)


def to_der(key: PublicKeyTypes) -> bytes:
    """A public key as it stands in certificates."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def read_signing_key(pem: bytes, name: str) -> SigningKey:
    """The private key of an authority.

    Raises:
        ConfigurationError: it is none, or of another kind; the text begins with the name, and has nothing of
            the key.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:  # as cryptography says that a passphrase is needed
        raise ConfigurationError(
            f"{name} is encrypted with a passphrase: write it without one where it is used,"
            " `openssl pkey -in ca.key -out …`"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{name} holds no private key as PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) or taken(key.public_key()) is None:
        raise ConfigurationError(f"{name} holds a key that nothing is signed with here: it must be EC or RSA")
    return key
