"""The lines of a journal file: `CRC-32 in hex, space, JSON array, newline`.

Two things make a line whole: its newline and its checksum. What a killed process left unfinished at the end of a file
lacks one of them, was never answered, and is passed over.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import orjson

from core.services import CryptoOperation
from crypto.interfaces import Entry

_CHECKSUM_LENGTH = 8
_OPERATIONS: Mapping[str, CryptoOperation] = MappingProxyType({one.value: one for one in CryptoOperation})


@dataclass(slots=True)
class Line:
    """An entry with its place in the file and the time it was written, in milliseconds since the epoch."""

    offset: int
    at: int
    entry: Entry


def encode(entry: Entry, at: int) -> bytes:
    values = [
        at,
        entry.tenant_id,
        entry.service,
        entry.operation,
        entry.subject,
        entry.correlation_id,
        entry.source,
        entry.refused,
        entry.count,
        entry.bytes,
        entry.microseconds,
    ]
    try:
        fields = orjson.dumps(values)
    except orjson.JSONEncodeError:  # a lone surrogate, which no text from a client should have got past its front
        fields = orjson.dumps([_plain(value) if isinstance(value, str) else value for value in values])
    return b"%08x %b\n" % (zlib.crc32(fields), fields)


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def whole_part(data: bytes) -> bytes:
    """Return `data` up to and with its last newline."""
    return data[: data.rfind(b"\n") + 1]


def decode(data: bytes, offset: int) -> Iterator[Line | int]:
    """Yield the lines of `data`, which begins at `offset` of its file; for a damaged one its offset."""
    for raw in data.splitlines(keepends=True):
        yield _decode_one(raw, offset) or offset
        offset += len(raw)


def _decode_one(raw: bytes, offset: int) -> Line | None:
    checksum, fields = raw[:_CHECKSUM_LENGTH], raw[_CHECKSUM_LENGTH + 1 : -1]
    if raw[-1:] != b"\n" or b"%08x" % zlib.crc32(fields) != checksum:
        return None
    # A line from before requests were timed ends one value earlier, and its entry says that nobody timed it.
    at, tenant_id, service, operation, *rest = orjson.loads(fields)
    return Line(offset, at, Entry(tenant_id, service, _OPERATIONS[operation], *rest))


def join(entries: Sequence[Entry], at: int) -> bytes:
    """Return the lines of several entries, for one write."""
    return b"".join([encode(entry, at) for entry in entries]) if len(entries) > 1 else encode(entries[0], at)
