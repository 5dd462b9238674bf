"""An audit stream or a selection of it as JSON Lines, a file that can be verified offline.

The first line is the header: tenant, selection, end of the stream, newest checkpoint, and a checksum of the header
itself, which no chain covers. One line follows for each record, with its number, its chain hash and exactly the text
that was hashed. The last line states the number of records, so that an incomplete download is detected.

Records of a selection are not consecutive. Where a predecessor is missing, the line also contains the predecessor's
chain hash, so that each link can still be computed.

JSON can encode the same value in many ways, which could hide an edit. A verifier therefore encodes each line again and
requires the same bytes.

Records that were archived are not in the stream any more. The header then contains the newest archive statement, and
the first record of the file follows the last archived one. An archive file is such an export as well: of the records
between two statements, with the checkpoint of its last record.

An export is verified with the file and public keys alone:

1. The header matches its checksum, and every line is in canonical form.
2. The records of a whole stream are numbered without gaps from the first or from the archive statement, chained, and
   belong to the tenant.
3. The file ends where its header states the end of the stream.
4. The checkpoint matches the record with its number.
5. The signatures of checkpoint and archive statement are by a key that the verifier obtained from another source than
   this file.

The chain alone proves nothing against an attacker who can rewrite the whole file, since it is computed from the
content. The signature proves everything up to the signed record. Later records are not signed yet, and the result says
so; a later export of the same stream has them signed.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from openkcm.contract.audit_events import (
    CHECKPOINT_MINUTES,
    StoredRecord,
    archive_message,
    fields_of,
    head_message,
    verify_chain,
)
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
"""The greatest sequence number: the maximum of PostgreSQL's bigint."""

_encode_json = json.JSONEncoder(ensure_ascii=False).encode
"""Created once: a verification encodes a million lines again."""


class Checkpoint(BaseModel):
    """A signature over `openkcm.contract.audit_events.head_message`; base64 of the DER form, by `key` (`name:version`).

    `fingerprint` identifies the public key, to be obtained from another source: SHA-256 of its DER form.
    """

    model_config = ConfigDict(frozen=True)

    seq: int = Field(gt=0, le=LONGEST)
    chain_hash: str = Field(pattern="^[0-9a-f]{64}$")
    signature: str
    key: str
    fingerprint: str = Field(pattern="^([0-9a-f]{64})?$")


