"""Evaluation of a report's figures: the summary, and the ids of controls that they support.

Each status follows from the report's own figures alone. A missing figure is never "in order": an empty section makes
its finding `missing`, and a bad figure makes it `attention`. The ids map evidence and do not claim that a framework is
met; `limits` states what no figure can show.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from openkcm.contract.audit_events import AuditName
from openkcm.verification.isolation_controls import CLAUSES
from openkcm.verification.reports.controls import CONTROLS
from openkcm.verification.reports.model import DerivedFigures, EventCounts, Evidence, Finding, Snapshot

Status = Literal["in order", "attention", "missing"]
Judgement = tuple[Status, str]

COVERAGE = "Encryption coverage"
KEYS = "Keys and cryptoperiods"
ISOLATION = "Isolation"
ACCESS = "Access and refused attempts"
ROOT_KEY = "Root key and revocation"
CHANGES = "Changes"
APPROVALS = "Two people"
CERTIFICATES = "Certificates"
AUDIT = "Audit stream"
LIMITS = "Limits"
SUMMARY = "Summary"
EVIDENCE = "Evidence"
"""The sections of a report; findings and evidence refer to them."""

OLDEST_CHECK = timedelta(days=8)
"""Every isolation check runs at least every seven days; one day may be missed."""
_MAX_REJECTED_SHARE = 0.01
"""The share of rejected attempts above which an administrator should investigate."""
_PLATFORM = "platform"
_UNUSABLE = frozenset({"disabled", "unavailable", "destroyed"})


@dataclass(frozen=True, slots=True)
class EvaluationInput:
    """The input of an evaluation. `at` is the report's creation time, to which `stated` belongs."""

    counted: DerivedFigures
    stated: Snapshot
    at: datetime

    def event(self, name: AuditName) -> EventCounts:
        return next((one for one in self.counted.events if one.name == name), EventCounts(name=name))

    def succeeded(self, *names: AuditName) -> int:
        return sum(self.event(name).success for name in names)


Judge = Callable[[EvaluationInput], Judgement]


def findings(counted: DerivedFigures, stated: Snapshot, at: datetime) -> tuple[Finding, ...]:
    """Return the summary, one line for each section."""
    figures = EvaluationInput(counted, stated, at)
    said = [(subject, *judge(figures)) for subject, judge in _SUMMARY]
    return tuple(Finding(subject=subject, status=status, words=words) for subject, status, words in said)


def evidence(counted: DerivedFigures, stated: Snapshot, at: datetime) -> tuple[Evidence, ...]:
    """Return the status and the controls of each kind of evidence."""
    figures = EvaluationInput(counted, stated, at)
    rows = zip(CONTROLS.items(), _JUDGED, strict=True)
    return tuple(
        Evidence(evidence=name, section=section, status=judge(figures)[0], controls=dict(controls))
        for (name, controls), (section, judge) in rows
    )


def limits(stated: Snapshot) -> tuple[str, ...]:
    """Return what the report cannot show, independent of its figures."""
    return (_BY_MODE[stated.root_key_mode == _PLATFORM], *_LIMITS)


def _coverage(figures: EvaluationInput) -> Judgement:
    services = figures.stated.coverage
    if not services:
        return "missing", "No service is connected, so no encrypted data is known."
    lacking = [one.service for one in services if not one.complete or one.gaps]
    if lacking:
        names = _first_names(lacking)
        return "attention", f"{len(lacking)} of {len(services)} services are not fully covered: {names}."
    return "in order", f"All listed data of {len(services)} services is encrypted, as far as the platform knows."


def _keys(figures: EvaluationInput) -> Judgement:
    keys = figures.stated.keys
    if not {"L1", "L2"} <= {one.level for one in keys}:
        return "missing", "The inventory has no root key or no tenant key."
    overdue = sorted({f"{one.name} version {one.version}" for one in keys if one.overdue})
    if overdue:
        return "attention", f"Older than its cryptoperiod: {_first_names(overdue)}."
    return "in order", f"{len(keys)} key versions, none older than its cryptoperiod."


