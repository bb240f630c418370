"""From which address a request comes: the connection's, or what a trusted proxy says of it."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from fastapi import Request

from pisync import limits
from pisync.settings import is_loopback

_FORWARDED: Final = "x-forwarded-for"
# One that a connection has not, as over a socket of this machine.
NO_ADDRESS: Final = "none"
# What one customer of a provider has at the least, and so may change his address within (RFC 6177).
_IPV6_PREFIX: Final = 64


def is_within(host: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Whether a client's address lies in one of these networks."""
    address = _read(host)
    return address is not None and any(address in network for network in networks)


def address_of(request: Request) -> str:
    """The address that a request comes from.

    Each proxy adds behind `X-Forwarded-For` who asked it. What is before the last that is no trusted proxy
    may be made up, and what is no address is nobody: then the proxy's own is told.
    """
    if request.client is None:
        return NO_ADDRESS
    found = request.client.host
    proxies: Sequence[IPv4Network | IPv6Network] = request.app.state.settings.trusted_proxies
    if not proxies or not is_within(found, proxies):
        return found
    said = [each.strip() for line in request.headers.getlist(_FORWARDED) for each in line.split(",")]
    for each in reversed(said[-limits.PROXIES_MAX :]):
        address = _read(each)
        if address is None:
            break
        found = str(address)
        if not is_within(found, proxies):
            break
    return found


@lru_cache(maxsize=limits.ADDRESSES_READ_MAX)
def is_of_this_machine(address: str) -> bool:
    """Whether only this machine can have such an address."""
    return address == NO_ADDRESS or is_loopback(address)


def limited_as(address: str) -> str:
    """What an address is counted as: of IPv6 the network of 64 bits, within which a client may change it."""
    read = _read(address)
    if isinstance(read, IPv6Address):
        return str(IPv6Network((read, _IPV6_PREFIX), strict=False))
    return address


def _read(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
