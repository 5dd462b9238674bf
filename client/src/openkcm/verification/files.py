"""Files to be verified: which kind one is, what is wrong with it, and two held against each other.

A file is read line by line, however long it is; no line is longer than one of ours could be.
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
"""How each kind begins, in as many bytes; more of the first line is looked at by who reads it."""
_NAMES = 200
"""How many different names are counted; a hostile file can have as many as records."""


@dataclass
class Contents:
    """What a report tells of the records, gathered while they are verified."""

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
    """A file that was checked; `compared` where it was held against another one named `against`."""

    path: Path
    verdict: VerificationResult
    contents: Contents
    statement: ErasureStatement | None = None
    against: Path | None = None
    compared: ExportComparison | None = None

    def refusal(self) -> OpenKcmError:
        """Return the error of a file that is refuted, or that could not be checked."""
        if self.verdict.outcome is Outcome.NOT_CHECKED:
            return incomplete(self.verdict.problem, self.verdict.signature)
        kind = CertificateBroken if self.verdict.kind is Kind.CERTIFICATE else AuditBroken
        hint = "keep the file as it is and get another copy; see docs/audit.md#what-a-verdict-means"
        return kind(self.verdict.problem, hint)


def incomplete(problem: str | None, signature: SignatureState) -> VerificationIncomplete:
    """Return the error of a check that lacks something: the public key, or another file."""
    return (SigningKeyUnknown if signature is SignatureState.UNKNOWN_KEY else VerificationIncomplete)(problem)


def check_file(path: Path, check: SignatureCheck | None, *, compared: bool = False) -> Checked:
    """Verify a file of either kind; raises FileRefused when it cannot be read."""
    contents = Contents()
    with opened(path) as file:
        kind = _kind(file)
        if kind is Kind.CERTIFICATE:
            verdict, statement = verify_certificate(file.read(LONGEST_DOCUMENT + 1), check)
            return Checked(path, verdict, contents, statement)
        if kind is Kind.EXPORT:
            return Checked(path, verify_export(lines(file), check, contents.add, compared=compared), contents)
        problem = "line 1 begins neither an audit export nor a crypto-shred certificate"
        return Checked(path, VerificationResult(kind, problem=problem), contents)


def compare_files(path: Path, against: Path, check: SignatureCheck | None) -> Checked:
    """Verify two files and hold them against each other; raises FileRefused when one cannot be read."""
    other = check_file(against, check)
    whole = other.verdict.kind is Kind.EXPORT and not other.verdict.selection
    checked = replace(check_file(path, check, compared=whole), against=against)
    if not checked.verdict.intact:
        return checked
    try:
        compared = _compared(checked, other)
    except AuditBroken as broken:
        return replace(checked, verdict=replace(checked.verdict, problem=broken.message))
    except VerificationIncomplete as missing:
        return replace(checked, verdict=replace(checked.verdict, problem=missing.message, incomplete=True))
    # What is in a selection is signed as far as the whole export that has all of it.
    signed = other.verdict.signed if checked.verdict.selection else checked.verdict.signed
    return replace(checked, verdict=replace(checked.verdict, signed=signed), compared=compared)


def _compared(checked: Checked, other: Checked) -> ExportComparison:
    """Return how two files agree; raises AuditBroken, which names the file at fault, and VerificationIncomplete."""
    if other.verdict.outcome is Outcome.NOT_CHECKED:
        raise VerificationIncomplete(f"the file to compare with could not be checked: {other.verdict.problem}")
    if not other.verdict.intact:
        raise AuditBroken(f"the file to compare with is not intact: {other.verdict.problem}")
    if other.verdict.tenant_id != checked.verdict.tenant_id:
        raise VerificationIncomplete("the file to compare with is of another tenant")
    with opened(checked.path) as here, opened(other.path) as there:
        compared = compare(_places(here), _places(there))
    if checked.verdict.selection and compared.only_here and not other.verdict.selection:
        missing = f"the other file does not have {compared.only_here} of the selection's records"
        raise VerificationIncomplete(f"{missing}: compare with a later export")
    return compared


def _places(file: BinaryIO) -> Iterable[Place]:
    if _kind(file) is Kind.CERTIFICATE:
        statement = read_certificate(file.read(LONGEST_DOCUMENT + 1)).statement
        return [(statement.audit_seq, bytes.fromhex(statement.audit_hash))]
    return places_of(lines(file))


def _kind(file: BinaryIO) -> Kind:
    """Tell a file's kind by how it begins, and go back there."""
    begins = file.read(len(next(iter(_BEGINS))))
    file.seek(0)
    return _BEGINS.get(begins, Kind.NEITHER)


def lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file, each with its newline and none longer than one of ours could be."""
    return iter(lambda: file.readline(_LONGEST_LINE), b"")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file that is to be verified; raises FileRefused when it cannot be read."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as failed:
        raise FileRefused(f"{path} cannot be read: {failed.strerror}", "name the file to verify") from None