def _isolation(figures: EvaluationInput) -> Judgement:
    checks, runs = figures.stated.checks, figures.counted.isolation
    breached = sorted({one.clause for one in checks if one.outcome == "breached"} | _breached(figures))
    if breached:
        return "attention", f"Isolation checks failed for {_first_names(breached)}: see the section {ISOLATION}."
    if not checks or not figures.counted.isolation_runs or not sum(one.held for one in runs):
        return "missing", "No isolation checks were recorded in this period."
    if max(one.at for one in checks) < figures.at - OLDEST_CHECK:
        return "attention", "No complete isolation assessment ran in the last eight days before the report."
    held = {one.clause for one in checks if one.outcome == "held"}
    unchecked = [clause.id for clause in CLAUSES.values() if not clause.optional and clause.id not in held]
    if unchecked:
        return "attention", f"The newest run did not check {_first_names(unchecked)}."
    number = sum(one.held for one in runs)
    return "in order", f"{number:,} checks in {figures.counted.isolation_runs:,} runs, all passed."


def _breached(figures: EvaluationInput) -> set[str]:
    by_clause = {one.clause for one in figures.counted.isolation if one.breached}
    return by_clause or ({"a clause"} if figures.event(AuditName.BOUNDARY_CHECKED).failure else set())


def _controls_hold(*clauses: str) -> Judge:
    """Return a judge that requires the newest checks of all these controls to have passed."""

    def judge(figures: EvaluationInput) -> Judgement:
        found = [one for one in figures.stated.checks if one.clause in clauses]
        bad = {one.clause for one in found if one.outcome == "breached"} | (_breached(figures) & set(clauses))
        held = {one.clause for one in found if one.outcome == "held"}
        if bad:
            return "attention", "breached"
        if not held:
            return "missing", "not checked"
        whole = held == set(clauses) and max(one.at for one in found) >= figures.at - OLDEST_CHECK
        return ("in order", "held") if whole else ("attention", "not all checked recently")

    return judge


def _access(figures: EvaluationInput) -> Judgement:
    answered = sum(one.answered for one in figures.counted.access)
    refused = figures.counted.denied_total
    if not answered and not refused:
        return "missing", "No use of keys and no attempt was recorded in this period."
    words = f"{answered:,} operations completed, {refused:,} attempts rejected"
    if refused > _MAX_REJECTED_SHARE * (answered + refused):
        return "attention", f"{words}: more than 1 %; investigate their source."
    return "in order", f"{words}."


def _root_key(figures: EvaluationInput) -> Judgement:
    stated, holder = figures.stated, figures.stated.root_key_holder
    if stated.root_key_mode == _PLATFORM or not holder:
        return "missing", "The platform holds the root key, so the customer cannot revoke it independently."
    measured = [one.seconds for one in figures.counted.root_key if one.seconds is not None]
    if stated.state == "locked" or any(one.state in _UNUSABLE for one in stated.keys if one.level == "L1"):
        return "attention", f"The root key of {holder} is unavailable, or the tenant is locked."
    if not measured:
        return "attention", f"{holder} holds the root key; no revocation was measured in this period."
    times = "once" if len(measured) == 1 else f"{len(measured)} times"
    return "in order", f"{holder} holds the root key; revoked {times}, locked within {max(measured):.1f} s."


def _changes(figures: EvaluationInput) -> Judgement:
    if not figures.counted.changes_total:
        return "missing", "No change was recorded in this period."
    return "in order", f"{figures.counted.changes_total:,} changes, each with its author."


def _approvals(figures: EvaluationInput) -> Judgement:
    if not figures.stated.four_eyes:
        return "missing", "The policy requires no approval for any action."
    failed = figures.event(AuditName.APPROVAL_EXECUTED).failure
    words = f"An approval is required for {_first_names(figures.stated.four_eyes)}"
    if failed:
        return "attention", f"{words}; {failed} approved actions failed."
    return "in order", f"{words}; {figures.counted.approvals_total:,} records of requests and decisions."


def _certificates(figures: EvaluationInput) -> Judgement:
    stated = figures.stated
    if not stated.certificates or stated.next_certificate_expiry is None:
        return "missing", "No service has a certificate."
    lapsed = figures.succeeded(AuditName.EXPIRY_LAPSED) + figures.event(AuditName.EXPIRY_LAPSED).failure
    if stated.next_certificate_expiry <= figures.at or lapsed:
        return "attention", "A certificate expired without renewal."
    until = f"{stated.next_certificate_expiry:%Y-%m-%d %H:%M} UTC"
    return "in order", f"{stated.certificates} certificates of the tenant CA; the next expires {until}."


def _audit(figures: EvaluationInput) -> Judgement:
    if not figures.counted.records:
        return "missing", "This period has no records."
    if not figures.counted.is_complete:
        return "attention", "The records have more names or services than a report can list separately."
    first, last = figures.counted.first_seq, figures.counted.last_seq
    return "in order", f"{figures.counted.records:,} records, {first:,} to {last:,}, chained, and signed past the last."


