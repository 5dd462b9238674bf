"""The restrictions on connections to servers of customers: of their root keys, and of their webhooks.

The operator configures them, never the customer. The networks of each kind are separate, so that a webhook does not
reach the network of key servers.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
"""The only IPv6 addresses that IANA assigns to hosts (RFC 4291 section 2.4, RFC 3587)."""
# `is_global` does not know them: 6to4 relays (RFC 7526), documentation (RFC 9637).
_UNASSIGNED = (ipaddress.IPv4Network("192.88.99.0/24"), ipaddress.IPv6Network("3fff::/20"))


@dataclass(frozen=True)
class EgressPolicy:
    """The settings aws_kms_endpoint, pkcs11_module, pkcs11_tokens, root_key_networks and root_key_timeout_seconds.

    For webhooks only `networks` is set, to webhook_networks.
    """

    aws_endpoint: str | None = None
    pkcs11_module: Path | None = None
    pkcs11_tokens: Mapping[str, str] = field(default_factory=dict)
    """The tenant that may use a token of the module, by the token's label."""
    networks: tuple[str, ...] = ()
    timeout_seconds: float = 2.0

    @cached_property
    def _networks(self) -> tuple[Network, ...]:
        return tuple(ipaddress.ip_network(network) for network in self.networks)

    def allows(self, address: str, *, encrypted: bool) -> bool:
        """Return whether the platform may connect to `address`, an IP address, for a customer.

        Every address in the operator's networks is allowed. Any other must be public and use TLS. Otherwise a customer
        could make this process connect to internal services, such as the cloud's metadata service or the key server.
        """
        plain = _plain(ipaddress.ip_address(address.partition("%")[0]))
        if any(plain in network for network in self._networks):
            return True
        return encrypted and _is_public(plain)


def _is_public(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    if any(address in network for network in _UNASSIGNED):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _plain(address: _Address) -> _Address:
    """Return the IPv4 address that an IPv6 address embeds, because the packets reach the IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address.teredo is not None:
            return address.teredo[1]
    return address


def is_address(host: str) -> bool:
    """Return whether `host` is an IP address and not a name."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
