"""Verifying an audit export with nothing but the file and public keys: what is wrong with it, and where.

1. The header fits its checksum, and every line is exactly as it was written (`audit_export`).
2. The records of a whole stream are numbered without a gap, each is chained to the one before it and is the tenant's.
3. The file ends where its header says the stream ended.
4. The signed head is that of the record in the file that has its number.
5. The signature over that head is by a key the reader was given by another way than this file.

The chain alone proves nothing against somebody who can write the whole file: it is computed from what it protects. The
signature does, for everything up to the signed record. What comes after it was signed by nobody yet, and the verdict
says so; a later export of the same stream has it signed.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from tenancy.audit import StoredRecord, fields_of, head_message, verify_chain
from tenancy.audit_export import ExportedRecord, ExportHeader, SignedPlace, read_export
from tenancy.errors import AuditBroken
from tenancy.proofs import CheckedSignature, Kind, SignatureCheck, SignatureState, Verdict, signature_state
from tenancy.verification_errors import VerificationIncomplete

Place = tuple[int, bytes]
"""A record by its number and chain hash, which stands for everything before it too."""


def verify_export(
    lines: Iterable[bytes],
    check: SignatureCheck | None,
    seen: Callable[[StoredRecord], None] = lambda _stored: None,
    *,
    compared: bool = False,
) -> Verdict:
    """Return what is to be said of an export; `seen` gets each record that is in its place, before the next is read.

    Without `check` the signature is not looked at. `compared` says that the caller holds the records against a whole
    export besides: nothing ties a selection to a signed head, so one alone is not passed as signed.
    """
    verdict, events, last = Verdict(Kind.EXPORT), 0, 0
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
class Compared:
    """How many records two files have in common, and how many are in one of them only."""

    same: int = 0
    only_here: int = 0
    only_there: int = 0


def compare(here: Iterable[Place], there: Iterable[Place]) -> Compared:
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
    return Compared(same, only_here, only_there)


def recognize_other_key(checked: CheckedSignature, signed: SignedPlace | None) -> CheckedSignature:
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


def _of_header(header: ExportHeader) -> Verdict:
    signed, verdict = header.signed_head, Verdict(Kind.EXPORT, header.tenant_id, selection=header.selection)
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


def _holds_head(signed: SignedPlace | None, there: StoredRecord | None) -> None:
    if signed is None:
        return
    if there is None:
        raise AuditBroken(f"record {signed.seq}, which was signed, is missing")
    if there.chain_hash.hex() != signed.chain_hash:
        raise AuditBroken(f"record {signed.seq} is not the one that was signed")


def _signed(header: ExportHeader, verdict: Verdict, check: SignatureCheck, *, compared: bool) -> Verdict:
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