def _policy(figures: EvaluationInput) -> Judgement:
    return ("in order", "") if figures.stated.four_eyes else ("attention", "")


def _generation(figures: EvaluationInput) -> Judgement:
    platform_keys = [one for one in figures.stated.keys if one.level in {"L2", "L3"}]
    if not platform_keys:
        return "missing", ""
    return ("in order", "") if all(one.algorithm for one in platform_keys) else ("attention", "")


def _retirement(figures: EvaluationInput) -> Judgement:
    ended = (AuditName.TENANT_KEY_RETIRED, AuditName.TENANT_KEY_TRIMMED, AuditName.SERVICE_KEY_DESTROYED)
    destroyed = (AuditName.KEY_DESTROYED, AuditName.SHRED_CERTIFIED)
    if any(figures.event(name).failure for name in ended + destroyed):
        return "attention", ""
    return ("in order", "") if figures.succeeded(*ended, *destroyed) else ("missing", "")


def _incidents(figures: EvaluationInput) -> Judgement:
    """Return whether the response to an incident was shown: a measured revocation, or a compromised key replaced."""
    measured = any(one.seconds is not None for one in figures.counted.root_key)
    if measured or figures.succeeded(AuditName.SERVICE_KEY_COMPROMISED):
        return _audit(figures)
    return "missing", ""


def _no_evidence(_figures: EvaluationInput) -> Judgement:
    return "missing", ""


def _worst(*judges: Judge) -> Judge:
    """Return a judge that returns the most severe judgement of these."""

    def judge(figures: EvaluationInput) -> Judgement:
        order: Sequence[Status] = ("in order", "attention", "missing")
        return max((one(figures) for one in judges), key=lambda said: order.index(said[0]))

    return judge


def _first_names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


_SUMMARY: Sequence[tuple[str, Judge]] = (
    (COVERAGE, _coverage),
    (KEYS, _keys),
    (ISOLATION, _isolation),
    (ACCESS, _access),
    (ROOT_KEY, _root_key),
    (CHANGES, _changes),
    (APPROVALS, _approvals),
    (CERTIFICATES, _certificates),
    (AUDIT, _audit),
)

_JUDGED: Sequence[tuple[str, Judge]] = (
    (APPROVALS, _policy),
    (KEYS, _keys),
    (KEYS, _generation),
    (CERTIFICATES, _certificates),
    (ISOLATION, _worst(_keys, _controls_hold("E1", "E2", "E3"))),
    (KEYS, _keys),
    (KEYS, _retirement),
    (ROOT_KEY, _root_key),
    (APPROVALS, _approvals),
    (ISOLATION, _isolation),
    (ACCESS, _access),
    (AUDIT, _audit),
    (COVERAGE, _coverage),
    (ROOT_KEY, _incidents),
    (LIMITS, _no_evidence),
    (CHANGES, _worst(_changes, _isolation)),
    (ISOLATION, _controls_hold("C1", "C2", "C3")),
)
"""The section and the judge of each row of `report_controls.CONTROLS`, in its order."""

_BY_MODE = {
    True: "The platform holds the root key. This mode separates tenants from each other. It does not exclude the"
    " platform, which could decrypt everything that its own root key protects.",
    False: "The customer holds the root key. After a revocation, unwrapped keys stay in the crypto service's memory"
    " for at most its cache time. A service that fetched a key keeps it until its own cache expires.",
}
_LIMITS = (
    (
        "This report maps evidence to ids of controls. It is no attestation and no certification: an auditor decides"
        " whether a control is met."
    ),
    (
        "Statements of services and agents about their own encryption are claims, not evidence. The list of protected"
        " fields defines which data is sensitive; data that is not listed is not known here."
    ),
    (
        "Derived figures follow from the audit stream, which shows every edit and every gap, but not what was never"
        " recorded in it."
    ),
    ("Isolation checks show that these attacks failed at these times; they do not prove that no other attack exists."),
    (
        "The processes are written in Python, which cannot reliably overwrite key material in memory. Core dumps are"
        " disabled, and tenant keys never leave the key server."
    ),
    (
        "Times are by the platform's clocks. A measured revocation begins with the first rejection by the root key's"
        " server, at most a few seconds after its holder revoked it."
    ),
    "Backups and key recovery are the platform operator's responsibility; no figure here is evidence of them.",
)
