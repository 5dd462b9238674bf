"""An audit stream, or what was chosen from it, as JSON Lines: one file that its reader can check without us.

The first line is the header: whose stream, what was chosen, where the stream ended, its newest signed head, and a
checksum of the header itself, which no chain covers. Then one line for each record with its number, its chain hash and
exactly the text that was hashed. The last line says how many there were, so that a download that broke off is not taken
for a stream that ends there.

The records of a selection are not neighbours: where one is missing before a record, the record's line also has the
chain hash it follows, so that each link can be computed all the same.

JSON has many ways to say the same. A reader that took them all would not see that somebody was at the file, so each
line is written anew from what was read and must come out the same, byte for byte.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tenancy.audit import StoredRecord
from tenancy.errors import AuditBroken
from tenancy.proofs import differs_at

LONGEST = 2**63 - 1
"""The greatest number a stream can have, PostgreSQL's bigint."""

_as_json = json.JSONEncoder(ensure_ascii=False).encode
"""Made once: a million lines are written anew to verify them."""


class SignedPlace(BaseModel):
    """A signature over `tenancy.audit.head_message`; base64 of the DER form, by `key` (`name:version`).

    `fingerprint` tells which public key to ask for, by a way other than this file: SHA-256 of its DER form.
    """

    model_config = ConfigDict(frozen=True)

    seq: int = Field(gt=0, le=LONGEST)
    chain_hash: str = Field(pattern="^[0-9a-f]{64}$")
    signature: str
    key: str
    fingerprint: str = Field(pattern="^([0-9a-f]{64})?$")


class ExportHeader(BaseModel):
    """What a file says about itself. `selection` is empty for a whole stream, else what was asked for, in words."""

    model_config = ConfigDict(frozen=True)

    format: Literal["openkcm-audit/2"] = "openkcm-audit/2"
    tenant_id: str
    exported_at: datetime
    last_seq: int = Field(ge=0, le=LONGEST, description="the number of the stream's last record when the export began")
    selection: dict[str, str] = Field(default_factory=dict)
    signed_head: SignedPlace | None = None


@dataclass(frozen=True, slots=True)
class ExportedRecord:
    """A record as a file has it; `previous` is the chain hash before it, where the record before it is not there."""

    stored: StoredRecord
    previous: bytes | None


def header_line(header: ExportHeader) -> str:
    fields = header.model_dump_json()
    return f'{fields[:-1]},"sha256":"{hashlib.sha256(fields.encode()).hexdigest()}"}}\n'


def record_line(stored: StoredRecord, previous: bytes | None = None) -> str:
    """Return a record's line; `previous` is given where the record before it is not in the file."""
    follows = "" if previous is None else f', "previous": "{previous.hex()}"'
    record = _as_json(stored.record)
    return f'{{"seq": {stored.seq}, "chain_hash": "{stored.chain_hash.hex()}", "record": {record}{follows}}}\n'


def end_line(records: int) -> str:
    return f"{json.dumps({'records': records})}\n"


def export_lines(
    header: ExportHeader,
    pieces: Iterable[Iterable[tuple[StoredRecord, bytes | None]]],
    handed_out: Callable[[int], None],
) -> Iterator[str]:
    """Yield a whole file, a piece of lines at a time; a piece is records with the chain hash before each.

    `handed_out` is told how many records there were, before the last line says so.
    """
    yield header_line(header)
    records = last = 0
    for piece in pieces:
        lines = []
        for stored, previous in piece:
            lines.append(record_line(stored, None if stored.seq == last + 1 else previous))
            last = stored.seq
        records += len(lines)
        if lines:
            yield "".join(lines)
    handed_out(records)
    yield end_line(records)


def read_export(lines: Iterable[bytes]) -> tuple[ExportHeader, Iterator[ExportedRecord]]:
    """Return the header and the records as they are read; the file's end is checked when the last one was.

    The lines are as they lie in the file, each with the newline that ends it.

    Raises:
        AuditBroken: now for the header, later for a line that is none of ours or an end that is missing or untrue.
    """
    rest = _decoded(lines)
    return _header(next(rest, "")), _records(rest)


def _decoded(lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode()
        except UnicodeDecodeError as failed:
            raise AuditBroken(f"line {number} is not text (byte {failed.start + 1})") from None
        yield text


def _header(line: str) -> ExportHeader:
    try:
        header = ExportHeader.model_validate_json(line)
    except ValidationError:
        if line.startswith('{"format":"openkcm-audit/1"'):
            raise AuditBroken("line 1 is of an older format, openkcm-audit/1: export the stream again") from None
        raise AuditBroken("line 1 is not the header of an audit export") from None
    if header_line(header) != line:
        raise AuditBroken("line 1, the header, was altered: it does not fit its own checksum")
    return header


def _records(lines: Iterator[str]) -> Iterator[ExportedRecord]:
    number, last = 0, 0
    for number, line in enumerate(lines, start=1):
        fields = _fields(line)
        if fields.keys() == {"records"}:
            if end_line(number - 1) != line:
                raise AuditBroken(f"line {number + 1}, the last, does not say that the file holds {number - 1} records")
            if next(lines, None) is not None:
                raise AuditBroken(f"line {number + 2} follows the last line")
            return
        try:
            one = _record(fields)
        except (KeyError, TypeError, ValueError):
            raise AuditBroken(f"line {number + 1} is not a record") from None
        if one.previous is not None and one.stored.seq == last + 1:
            raise AuditBroken(f"line {number + 1} has a hash to follow that the line before it has too")
        if (canonical := record_line(one.stored, one.previous)) != line:
            at = differs_at(line, canonical)
            raise AuditBroken(f"line {number + 1} is not as it was written: it differs at character {at}")
        last = one.stored.seq
        yield one
    raise AuditBroken(f"the file breaks off after line {number + 1}")


def _fields(line: str) -> dict[str, object]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _record(fields: dict[str, object]) -> ExportedRecord:
    seq, record = fields["seq"], fields["record"]
    if type(seq) is not int or not 0 < seq <= LONGEST or not isinstance(record, str):
        raise TypeError
    previous = _hash(fields["previous"]) if "previous" in fields else None
    return ExportedRecord(StoredRecord(seq, record, _hash(fields["chain_hash"])), previous)


def _hash(text: object) -> bytes:
    if not isinstance(text, str):
        raise TypeError
    return bytes.fromhex(text)
