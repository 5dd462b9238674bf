"""The listening addresses and open files of a process, read from the kernel."""

import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

_LISTENING = "0A"


def listening_addresses(pid: int) -> list[tuple[IPv4Address | IPv6Address, int]]:
    """Return the address and port of every TCP socket on which the process `pid` accepts connections."""
    inodes = {link for link in links(pid) if link.startswith("socket:[")}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == _LISTENING and f"socket:[{inode}]" in inodes:
                found.append(_parse(local))
    return found


def links(pid: int) -> list[str]:
    """Return the targets of the descriptors of a process; descriptors that it closes meanwhile are omitted."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(descriptor.readlink()))
        except FileNotFoundError:  # closed after the listing
            continue
    return found


def _parse(local: str) -> tuple[IPv4Address | IPv6Address, int]:
    """Parse `0100007F:1F90`: 32-bit words in the machine's order, and a port."""
    words, _, port = local.partition(":")
    packed = b"".join(struct.pack("=I", int(words[start : start + 8], 16)) for start in range(0, len(words), 8))
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return ip_address(socket.inet_ntop(family, packed)), int(port, 16)
