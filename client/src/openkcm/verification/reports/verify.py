"""Verifying a compliance report against an audit export, with nothing but the two files and public keys.

1. The file is as it was written, and its figures lie in it (`report_document`).
2. Every signature in it is by a key the reader was given by another way than these files.
3. The export is intact, whole, the same tenant's, and signed at least up to the record that the report names.
4. That record says what the report states, for which period and when it was made: its digest and times.
5. Every counted figure is counted anew from the export's records before it.
6. Summary and evidence follow from those figures and from what is stated.

What is stated (coverage, inventory of keys, newest checks) is how things stood: no export can show that anew. Step 4
shows that it is what was bound to the stream at that moment, and that nobody changed it since.
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
"""Differences that are named; the rest is as wrong."""

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
"""The section that each counted figure is shown in; what is not here is in that of the stream."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure that is not what follows from the export; both as JSON, `null` where there is none."""

    section: str
    subject: str
    reported: str
    recomputed: str


@dataclass(frozen=True, slots=True)
class ReportVerdict:
    """What checking a report found. `problem` says why it could not be confirmed, None when it was.

    `export` is the verdict over the export alone; None where it was not reached. `incomplete`: the problem is that
    something needed for the check is missing, and no finding against the report.
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
        """What the command's exit status reports."""
        return outcome_of(self.problem, incomplete=self.incomplete)

    @property
    def confirmed(self) -> bool:
        """Whether every figure follows from the export; without a public key that shows nothing of who made either."""
        return self.problem is None


@dataclass(slots=True)
class _Reading:
    """What is looked at of an export's records as they go by."""

    report: Report
    counting: ReportCounter
    made: StoredRecord | None = None

    def see(self, stored: StoredRecord) -> None:
        place = self.report.stream
        if stored.seq < place.seq:
            self.counting.add(stored)
        elif stored.seq == place.seq:
            self.made = stored


def verify_report(file: bytes, export: Iterable[bytes], check: SignatureCheck | None) -> ReportVerdict:
    """Return what is to be said of a report held against the lines of an export; never raises for what is in either."""
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
    reading = _Reading(report, ReportCounter(report.since, report.until))
    verdict = verify_export(chain((header,) if header else (), lines), check, reading.see)
    try:
        problem = _export_problem(report, verdict, reading.made, checked=check is not None)
    except VerificationIncomplete as missing:
        return ReportVerdict(missing.message, *signed, verdict, incomplete=True)
    differences: tuple[Difference, ...] = ()
    if problem is None:
        differences = tuple(_first(_differences(report, reading.counting.figures())))
        problem = _told(differences) if differences else None
    return ReportVerdict(problem, *signed, verdict, differences)


def _signatures(
    read: ParsedReport, check: SignatureCheck | None, header: bytes
) -> tuple[SignatureState, CheckedSignature]:
    """Return the state of a file's signatures, and the first that does not hold, else the outer one.

    `header` is the export's first line: a report names no fingerprint of the key that signed it, and the export does.
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
    report: Report, export: VerificationResult, made: StoredRecord | None, *, checked: bool
) -> str | None:
    """Return what of the export refutes the report; None when its records can be counted.

    Raises:
        VerificationIncomplete: it is not the export that the report can be checked against.
    """
    if export.incomplete:
        raise VerificationIncomplete(f"the export: {export.problem}")
    if export.problem is not None:
        return f"the export: {export.problem}"
    if export.tenant_id != report.tenant_id:
        raise VerificationIncomplete(f"the export is of {export.tenant_id}, the report of {report.tenant_id}")
    if export.selection:
        raise VerificationIncomplete("the export is a selection: a report is checked against a whole export")
    return _place_problem(report, export, made, checked=checked)


def _place_problem(
    report: Report, export: VerificationResult, made: StoredRecord | None, *, checked: bool
) -> str | None:
    place, stands = report.stream, f"record {report.stream.seq}, which the report names"
    if made is None:
        raise VerificationIncomplete(
            f"the export ends at record {export.events}, before {stands}: export the stream again"
        )
    if made.chain_hash.hex() != place.chain_hash:
        return f"{stands}, is another one in the export: the two tell different stories"
    if checked and export.signed < place.seq:
        raise VerificationIncomplete(
            f"the export is signed up to record {export.signed} only, before {stands}: export it again"
        )
    return _binding_problem(report, made)


def _binding_problem(report: Report, made: StoredRecord) -> str | None:
    fields, digest = fields_of(made.record), stated_digest(report.stated)
    if digest != report.stated_sha256:
        return "what the report states does not fit its own digest"
    said = {"name": AuditName.REPORT_MADE, "subject": report.report_id}
    if any(fields.get(name) != value for name, value in said.items()):
        return f"record {made.seq} of the stream is not that of this report"
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
    """Yield how a figure differs: of a list what is only in one of both, by what each item is about."""
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
        yield Difference(section, name.replace("_", " "), "in this order", "in another order, or some of it twice")


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


def _told(differences: tuple[Difference, ...]) -> str:
    first = differences[0]
    more = f", and {len(differences) - 1} more differ" if len(differences) > 1 else ""
    told = f"{first.section}, {first.subject}: reported {first.reported}, recomputed {first.recomputed}"
    return f"{told}{more}"


def binding(since: datetime, until: datetime, made_at: datetime, stated_sha256: str) -> Mapping[str, str]:
    """Return what the audit record of a report says, so that the stream knows one report by its id and no other."""
    times = {"since": since, "until": until, "made_at": made_at}
    said = {name: at.astimezone(UTC).isoformat(timespec="microseconds") for name, at in times.items()}
    return {**said, "stated_sha256": stated_sha256}
