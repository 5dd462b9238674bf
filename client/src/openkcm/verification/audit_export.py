"""An audit stream, or what was chosen from it, as JSON Lines: one file that its reader can check without us.

The first line is the header: whose stream, what was chosen, where the stream ended, its newest signed head, and a
checksum of the header itself, which no chain covers. Then one line for each record with its number, its chain hash and
exactly the text that was hashed. The last line says how many there were, so that a download that broke off is not taken
for a stream that ends there.

The records of a selection are not neighbours: where one is missing before a record, the record's line also has the
chain hash it follows, so that each link can be computed all the same.

JSON has many ways to say the same. A reader that took them all would not see that somebody was at the file, so each
line is written anew from what was read and must come out the same, byte for byte.

Verifying an audit export with nothing but the file and public keys: what is wrong with it, and where.

1. The header fits its checksum, and every line is exactly as it was written (`audit_export`).
2. The records of a whole stream are numbered without a gap, each is chained to the one before it and is the tenant's.
3. The file ends where its header says the stream ended.
4. The signed head is that of the record in the file that has its number.
5. The signature over that head is by a key the reader was given by another way than this file.

The chain alone proves nothing against somebody who can write the whole file: it is computed from what it protects. The
signature does, for everything up to the signed record. What comes after it was signed by nobody yet, and the verdict
says so; a later export of the same stream has it signed.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from openkcm.contract.audit_events import StoredRecord, fields_of, head_message, verify_chain
from openkcm.errors import AuditBroken
from openkcm.verification.errors import VerificationIncomplete
from openkcm.verification.results import (
    CheckedSignature,
    Kind,
    SignatureCheck,
    SignatureState,
    VerificationResult,
    differs_at,
    signature_state,
)

LONGEST = 2**63 - 1
"""The greatest number a stream can have, PostgreSQL's bigint."""

_as_json = json.JSONEncoder(ensure_ascii=False).encode
"""Made once: a million lines are written anew to verify them."""


