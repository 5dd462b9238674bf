"""A compliance report held against an audit export, both as files; and what is said of it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cli.audit_file import incomplete, lines, opened
from cli.audit_report import moment, plain, signature_line
from tenancy.errors import OpenKcmError
from tenancy.proofs import Outcome, SignatureCheck
from tenancy.report_document import LONGEST_FILE
from tenancy.report_errors import ReportRefuted
from tenancy.report_verify import ReportVerdict, verify_report

_HEADS = {Outcome.INTACT: "CONFIRMED", Outcome.REFUTED: "REFUTED", Outcome.NOT_CHECKED: "COULD NOT CHECK"}
_SHOWN = 10
"""How many differences people are shown; the JSON answer has all that are named."""


def check_report(report: Path, export: Path, check: SignatureCheck | None) -> ReportVerdict:
    """Verify a report against an export; raises FileRefused when one of them cannot be read."""
    with opened(report) as file:
        content = file.read(LONGEST_FILE + 1)
    with opened(export) as records:
        return verify_report(content, lines(records), check)


def refusal(verdict: ReportVerdict) -> OpenKcmError:
    """Return the error of a report that is refuted, or that could not be checked."""
    problem = plain(verdict.problem or ReportRefuted.message)
    return incomplete(problem, verdict.signature) if verdict.incomplete else ReportRefuted(problem)


def document(verdict: ReportVerdict) -> Mapping[str, Any]:
    """Return what the command answers of a report."""
    report = verdict.report
    known = (
        {}
        if report is None
        else {
            "report_id": report.report_id,
            "tenant_id": report.tenant_id,
            "since": report.since.isoformat(),
            "until": report.until.isoformat(),
            "made_at": report.made_at.isoformat(),
            "made_for": report.made_for,
            "stream": report.stream.seq,
        }
    )
    return {
        "confirmed": verdict.confirmed,
        **known,
        "format": verdict.form,
        "signature": verdict.signature,
        "key": verdict.key,
        "fingerprint": verdict.fingerprint,
        "differences": [
            {
                "section": one.section,
                "subject": one.subject,
                "reported": one.reported,
                "recomputed": one.recomputed,
            }
            for one in verdict.differences
        ],
    }


def short(verdict: ReportVerdict) -> Iterator[str]:
    """Yield what is to be said of a report, a sentence each; nothing of a hostile file is printed as it is."""
    report = verdict.report
    whose = "" if report is None else f" of {plain(report.tenant_id)}, {moment(report.since)} to {moment(report.until)}"
    yield f"{_HEADS[verdict.outcome]}: compliance report{whose}"
    if verdict.problem is not None:
        yield f"problem: {plain(verdict.problem)}"
    for one in verdict.differences[:_SHOWN]:
        yield f"differs: {plain(f'{one.section}, {one.subject}')}"
        yield f"  reported    {plain(one.reported)}"
        yield f"  recomputed  {plain(one.recomputed)}"
    if len(verdict.differences) > _SHOWN:
        yield f"and {len(verdict.differences) - _SHOWN} more differ; --json names them"
    yield from signature_line(verdict.signature, verdict.key, verdict.fingerprint)
    if verdict.confirmed and report is not None:
        seq = report.stream.seq
        yield f"counted anew: {report.counted.records} records of the period, up to record {seq - 1}"
        yield f"stated on {moment(report.made_at)}: as record {seq} bound it to the stream"
