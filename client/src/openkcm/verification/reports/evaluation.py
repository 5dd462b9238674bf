"""What a report's figures are evidence of: the summary, and the ids of controls in frameworks that auditors go by.

Each status follows from the report's own figures, and from nothing else. Nothing is in order for want of a figure: a
section that is empty makes its finding `missing`, and anything bad in it makes it `attention`. The ids map evidence; no
framework is claimed to be met, and `limits` says what no figure here can show.
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
Said = tuple[Status, str]

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
"""The sections of a report, by which findings and evidence name them."""

OLDEST_CHECK = timedelta(hours=48)
"""The boundaries of a tenant are attacked every day; a day may be missed."""
_MOST_REFUSED = 0.01
"""The share of refused attempts from which somebody should look what tries."""
_PLATFORM = "platform"
_GONE = frozenset({"disabled", "unavailable", "destroyed"})


@dataclass(frozen=True, slots=True)
class EvaluationInput:
    """What a status is judged by. `at` is when the report was made, to which `stated` belongs."""

    counted: DerivedFigures
    stated: Snapshot
    at: datetime

    def event(self, name: AuditName) -> EventCounts:
        return next((one for one in self.counted.events if one.name == name), EventCounts(name=name))

    def succeeded(self, *names: AuditName) -> int:
        return sum(self.event(name).success for name in names)


Judge = Callable[[EvaluationInput], Said]


def findings(counted: DerivedFigures, stated: Snapshot, at: datetime) -> tuple[Finding, ...]:
    """Return the summary, one line for each section."""
    figures = EvaluationInput(counted, stated, at)
    said = [(subject, *judge(figures)) for subject, judge in _SUMMARY]
    return tuple(Finding(subject=subject, status=status, words=words) for subject, status, words in said)


def evidence(counted: DerivedFigures, stated: Snapshot, at: datetime) -> tuple[Evidence, ...]:
    """Return what is evidence of which controls."""
    figures = EvaluationInput(counted, stated, at)
    rows = zip(CONTROLS.items(), _JUDGED, strict=True)
    return tuple(
        Evidence(evidence=name, section=section, status=judge(figures)[0], controls=dict(controls))
        for (name, controls), (section, judge) in rows
    )


def limits(stated: Snapshot) -> tuple[str, ...]:
    """Return what the report does not show, whatever its figures are."""
    return (_BY_MODE[stated.root_key_mode == _PLATFORM], *_LIMITS)


def _coverage(figures: EvaluationInput) -> Said:
    services = figures.stated.coverage
    if not services:
        return "missing", "No service is connected, so nothing is known to be encrypted."
    lacking = [one.service for one in services if not one.complete or one.gaps]
    if lacking:
        return "attention", f"{len(lacking)} of {len(services)} services are not covered in full: {_few(lacking)}."
    return "in order", f"All listed data of {len(services)} services is encrypted, as far as is known here."


def _keys(figures: EvaluationInput) -> Said:
    keys = figures.stated.keys
    if not {"L1", "L2"} <= {one.level for one in keys}:
        return "missing", "The inventory has no root key or no tenant key."
    overdue = sorted({f"{one.name} version {one.version}" for one in keys if one.overdue})
    if overdue:
        return "attention", f"Older than its cryptoperiod: {_few(overdue)}."
    return "in order", f"{len(keys)} versions of keys, none older than its cryptoperiod."


def _isolation(figures: EvaluationInput) -> Said:
    checks, runs = figures.stated.checks, figures.counted.isolation
    breached = sorted({one.clause for one in checks if one.outcome == "breached"} | _breached(figures))
    if breached:
        return "attention", f"An attack succeeded on {_few(breached)}: see the section {ISOLATION}."
    if not checks or not figures.counted.isolation_runs or not sum(one.held for one in runs):
        return "missing", "No attacks across the tenant's boundary are on record for this period."
    if max(one.at for one in checks) < figures.at - OLDEST_CHECK:
        return "attention", "The boundaries were not attacked in the last two days before the report."
    held = {one.clause for one in checks if one.outcome == "held"}
    unchecked = [clause.id for clause in CLAUSES.values() if not clause.optional and clause.id not in held]
    if unchecked:
        return "attention", f"The newest run did not check {_few(unchecked)}."
    number = sum(one.held for one in runs)
    return "in order", f"{number:,} attacks in {figures.counted.isolation_runs:,} runs, each of them refused."


def _breached(figures: EvaluationInput) -> set[str]:
    by_clause = {one.clause for one in figures.counted.isolation if one.breached}
    return by_clause or ({"a clause"} if figures.event(AuditName.BOUNDARY_CHECKED).failure else set())


def _clauses_hold(*clauses: str) -> Judge:
    """Return a judge for whom the newest checks of these clauses must all have held."""

    def judge(figures: EvaluationInput) -> Said:
        found = [one for one in figures.stated.checks if one.clause in clauses]
        bad = {one.clause for one in found if one.outcome == "breached"} | (_breached(figures) & set(clauses))
        held = {one.clause for one in found if one.outcome == "held"}
        if bad:
            return "attention", "breached"
        if not held:
            return "missing", "not checked"
        whole = held == set(clauses) and max(one.at for one in found) >= figures.at - OLDEST_CHECK
        return ("in order", "held") if whole else ("attention", "not all checked of late")

    return judge


def _access(figures: EvaluationInput) -> Said:
    answered = sum(one.answered for one in figures.counted.access)
    refused = figures.counted.denied_total
    if not answered and not refused:
        return "missing", "No use of keys and no attempt is on record for this period."
    words = f"{answered:,} operations answered, {refused:,} attempts refused"
    if refused > _MOST_REFUSED * (answered + refused):
        return "attention", f"{words}: more than one in a hundred, so look at who tried."
    return "in order", f"{words}."


def _root_key(figures: EvaluationInput) -> Said:
    stated, holder = figures.stated, figures.stated.root_key_holder
    if stated.root_key_mode == _PLATFORM or not holder:
        return "missing", "The platform holds the root key, so the customer has no kill switch of their own."
    measured = [one.seconds for one in figures.counted.root_key if one.seconds is not None]
    if stated.state == "locked" or any(one.state in _GONE for one in stated.keys if one.level == "L1"):
        return "attention", f"The root key of {holder} does not do its part, or the tenant is locked."
    if not measured:
        return "attention", f"{holder} holds the root key; no revocation was measured in this period."
    times = "once" if len(measured) == 1 else f"{len(measured)} times"
    return "in order", f"{holder} holds the root key; revoked {times}, locked within {max(measured):.1f} s."


def _changes(figures: EvaluationInput) -> Said:
    if not figures.counted.changes_total:
        return "missing", "No change is on record for this period."
    return "in order", f"{figures.counted.changes_total:,} changes, each with who made it."


def _approvals(figures: EvaluationInput) -> Said:
    if not figures.stated.four_eyes:
        return "missing", "The policy asks for a second person for nothing."
    failed = figures.event(AuditName.APPROVAL_EXECUTED).failure
    words = f"A second person is needed for {_few(figures.stated.four_eyes)}"
    if failed:
        return "attention", f"{words}; {failed} approved actions failed."
    return "in order", f"{words}; {figures.counted.approvals_total:,} records of requests and decisions."


def _certificates(figures: EvaluationInput) -> Said:
    stated = figures.stated
    if not stated.certificates or stated.next_certificate_expiry is None:
        return "missing", "No service holds a certificate."
    lapsed = figures.succeeded(AuditName.EXPIRY_LAPSED) + figures.event(AuditName.EXPIRY_LAPSED).failure
    if stated.next_certificate_expiry <= figures.at or lapsed:
        return "attention", "A certificate expired without being renewed."
    until = f"{stated.next_certificate_expiry:%Y-%m-%d %H:%M} UTC"
    return "in order", f"{stated.certificates} certificates of the tenant's own authority; the next ends {until}."


def _audit(figures: EvaluationInput) -> Said:
    if not figures.counted.records:
        return "missing", "No record lies in this period."
    if not figures.counted.is_complete:
        return "attention", "The records have more names or services than a report tells apart."
    first, last = figures.counted.first_seq, figures.counted.last_seq
    return "in order", f"{figures.counted.records:,} records, {first:,} to {last:,}, chained, and signed past the last."


def _policy(figures: EvaluationInput) -> Said:
    return ("in order", "") if figures.stated.four_eyes else ("attention", "")


def _generation(figures: EvaluationInput) -> Said:
    of_ours = [one for one in figures.stated.keys if one.level in {"L2", "L3"}]
    if not of_ours:
        return "missing", ""
    return ("in order", "") if all(one.algorithm for one in of_ours) else ("attention", "")


def _retirement(figures: EvaluationInput) -> Said:
    ended = (AuditName.TENANT_KEY_RETIRED, AuditName.TENANT_KEY_TRIMMED, AuditName.SERVICE_KEY_DESTROYED)
    destroyed = (AuditName.KEY_DESTROYED, AuditName.SHRED_CERTIFIED)
    if any(figures.event(name).failure for name in ended + destroyed):
        return "attention", ""
    return ("in order", "") if figures.succeeded(*ended, *destroyed) else ("missing", "")


def _incidents(figures: EvaluationInput) -> Said:
    """Judge whether anything shows how an incident goes: a measured revocation, or a compromised key replaced."""
    measured = any(one.seconds is not None for one in figures.counted.root_key)
    if measured or figures.succeeded(AuditName.SERVICE_KEY_COMPROMISED):
        return _audit(figures)
    return "missing", ""


def _not_held(_figures: EvaluationInput) -> Said:
    return "missing", ""


def _worst(*judges: Judge) -> Judge:
    """Return a judge who says what the most severe of these says."""

    def judge(figures: EvaluationInput) -> Said:
        order: Sequence[Status] = ("in order", "attention", "missing")
        return max((one(figures) for one in judges), key=lambda said: order.index(said[0]))

    return judge


def _few(names: Sequence[str]) -> str:
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
    (ISOLATION, _worst(_keys, _clauses_hold("E1", "E2", "E3"))),
    (KEYS, _keys),
    (KEYS, _retirement),
    (ROOT_KEY, _root_key),
    (APPROVALS, _approvals),
    (ISOLATION, _isolation),
    (ACCESS, _access),
    (AUDIT, _audit),
    (COVERAGE, _coverage),
    (ROOT_KEY, _incidents),
    (LIMITS, _not_held),
    (CHANGES, _worst(_changes, _isolation)),
    (ISOLATION, _clauses_hold("C1", "C2", "C3")),
)
"""The section and the judge of each row of `report_controls.CONTROLS`, in its order."""

_BY_MODE = {
    True: "The platform holds the root key. This mode separates tenants from each other; it does not exclude the"
    " platform, which could open what lies under its own root key.",
    False: "The customer holds the root key. What was opened with it stays in the crypto service's memory for at most"
    " its cache time after it is taken back, and a service that fetched a key keeps it until its own cache ends.",
}
_LIMITS = (
    (
        "This report maps evidence to ids of controls. It is no attestation and no certification: whether a control"
        " is met is for an auditor to judge."
    ),
    (
        "What services and their agents say of their own encryption is a claim and no evidence. Which data is sensitive"
        " is what the list of protected fields says; data that is not on it is not known here."
    ),
    (
        "Counted figures follow from the audit stream, which shows every edit and every gap, and not what was never"
        " recorded in it."
    ),
    (
        "Attacks across the tenant's boundary show that these attacks failed at these times; they prove no absence of"
        " others."
    ),
    (
        "The processes are written in Python, which cannot dependably overwrite key material in memory. Core dumps are"
        " off and tenant keys never leave the key server."
    ),
    (
        "Times are those of the platform's clocks. A measured revocation begins when the platform was first refused the"
        " root key, at most a few seconds after its holder took it back."
    ),
    "Backups and the recovery of keys are the platform operator's, and no figure of this report is evidence of them.",
)