class ArchiveStatement(BaseModel):
    """A signature over `openkcm.contract.audit_events.archive_message`: a verified file contains the records to `seq`.

    `sha256` is that of the file; its header contains the statement before it.
    """

    model_config = ConfigDict(frozen=True)

    seq: int = Field(gt=0, le=LONGEST)
    chain_hash: str = Field(pattern="^[0-9a-f]{64}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    signature: str
    key: str
    fingerprint: str = Field(pattern="^([0-9a-f]{64})?$")

    @property
    def end(self) -> StoredRecord:
        """The last archived record, without its text: the predecessor of the first record after it."""
        return StoredRecord(self.seq, "", bytes.fromhex(self.chain_hash))

    def message(self, tenant_id: str) -> bytes:
        """Return the signed message."""
        return archive_message(tenant_id, self.seq, bytes.fromhex(self.chain_hash), bytes.fromhex(self.sha256))


class ExportHeader(BaseModel):
    """The description of a file. `selection` contains the filters in words; it is empty for a whole stream.

    `archived` is absent from a file while no record is archived.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal["openkcm-audit/2"] = "openkcm-audit/2"
    tenant_id: str
    exported_at: datetime
    last_seq: int = Field(ge=0, le=LONGEST, description="the number of the stream's last record when the export began")
    selection: dict[str, str] = Field(default_factory=dict)
    signed_head: Checkpoint | None = None
    archived: ArchiveStatement | None = Field(None, exclude_if=lambda archived: archived is None)

    @property
    def before(self) -> StoredRecord | None:
        """The archived record before the file; None if the file begins with the first."""
        return None if self.archived is None else self.archived.end


@dataclass(frozen=True, slots=True)
class ExportedRecord:
    """A record of a file; `previous` is the chain hash of its predecessor, if that is not in the file."""

    stored: StoredRecord
    previous: bytes | None


def header_line(header: ExportHeader) -> str:
    fields = header.model_dump_json()
    return f'{fields[:-1]},"sha256":"{hashlib.sha256(fields.encode()).hexdigest()}"}}\n'


def record_line(stored: StoredRecord, previous: bytes | None = None) -> str:
    """Return a record's line; `previous` is given if its predecessor is not in the file."""
    follows = "" if previous is None else f', "previous": "{previous.hex()}"'
    record = _encode_json(stored.record)
    return f'{{"seq": {stored.seq}, "chain_hash": "{stored.chain_hash.hex()}", "record": {record}{follows}}}\n'


def end_line(records: int) -> str:
    return f"{json.dumps({'records': records})}\n"


def export_lines(
    header: ExportHeader,
    pieces: Iterable[Iterable[tuple[StoredRecord, bytes | None]]],
    report_total: Callable[[int], None],
) -> Iterator[str]:
    """Yield a whole file in pieces; a piece contains records with the chain hash before each.

    `report_total` receives the number of records before the last line is yielded.
    """
    yield header_line(header)
    records, last = 0, 0 if header.before is None else header.before.seq
    for piece in pieces:
        lines = []
        for stored, previous in piece:
            lines.append(record_line(stored, None if stored.seq == last + 1 else previous))
            last = stored.seq
        records += len(lines)
        if lines:
            yield "".join(lines)
    report_total(records)
    yield end_line(records)


def read_export(lines: Iterable[bytes]) -> tuple[ExportHeader, Iterator[ExportedRecord]]:
    """Return the header and an iterator of the records; the iterator checks the end of the file.

    The lines are those of the file, each with its newline.

    Raises:
        AuditBroken: now for the header, while iterating for an invalid line or a missing or wrong end.
    """
    rest = _decoded(lines)
    header = _header(next(rest, ""))
    return header, _records(rest, 0 if header.before is None else header.before.seq)


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
        raise AuditBroken("line 1, the header, was altered: its checksum does not match")
    return header


def _records(lines: Iterator[str], last: int) -> Iterator[ExportedRecord]:
    number = 0
    for number, line in enumerate(lines, start=1):
        fields = _fields(line)
        if fields.keys() == {"records"}:
            if end_line(number - 1) != line:
                raise AuditBroken(f"line {number + 1}, the last, does not state that the file has {number - 1} records")
            if next(lines, None) is not None:
                raise AuditBroken(f"line {number + 2} follows the last line")
            return
        try:
            one = _record(fields)
        except (KeyError, TypeError, ValueError):
            raise AuditBroken(f"line {number + 1} is not a record") from None
        if one.previous is not None and one.stored.seq == last + 1:
            raise AuditBroken(f"line {number + 1} repeats the hash of the line before it")
        if (canonical := record_line(one.stored, one.previous)) != line:
            at = differs_at(line, canonical)
            raise AuditBroken(f"line {number + 1} was altered: it differs at character {at}")
        last = one.stored.seq
        yield one
    raise AuditBroken(f"the file ends early, after line {number + 1}")


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
"""A record's number and chain hash, which identifies the stream up to there."""


def verify_export(
    lines: Iterable[bytes],
    check: SignatureCheck | None,
    visit: Callable[[StoredRecord], None] = lambda _stored: None,
    *,
    compared: bool = False,
) -> VerificationResult:
    """Return the result for an export; `visit` gets each verified record before the next is read.

    Without `check` the signature is not checked. `compared` declares that the caller also compares the records with a
    whole export: a selection is not bound to its checkpoint, so alone it does not count as signed.
    """
    result, events, last = VerificationResult(Kind.EXPORT), 0, 0
    try:
        header, records = read_export(lines)
        result, at_head = _initial_result(header), header.before
        last = result.archived
        for stored in _verified_records(header, records):
            events, last = events + 1, stored.seq
            if last == result.signed:
                at_head = stored
            visit(stored)
        if not header.selection:
            _check_end(header, last)
            _check_checkpoint(header.signed_head, at_head)
    except AuditBroken as broken:
        signature = result.signature if check is None else SignatureState.NOT_REACHED
        return replace(result, events=events, problem=broken.message, signature=signature)
    result = replace(result, events=events)
    return result if check is None else _check_signature(header, result, check, compared=compared)


def places_of(lines: Iterable[bytes]) -> Iterator[Place]:
    """Yield number and chain hash of the records of an intact export, in their order.

    The archived record before the file is the first: it is the last one of an archive file.
    """
    header, records = read_export(lines)
    before = () if header.before is None else (header.before,)
    return ((stored.seq, stored.chain_hash) for stored in chain(before, (one.stored for one in records)))


@dataclass(frozen=True, slots=True)
class ExportComparison:
    """How many records two files share, and how many are in one of them only."""

    same: int = 0
    only_here: int = 0
    only_there: int = 0


def compare(here: Iterable[Place], there: Iterable[Place]) -> ExportComparison:
    """Compare two sequences of records, each in ascending order.

    Raises:
        AuditBroken: a record differs; the message names the first one.
        VerificationIncomplete: they share no record, so neither proves anything about the other.
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
            raise AuditBroken(f"record {one[0]} differs between the files")
        else:
            same, one, other = same + 1, next(ours, None), next(theirs, None)
    if not same:
        raise VerificationIncomplete(
            "the two files have no record in common, so neither proves anything about the other"
        )
    return ExportComparison(same, only_here, only_there)


def _next_checkpoint(exported_at: datetime) -> str:
    """Return when the platform signs the next checkpoint after an export."""
    interval = timedelta(minutes=CHECKPOINT_MINUTES)
    try:
        exported = exported_at.astimezone(UTC)
        due = exported - (exported - datetime.min.replace(tzinfo=UTC)) % interval + interval
    except (OverflowError, ValueError):  # a hostile file may name the first or the last moment of the calendar
        return f"{CHECKPOINT_MINUTES} minutes"
    return f"{due:%Y-%m-%d %H:%M} UTC"


def recognize_other_key(checked: CheckedSignature, signed: Checkpoint | ArchiveStatement | None) -> CheckedSignature:
    """Return a failed check as one with an unknown key, if the file names a key with another fingerprint.

    Every installation uses the same key names, so the name cannot identify another installation's key. A forger can
    name any fingerprint: the result neither refutes nor confirms the file.
    """
    if signed is None or checked.problem is None or checked.key != signed.key:
        return checked
    named, used = signed.fingerprint, checked.fingerprint
    if not (named and used) or named == used:
        return checked
    problem = f"the file names a key with the fingerprint {named}, and the public key given has {used}"
    return replace(checked, fingerprint=named, problem=problem, unknown_key=True)


def check_archived(tenant_id: str, archived: ArchiveStatement, check: SignatureCheck) -> CheckedSignature:
    """Return the result of the signature check of an archive statement."""
    return recognize_other_key(check(archived.key, archived.message(tenant_id), archived.signature), archived)


def _initial_result(header: ExportHeader) -> VerificationResult:
    signed, archived = header.signed_head, 0 if header.before is None else header.before.seq
    result = VerificationResult(Kind.EXPORT, header.tenant_id, selection=header.selection, archived=archived)
    if signed is None:
        return result
    return replace(
        result,
        signature=SignatureState.NOT_CHECKED,
        signed=signed.seq,
        key=signed.key,
        fingerprint=signed.fingerprint,
    )


def _verified_records(header: ExportHeader, records: Iterator[ExportedRecord]) -> Iterator[StoredRecord]:
    """Yield each record that is chained to its predecessor; an error names line and number."""
    last = header.before
    for line, one in enumerate(records, start=2):
        stored = one.stored
        try:
            verify_chain([stored], after=_predecessor(header, one, last))
        except AuditBroken as broken:
            raise AuditBroken(f"{broken.message} (line {line})") from None
        if fields_of(stored.record).get("tenant_id") != header.tenant_id:
            raise AuditBroken(f"record {stored.seq} does not belong to {header.tenant_id} (line {line})")
        yield stored
        last = stored


def _predecessor(header: ExportHeader, one: ExportedRecord, last: StoredRecord | None) -> StoredRecord | None:
    """Return the predecessor of a record; in a selection that left it out, from the hash in the record's line."""
    seq, expected = one.stored.seq, 1 if last is None else last.seq + 1
    if not header.selection or seq <= expected:
        return last
    if one.previous is None:
        raise AuditBroken(f"record {seq} does not contain the hash of its predecessor")
    return StoredRecord(seq - 1, "", one.previous)


def _check_end(header: ExportHeader, last: int) -> None:
    if last < header.last_seq:
        raise AuditBroken(f"record {last + 1} is missing: the file ends there, the header states {header.last_seq}")
    if last > header.last_seq:
        raise AuditBroken(f"record {header.last_seq + 1} comes after the end that the header states")


def _check_checkpoint(signed: Checkpoint | None, stored: StoredRecord | None) -> None:
    if signed is None:
        return
    if stored is None or stored.seq != signed.seq:
        raise AuditBroken(f"record {signed.seq}, which was signed, is missing")
    if stored.chain_hash.hex() != signed.chain_hash:
        raise AuditBroken(f"record {signed.seq} is not the signed one")


def _check_signature(
    header: ExportHeader, result: VerificationResult, check: SignatureCheck, *, compared: bool
) -> VerificationResult:
    signed = header.signed_head
    if signed is None:
        problem = (
            "the file has no signed checkpoint, so the origin of its records is not proven; export it again after "
            f"{_next_checkpoint(header.exported_at)}"
        )
        return replace(result, problem=problem, incomplete=True)
    checked = check(
        signed.key, head_message(header.tenant_id, signed.seq, bytes.fromhex(signed.chain_hash)), signed.signature
    )
    checked = recognize_other_key(checked, signed)
    if checked.problem is not None:
        problem = f"line 1, the checkpoint of record {signed.seq}: {checked.problem}"
        result = replace(result, signature=signature_state(checked), problem=problem, incomplete=checked.unknown_key)
        return replace(result, fingerprint=checked.fingerprint or result.fingerprint)
    if header.archived is not None and (unproven := check_archived(header.tenant_id, header.archived, check)).problem:
        problem = f"line 1, the archive of the records to {header.archived.seq}: {unproven.problem}"
        state = signature_state(unproven)
        return replace(result, signature=state, problem=problem, incomplete=unproven.unknown_key)
    result = replace(result, signature=SignatureState.VERIFIED, fingerprint=checked.fingerprint)
    if header.selection and not compared:
        problem = "a selection is not bound to its checkpoint; compare it with a whole export of the same stream"
        return replace(result, problem=problem, incomplete=True)
    if header.selection:
        return replace(result, signed=0)
    return result
