"""Verification of a compliance report against an audit export, with the two files and public keys alone.

1. The file is in canonical form and contains its figures (`signed_file`).
2. Every signature is by a key that the verifier obtained from another source than these files.
3. The export is intact, whole, of the same tenant, and signed at least up to the record that the report names.
4. That record contains the digest of the report's snapshot, its period and its creation time.
5. Every derived figure equals the figure recomputed from the export's records before it.
6. Summary and evidence follow from the derived figures and the snapshot.

The snapshot (coverage, key inventory, newest checks) describes one moment, which an export cannot reproduce. Step 4
proves that it was bound to the stream at that moment and not changed since.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from pydantic import BaseModel

from openkcm.contract.audit_events import AuditName, StoredRecord, fields_of
from openkcm.errors import AuditBroken
from openkcm.verification.audit_export import read_export, recognize_other_key, verify_export
from openkcm.verification.errors import VerificationIncomplete
from openkcm.verification.reports.counters import ReportCounter
from openkcm.verification.reports.evaluation import (
    ACCESS,
    APPROVALS,
    AUDIT,
    CHANGES,
    EVIDENCE,
    ISOLATION,
    LIMITS,
    ROOT_KEY,
    SUMMARY,
    evidence,
    findings,
    limits,
)
from openkcm.verification.reports.model import DerivedFigures, Report
from openkcm.verification.reports.signed_file import ParsedReport, read_report, stated_digest
from openkcm.verification.results import (
    CheckedSignature,
    Outcome,
    SignatureCheck,
    SignatureState,
    VerificationResult,
    outcome_of,
    signature_state,
)
from openkcm.verification.signed_document import InvalidDocument, canonical_text

_MOST = 100
"""Maximum number of differences that are listed."""

_SECTIONS: Mapping[str, str] = {
    "access": ACCESS,
    "denied": ACCESS,
    "denied_total": ACCESS,
    "isolation": ISOLATION,
    "isolation_runs": ISOLATION,
    "root_key": ROOT_KEY,
    "root_key_total": ROOT_KEY,
    "changes": CHANGES,
    "changes_total": CHANGES,
    "approvals": APPROVALS,
    "approvals_total": APPROVALS,
}
"""The section of each derived figure; the default is the section of the stream."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure that does not follow from the export; both values as JSON, `null` for a missing one."""

    section: str
    subject: str
    reported: str
    recomputed: str


@dataclass(frozen=True, slots=True)
class ReportVerdict:
    """The result of verifying a report. `problem` states why it was not confirmed, None if it was.

    `export` is the result for the export alone, None if it was not reached. `incomplete`: an input for the check is
    missing, which does not refute the report.
    """

    problem: str | None
    report: Report | None = None
    form: str = ""
    signature: SignatureState = SignatureState.MISSING
    key: str = ""
    fingerprint: str = ""
    export: VerificationResult | None = None
    differences: tuple[Difference, ...] = ()
    incomplete: bool = False

    @property
    def outcome(self) -> Outcome:
        """The outcome that the command's exit status reports."""
        return outcome_of(self.problem, incomplete=self.incomplete)

    @property
    def confirmed(self) -> bool:
        """Whether every figure follows from the export; without a public key this does not prove the origin."""
        return self.problem is None


@dataclass(slots=True)
class _RecordVisitor:
    """Counts the records of the period, and keeps the first record and the one that the report names."""

    report: Report
    counter: ReportCounter
    first: StoredRecord | None = None
    made: StoredRecord | None = None

    def visit(self, stored: StoredRecord) -> None:
        place = self.report.stream
        if self.first is None:
            self.first = stored
        if stored.seq < place.seq:
            self.counter.add(stored)
        elif stored.seq == place.seq:
            self.made = stored


def verify_report(file: bytes, export: Iterable[bytes], check: SignatureCheck | None) -> ReportVerdict:
    """Return the result for a report and the lines of an export; invalid input never raises."""
    try:
        read = read_report(file)
    except InvalidDocument as broken:
        return ReportVerdict(f"the report: {broken}")
    report, form = read.report, str(read.form)
    lines = iter(export)
    header = next(lines, b"")
    signature, checked = _signatures(read, check, header)
    signed = (report, form, signature, read.signatures[0].key, checked.fingerprint)
    if checked.problem is not None:
        return ReportVerdict(f"the report: {checked.problem}", *signed, incomplete=checked.unknown_key)
    reading = _RecordVisitor(report, ReportCounter(report.since, report.until))
    verdict = verify_export(chain((header,) if header else (), lines), check, reading.visit)
    try:
        problem = _export_problem(report, verdict, reading, checked=check is not None)
    except VerificationIncomplete as missing:
        return ReportVerdict(missing.message, *signed, verdict, incomplete=True)
    differences: tuple[Difference, ...] = ()
    if problem is None:
        differences = tuple(_first(_differences(report, reading.counter.figures())))
        problem = _describe(differences) if differences else None
    return ReportVerdict(problem, *signed, verdict, differences)


def _signatures(
    read: ParsedReport, check: SignatureCheck | None, header: bytes
) -> tuple[SignatureState, CheckedSignature]:
    """Return the state of a file's signatures, and the first invalid one, else the outer one.

    `header` is the export's first line: a report contains no fingerprint of its signing key, and the export does.
    """
    outer = read.signatures[0]
    if check is None:
        return SignatureState.NOT_CHECKED, CheckedSignature(outer.key)
    all_checked = [check(one.key, one.message, one.signature) for one in read.signatures]
    checked = next((one for one in all_checked if one.problem is not None), all_checked[0])
    with suppress(AuditBroken):
        checked = recognize_other_key(checked, read_export([header])[0].signed_head)
    return signature_state(checked), checked