class Checkpoint(BaseModel):
    """A signature over `openkcm.contract.audit_events.head_message`; base64 of the DER form, by `key` (`name:version`).

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
    signed_head: Checkpoint | None = None


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


Place = tuple[int, bytes]
"""A record by its number and chain hash, which stands for everything before it too."""


def verify_export(
    lines: Iterable[bytes],
    check: SignatureCheck | None,
    seen: Callable[[StoredRecord], None] = lambda _stored: None,
    *,
    compared: bool = False,
) -> VerificationResult:
    """Return what is to be said of an export; `seen` gets each record that is in its place, before the next is read.

    Without `check` the signature is not looked at. `compared` says that the caller holds the records against a whole
    export besides: nothing ties a selection to a signed head, so one alone is not passed as signed.
    """
    verdict, events, last = VerificationResult(Kind.EXPORT), 0, 0
    try:
        header, records = read_export(lines)
        verdict, at_head = _of_header(header), None
        for stored in _linked(header, records):
            events, last = events + 1, stored.seq
            if last == verdict.signed:
                at_head = stored
            seen(stored)
        if not header.selection:
            _ends_as_said(header, last)
            _holds_head(header.signed_head, at_head)
    except AuditBroken as broken:
        signature = verdict.signature if check is None else SignatureState.NOT_REACHED
        return replace(verdict, events=events, problem=broken.message, signature=signature)
    verdict = replace(verdict, events=events)
    return verdict if check is None else _signed(header, verdict, check, compared=compared)


def places_of(lines: Iterable[bytes]) -> Iterator[Place]:
    """Yield the records of an export that was found intact, as places, in their order."""
    _, records = read_export(lines)
    return ((one.stored.seq, one.stored.chain_hash) for one in records)


@dataclass(frozen=True, slots=True)
class ExportComparison:
    """How many records two files have in common, and how many are in one of them only."""

    same: int = 0
    only_here: int = 0
    only_there: int = 0


def compare(here: Iterable[Place], there: Iterable[Place]) -> ExportComparison:
    """Hold the places of two proofs against each other, each in order of its numbers.

    Raises:
        AuditBroken: a record differs; the message names the first that does.
        VerificationIncomplete: they have no record in common, so neither proves anything about the other.
    """
    ours, theirs = iter(here), iter(there)
    one, other = next(ours, None), next(theirs, None)
    same = only_here = only_there = 0
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other[0]):
            only_here, one = only_here + 1, next(ours, None)
        elif one is None or other[0] < one[0]:
            only_there, other = only_there + 1, next(theirs, None)
        elif one[1] != other[1]:
            raise AuditBroken(f"record {one[0]} is not the same in both files")
        else:
            same, one, other = same + 1, next(ours, None), next(theirs, None)
    if not same:
        raise VerificationIncomplete(
            "the two files have no record in common, so neither proves anything about the other"
        )
    return ExportComparison(same, only_here, only_there)


def recognize_other_key(checked: CheckedSignature, signed: Checkpoint | None) -> CheckedSignature:
    """Return a failed check as one with another key, where the file names a key with another fingerprint.

    Every installation gives its keys the same names, so the name cannot show that the key is another installation's.
    A forger can name any fingerprint: the result is no finding against the file, and never a confirmation.
    """
    if signed is None or checked.problem is None or checked.key != signed.key:
        return checked
    named, used = signed.fingerprint, checked.fingerprint
    if not (named and used) or named == used:
        return checked
    problem = f"the file names a key with the fingerprint {named}, and the public key given has {used}"
    return replace(checked, fingerprint=named, problem=problem, unknown_key=True)


def _of_header(header: ExportHeader) -> VerificationResult:
    signed, verdict = header.signed_head, VerificationResult(Kind.EXPORT, header.tenant_id, selection=header.selection)
    if signed is None:
        return verdict
    return replace(
        verdict,
        signature=SignatureState.NOT_CHECKED,
        signed=signed.seq,
        key=signed.key,
        fingerprint=signed.fingerprint,
    )


def _linked(header: ExportHeader, records: Iterator[ExportedRecord]) -> Iterator[StoredRecord]:
    """Yield each record that follows from the one before it; line and number are named where one does not."""
    last: StoredRecord | None = None
    for line, one in enumerate(records, start=2):
        stored = one.stored
        try:
            verify_chain([stored], after=_before(header, one, last))
        except AuditBroken as broken:
            raise AuditBroken(f"{broken.message} (line {line})") from None
        if fields_of(stored.record).get("tenant_id") != header.tenant_id:
            raise AuditBroken(f"record {stored.seq} is not of {header.tenant_id} (line {line})")
        yield stored
        last = stored


def _before(header: ExportHeader, one: ExportedRecord, last: StoredRecord | None) -> StoredRecord | None:
    """Return what a record follows: in a selection, where others were left out, what its line says that it follows."""
    seq, expected = one.stored.seq, 1 if last is None else last.seq + 1
    if not header.selection or seq <= expected:
        return last
    if one.previous is None:
        raise AuditBroken(f"record {seq} does not say what it follows")
    return StoredRecord(seq - 1, "", one.previous)


def _ends_as_said(header: ExportHeader, last: int) -> None:
    if last < header.last_seq:
        raise AuditBroken(f"record {last + 1} is missing: the file ends there and its header says {header.last_seq}")
    if last > header.last_seq:
        raise AuditBroken(f"record {header.last_seq + 1} comes after the end that the header names")


def _holds_head(signed: Checkpoint | None, there: StoredRecord | None) -> None:
    if signed is None:
        return
    if there is None:
        raise AuditBroken(f"record {signed.seq}, which was signed, is missing")
    if there.chain_hash.hex() != signed.chain_hash:
        raise AuditBroken(f"record {signed.seq} is not the one that was signed")


def _signed(
    header: ExportHeader, verdict: VerificationResult, check: SignatureCheck, *, compared: bool
) -> VerificationResult:
    signed = header.signed_head
    if signed is None:
        problem = "no head is signed in this file, so nothing shows whose records these are; export it again later"
        return replace(verdict, problem=problem, incomplete=True)
    checked = check(
        signed.key, head_message(header.tenant_id, signed.seq, bytes.fromhex(signed.chain_hash)), signed.signature
    )
    checked = recognize_other_key(checked, signed)
    if checked.problem is not None:
        problem = f"line 1, the signed head of record {signed.seq}: {checked.problem}"
        verdict = replace(verdict, signature=signature_state(checked), problem=problem, incomplete=checked.unknown_key)
        return replace(verdict, fingerprint=checked.fingerprint or verdict.fingerprint)
    verdict = replace(verdict, signature=SignatureState.VERIFIED, fingerprint=checked.fingerprint)
    if header.selection and not compared:
        problem = "a selection is not tied to the signed head; hold it against a whole export of the same stream"
        return replace(verdict, problem=problem, incomplete=True)
    if header.selection:
        return replace(verdict, signed=0)
    return verdict
