"""Verification of files: an audit export or an erasure certificate, alone or compared with another file.

A file of any length is read line by line; the length of a line is limited.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from openkcm.contract.audit_events import StoredRecord, fields_of
from openkcm.errors import AuditBroken, CertificateBroken, FileRefused, OpenKcmError
from openkcm.verification.audit_export import ExportComparison, Place, compare, places_of, verify_export
from openkcm.verification.erasure_certificate import (
    LONGEST_DOCUMENT,
    ErasureStatement,
    read_certificate,
    verify_certificate,
)
from openkcm.verification.errors import SigningKeyUnknown, VerificationIncomplete
from openkcm.verification.results import Kind, Outcome, SignatureCheck, SignatureState, VerificationResult

_LONGEST_LINE = 16_000_000
_BEGINS = {b'{"key":"': Kind.CERTIFICATE, b'{"format': Kind.EXPORT}
"""The first bytes of each kind, all of the same length; the parsers check the rest of the line."""
_NAMES = 200
"""Maximum number of distinct names that are counted; a hostile file can have one for each record."""


@dataclass
class Contents:
    """Counts of the records, gathered during verification."""

    first: str = ""
    last: str = ""
    names: Counter[str] = field(default_factory=Counter)

    def add(self, stored: StoredRecord) -> None:
        fields = fields_of(stored.record)
        self.last = str(fields.get("time", ""))
        self.first = self.first or self.last
        name = str(fields.get("name", ""))
        self.names[name if name in self.names or len(self.names) < _NAMES else "others"] += 1


@dataclass(frozen=True)
class Checked:
    """A verified file; `compared` is set if it was compared with the file `against`."""

    path: Path
    result: VerificationResult
    contents: Contents
    statement: ErasureStatement | None = None
    against: Path | None = None
    compared: ExportComparison | None = None

    def refusal(self) -> OpenKcmError:
        """Return the error of a file that is refuted or could not be checked."""
        if self.result.outcome is Outcome.NOT_CHECKED:
            return incomplete(self.result.problem, self.result.signature)
        kind = CertificateBroken if self.result.kind is Kind.CERTIFICATE else AuditBroken
        hint = "keep the file unchanged and get another copy; see docs/audit.md#what-a-verdict-means"
        return kind(self.result.problem, hint)


def incomplete(problem: str | None, signature: SignatureState) -> VerificationIncomplete:
    """Return the error of a check that lacks a public key or another file."""
    return (SigningKeyUnknown if signature is SignatureState.UNKNOWN_KEY else VerificationIncomplete)(problem)


def check_file(path: Path, check: SignatureCheck | None, *, compared: bool = False) -> Checked:
    """Verify a file of either kind; raises FileRefused when it cannot be read."""
    contents = Contents()
    with opened(path) as file:
        kind = _kind(file)
        if kind is Kind.CERTIFICATE:
            result, statement = verify_certificate(file.read(LONGEST_DOCUMENT + 1), check)
            return Checked(path, result, contents, statement)
        if kind is Kind.EXPORT:
            return Checked(path, verify_export(lines(file), check, contents.add, compared=compared), contents)
        problem = "line 1 is the start of neither an audit export nor an erasure certificate"
        return Checked(path, VerificationResult(kind, problem=problem), contents)


def compare_files(path: Path, against: Path, check: SignatureCheck | None) -> Checked:
    """Verify two files and compare them; raises FileRefused when one cannot be read."""
    other = check_file(against, check)
    whole = other.result.kind is Kind.EXPORT and not other.result.selection
    checked = replace(check_file(path, check, compared=whole), against=against)
    if not checked.result.intact:
        return checked
    try:
        compared = _compared(checked, other)
    except AuditBroken as broken:
        return replace(checked, result=replace(checked.result, problem=broken.message))
    except VerificationIncomplete as missing:
        return replace(checked, result=replace(checked.result, problem=missing.message, incomplete=True))
    # A selection is signed as far as the whole export that contains all of it.
    signed = other.result.signed if checked.result.selection else checked.result.signed
    return replace(checked, result=replace(checked.result, signed=signed), compared=compared)


def _compared(checked: Checked, other: Checked) -> ExportComparison:
    """Return how far two files agree; raises AuditBroken, which names the faulty file, and VerificationIncomplete."""
    if other.result.outcome is Outcome.NOT_CHECKED:
        raise VerificationIncomplete(f"the file to compare with could not be checked: {other.result.problem}")
    if not other.result.intact:
        raise AuditBroken(f"the file to compare with is not intact: {other.result.problem}")
    if other.result.tenant_id != checked.result.tenant_id:
        raise VerificationIncomplete("the file to compare with belongs to another tenant")
    with opened(checked.path) as here, opened(other.path) as there:
        compared = compare(_places(here), _places(there))
    if checked.result.selection and compared.only_here and not other.result.selection:
        missing = f"the other file does not have {compared.only_here} of the selection's records"
        raise VerificationIncomplete(f"{missing}: compare with a later export")
    return compared


def _places(file: BinaryIO) -> Iterable[Place]:
    if _kind(file) is Kind.CERTIFICATE:
        statement = read_certificate(file.read(LONGEST_DOCUMENT + 1)).statement
        return [(statement.audit_seq, bytes.fromhex(statement.audit_hash))]
    return places_of(lines(file))


def _kind(file: BinaryIO) -> Kind:
    """Return a file's kind by its first bytes, and rewind."""
    begins = file.read(len(next(iter(_BEGINS))))
    file.seek(0)
    return _BEGINS.get(begins, Kind.NEITHER)


def lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file with their newlines; an overlong line is cut."""
    return iter(lambda: file.readline(_LONGEST_LINE), b"")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for verification; raises FileRefused when it cannot be read."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as failed:
        raise FileRefused(f"{path} cannot be read: {failed.strerror}", "name the file to verify") from None
