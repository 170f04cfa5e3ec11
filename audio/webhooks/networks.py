"""PURE. The addresses to which webhooks may be sent.

The managers of a project choose the URL of an endpoint, and the server may be in a network that they must not reach. So
only addresses of the public internet are allowed, unless the operator has named a network.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Networks = Sequence[IPv4Network | IPv6Network]

# An IPv6 address in this network represents the IPv4 address in its last 32 bits (RFC 6052 section 2.1, NAT64).
_TRANSLATED = IPv6Network("64:ff9b::/96")
# The global unicast addresses that are assigned (RFC 3587 section 3).
_UNICAST = IPv6Network("2000::/3")


def parsed(text: str) -> Address | None:
    """Parse an IP address; return None if the text is a name."""
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None


def is_named(address: Address, allowed: Networks) -> bool:
    """Whether the operator has named a network that contains the address."""
    address = _plain(address)
    return any(address in network for network in allowed)


def is_allowed(address: Address, allowed: Networks) -> bool:
    """Whether a webhook may be sent to an address.

    Args:
        address: The address.
        allowed: The networks that the operator has named.
    """
    return is_named(address, allowed) or all(_is_public(each) for each in (address, *_embedded(address)))


def _plain(address: Address) -> Address:
    """Return the IPv4 address in an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2), or the address itself."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _embedded(address: Address) -> list[Address]:
    """Return the IPv4 addresses to which a tunnel or a translator would forward."""
    if isinstance(address, IPv4Address):
        return []
    found: list[Address | None] = [address.sixtofour, *(address.teredo or ())]
    if address in _TRANSLATED:
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in found if each is not None]


def _is_public(address: Address) -> bool:
    address = _plain(address)
    if isinstance(address, IPv6Address):
        return address.is_global and (address in _UNICAST or address in _TRANSLATED)
    return address.is_global and not (address.is_multicast or address.is_reserved)
