"""The PROXY protocol, version 2: the address of the client, sent by a load balancer before the TLS handshake.

The specification is HAProxy's doc/proxy-protocol.txt, section 2.2. Version 1 is rejected: its text could be part of
another protocol.
"""

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_HEAD_BYTES = len(_SIGNATURE) + 4
_LARGEST = 1024
"""Bytes of addresses and additional fields; senders write far less."""
_LOCAL, _PROXIED = 0x20, 0x21
_ADDRESS_BYTES = {0x11: 4, 0x21: 16}
"""Address family and transport → size of an address. Other families are ignored, as the specification requires."""

Networks = Sequence[IPv4Network | IPv6Network]


class ProxyHeaderInvalid(ConnectionError):
    """The connection of a load balancer does not begin with a valid header."""


class ProxyHeaderMissing(ProxyHeaderInvalid):
    """The connection of a load balancer begins with something else: it does not send the PROXY protocol."""


class ProxyHeaderUnexpected(ConnectionError):
    """A connection begins with a header of the PROXY protocol, and its peer is no known load balancer."""


def begins_with_header(data: bytes) -> bool:
    """Return whether the first bytes of a connection are a header of version 1 or 2."""
    return data.startswith((_SIGNATURE, b"PROXY "))


def is_within(address: str, networks: Networks) -> bool:
    """Return whether an address is in one of the networks."""
    return bool(networks) and any(ip_address(address) in network for network in networks)


async def read_client_address(connection: socket.socket) -> str | None:
    """Return the address of the client; None for a connection of the load balancer itself, such as a check.

    Reads no byte after the header. Raise ProxyHeaderInvalid, or another OSError when the connection ends.
    """
    head = await _read(connection, _HEAD_BYTES)
    command, family, size = head[12], head[13], int.from_bytes(head[14:], "big")
    if not head.startswith(_SIGNATURE):
        raise ProxyHeaderMissing("no header of the PROXY protocol, version 2")
    if command not in {_LOCAL, _PROXIED} or size > _LARGEST:
        raise ProxyHeaderInvalid("no valid header of the PROXY protocol, version 2")
    body = await _read(connection, size)
    length = _ADDRESS_BYTES.get(family, 0) if command == _PROXIED else 0
    if not length:
        return None
    if len(body) < 2 * length + 4:
        raise ProxyHeaderInvalid("incomplete addresses in the header of the PROXY protocol")
    return str(ip_address(body[:length]))


async def _read(connection: socket.socket, size: int) -> bytes:
    loop, received = asyncio.get_running_loop(), b""
    while len(received) < size:
        more = await loop.sock_recv(connection, size - len(received))
        if not more:
            raise ProxyHeaderInvalid("the connection ended within the header of the PROXY protocol")
        received += more
    return received