def _export_problem(
    report: Report, export: VerificationResult, reading: _RecordVisitor, *, checked: bool
) -> str | None:
    """Return why the export refutes the report; None when its records can be counted.

    Raises:
        VerificationIncomplete: the report cannot be verified against this export.
    """
    if export.incomplete:
        raise VerificationIncomplete(f"the export: {export.problem}")
    if export.problem is not None:
        return f"the export: {export.problem}"
    if export.tenant_id != report.tenant_id:
        raise VerificationIncomplete(f"the export belongs to {export.tenant_id}, the report to {report.tenant_id}")
    if export.selection:
        raise VerificationIncomplete("the export is a selection; a report is verified against a whole export")
    if export.archived and not begins_before(reading.first, report.since):
        raise VerificationIncomplete(
            f"the export begins after record {export.archived}, and the period of the report begins before it:"
            " earlier records are in an archive file"
        )
    return _place_problem(report, export, reading.made, checked=checked)


def begins_before(first: StoredRecord | None, since: datetime) -> bool:
    """Return whether a stream that begins with `first` has all records since this time: times rise with numbers."""
    if first is None:
        return False
    try:
        return datetime.fromisoformat(str(fields_of(first.record).get("time"))) < since
    except (ValueError, TypeError):
        return False


def _place_problem(
    report: Report, export: VerificationResult, made: StoredRecord | None, *, checked: bool
) -> str | None:
    place, named = report.stream, f"record {report.stream.seq}, which the report names"
    if made is None:
        raise VerificationIncomplete(
            f"the export ends at record {export.last}, before {named}: export the stream again"
        )
    if made.chain_hash.hex() != place.chain_hash:
        return f"{named}, differs in the export: report and export contradict each other"
    if checked and export.signed < place.seq:
        raise VerificationIncomplete(
            f"the export is signed up to record {export.signed} only, before {named}: export it again"
        )
    return _binding_problem(report, made)


def _binding_problem(report: Report, made: StoredRecord) -> str | None:
    fields, digest = fields_of(made.record), stated_digest(report.stated)
    if digest != report.stated_sha256:
        return "the snapshot of the report does not match its digest"
    said = {"name": AuditName.REPORT_MADE, "subject": report.report_id}
    if any(fields.get(name) != value for name, value in said.items()):
        return f"record {made.seq} of the stream does not belong to this report"
    details = fields.get("details")
    bound = binding(report.since, report.until, report.made_at, digest)
    for name, value in bound.items():
        if not isinstance(details, dict) or details.get(name) != value:
            return f"the stream has another {name} for this report in record {made.seq}"
    return None


def _differences(report: Report, recomputed: DerivedFigures) -> Iterator[Difference]:
    for name in DerivedFigures.model_fields:
        section = _SECTIONS.get(name, AUDIT)
        yield from _of_figure(section, name, getattr(report.counted, name), getattr(recomputed, name))
    expected = {
        SUMMARY: (report.summary, findings(recomputed, report.stated, report.made_at)),
        EVIDENCE: (report.evidence, evidence(recomputed, report.stated, report.made_at)),
        LIMITS: (report.limits, limits(report.stated)),
    }
    for section, (said, follows) in expected.items():
        yield from _of_figure(section, section.lower(), said, follows)


def _of_figure(section: str, name: str, reported: Any, recomputed: Any) -> Iterator[Difference]:
    """Yield the differences of a figure; of a list, the items that are in only one of both, by their subject."""
    if reported == recomputed:
        return
    if not isinstance(reported, tuple):
        yield Difference(section, name.replace("_", " "), _json(reported), _json(recomputed))
        return
    said, follows = _by_subject(name, reported), _by_subject(name, recomputed)
    for subject in dict.fromkeys([*said, *follows]):
        if said.get(subject) != follows.get(subject):
            yield Difference(section, subject, said.get(subject, "null"), follows.get(subject, "null"))
    if said == follows:
        yield Difference(section, name.replace("_", " "), "in this order", "in another order, or with duplicates")


def _by_subject(name: str, items: Iterable[Any]) -> Mapping[str, str]:
    return {_subject(name, number, item): _json(item) for number, item in enumerate(items, start=1)}


def _subject(name: str, number: int, item: Any) -> str:
    for key in ("name", "service", "clause", "subject", "evidence"):
        about = getattr(item, key, None)
        if about is not None and not hasattr(item, "seq"):
            return f"{name.replace('_', ' ')}: {about}"
    seq = getattr(item, "seq", None) or getattr(getattr(item, "moment", None), "seq", None)
    return f"{name.replace('_', ' ')}: record {seq}" if seq is not None else f"{name.replace('_', ' ')}: {number}"


def _json(value: Any) -> str:
    return canonical_text(value.model_dump(mode="json") if isinstance(value, BaseModel) else value)


def _first(differences: Iterator[Difference]) -> Iterator[Difference]:
    for _, one in zip(range(_MOST), differences, strict=False):
        yield one


def _describe(differences: tuple[Difference, ...]) -> str:
    first = differences[0]
    more = f", and {len(differences) - 1} more differ" if len(differences) > 1 else ""
    text = f"{first.section}, {first.subject}: reported {first.reported}, recomputed {first.recomputed}"
    return f"{text}{more}"


def binding(since: datetime, until: datetime, made_at: datetime, stated_sha256: str) -> Mapping[str, str]:
    """Return the details of a report's audit record, which bind one report to the stream."""
    times = {"since": since, "until": until, "made_at": made_at}
    said = {name: at.astimezone(UTC).isoformat(timespec="microseconds") for name, at in times.items()}
    return {**said, "stated_sha256": stated_sha256}
