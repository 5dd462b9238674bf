"""Isolation checks, the signed results of an isolation assessment, and their verification.

A check is an attempted attack across the tenant boundary, with evidence. It holds only if the attack was *rejected* and
its positive control succeeded: the same call on the attacker's own data worked, so the isolation control rejected the
attack. Without a possible positive control (as for a locked tenant) the result is *not checked*, which is neither a
breach nor a pass. Any other failure (server down, timeout) raises, and the assessment is retried.

An assessment is one run of all checks. The results of single checks are kept for a limited time. One line for each
clause is kept for longer: the counts of held, breached and unchecked results, and a digest over all of them. Transit
signs the line, which names tenant, run, clause, time and digest. A line that was edited or moved to another tenant or
run does not match its signature; a result that was edited, added or removed does not match its line.

`A1 3/0/1; C2 2/0/0` in an audit record means: of the checks of A1 three held, none was breached, one was not checked.
Reports count the checks from this text.

A complete assessment makes every attack. A daily one makes those of the database, of certificates and through the
crypto service, and reads the tenant key. Without a breach, only its line is kept, with the clause `DAILY`: the digest
over all its results. `is_complete_due` states when a daily assessment must be a complete one.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from openkcm.verification.results import SignatureCheck

LATE = timedelta(hours=2)
"""Time for which an assessment may be overdue before an alert; it is due at least once a day."""


DAILY = "DAILY"
"""The clause of the signed line of a daily assessment."""


@dataclass(frozen=True, slots=True)
class AssessmentState:
    """The newest assessments of a tenant; times are their starts, None before the first.

    `changed_at` is the end of a rotation, a change of root key or CA, or a restore since the newest complete one.
    """

    complete_at: datetime | None
    changed_at: datetime | None
    breached: bool


def is_complete_due(
    state: AssessmentState, began: datetime, newest_breach: datetime | None, interval: timedelta
) -> bool:
    """Return whether an assessment that began at this time makes every attack.

    `newest_breach` is of any tenant: the control that failed may protect all. Two complete assessments are at most
    `interval` and LATE apart while the daily ones are on time.
    """
    complete_at = state.complete_at
    if complete_at is None or state.changed_at is not None or state.breached:
        return True
    if newest_breach is not None and newest_breach > complete_at:
        return True
    return began + timedelta(days=1) - complete_at > interval + LATE


class ClauseResult(BaseModel):
    """Counts of the check results of one clause; `digest` covers each result with its evidence."""

    model_config = ConfigDict(frozen=True)

    clause: str
    held: int
    breached: int
    not_checked: int
    digest: bytes


class SignedClause(ClauseResult):
    """The stored result with its run and time, signed with `key` (base64 of the DER form)."""

    run: str
    examined_at: AwareDatetime
    signature: str
    key: str


def run_of(workflow_run: str) -> str:
    """Return the name of the assessment of one workflow run, the same for each retry."""
    return f"examination-{workflow_run}"


Outcome = Literal["held", "breached", "not-checked"]


class CheckResult(BaseModel):
    """The result of one check. `seconds` is the duration of attack and positive control together.

    For a result that is not checked, `evidence` is the reason.
    """

    model_config = ConfigDict(frozen=True)

    clause: str
    name: str
    outcome: Outcome
    seconds: float
    evidence: str


def by_clause(results: Iterable[CheckResult]) -> Mapping[str, Sequence[CheckResult]]:
    """Return the results of each clause, with clauses and results in their original order."""
    found: dict[str, list[CheckResult]] = {}
    for result in results:
        found.setdefault(result.clause, []).append(result)
    return found


def summed_up(clause: str, results: Sequence[CheckResult]) -> ClauseResult:
    """Return the counts and the digest of one clause."""
    counted = outcomes(results)
    return ClauseResult(
        clause=clause,
        held=counted["held"],
        breached=counted["breached"],
        not_checked=counted["not-checked"],
        digest=digest(results),
    )


def digest(results: Sequence[CheckResult]) -> bytes:
    """Return SHA-256 over the results of one clause: a JSON array of [name, outcome, seconds, evidence] of each."""
    listed = [[result.name, result.outcome, result.seconds, result.evidence] for result in results]
    return hashlib.sha256(json.dumps(listed, separators=(",", ":")).encode("ascii")).digest()


def clause_message(tenant_id: str, run: str, examined_at: datetime, of: ClauseResult) -> bytes:
    """Return the text to sign: one unambiguous line, similar to `openkcm.contract.audit_events.head_message`.

    Raises:
        ValueError: a name contains a space, so that two different lines could have the same text.
    """
    names = (tenant_id, run, of.clause)
    if any(not name.isascii() or len(name.split()) != 1 or name.strip() != name for name in names):
        raise ValueError("a name in a signed line must be one word")
    at = examined_at.astimezone(UTC).isoformat(timespec="microseconds")
    counts = f"{of.held} {of.breached} {of.not_checked}"
    return f"openkcm-boundary-clause/1 {' '.join(names)} {at} {counts} {of.digest.hex()}".encode("ascii")


def flaw(
    tenant_id: str, lines: Sequence[SignedClause], check: SignatureCheck, results: Iterable[CheckResult] | None = None
) -> str:
    """Return what is wrong with the lines of one run, as text; empty if each is signed and matches its results.

    `results` are the results of that run; None if they are no longer kept, then only the lines are verified.
    """
    attacks = None if results is None else by_clause(results)
    for line in lines:
        try:
            message = clause_message(tenant_id, line.run, line.examined_at, line)
        except ValueError as unreadable:
            return f"the line of {line.clause}: {unreadable}"
        if problem := check(line.key, message, line.signature).problem:
            return f"the line of {line.clause}: {problem}"
        if attacks is not None and summed_up(line.clause, attacks.get(line.clause, ())) != _unsigned(line):
            return f"the check results of {line.clause} differ from the signed ones"
    unsigned = () if attacks is None else sorted(attacks.keys() - {line.clause for line in lines})
    return f"the check results of {', '.join(unsigned)} are not signed" if unsigned else ""


def _unsigned(line: SignedClause) -> ClauseResult:
    return ClauseResult.model_validate(line.model_dump(include=set(ClauseResult.model_fields)))


def breaches(results: Iterable[CheckResult]) -> tuple[str, ...]:
    """Return the names of the checks whose attack succeeded."""
    return tuple(result.name for result in results if result.outcome == "breached")


def outcomes(results: Iterable[CheckResult]) -> Counter[Outcome]:
    """Return the number of results for each outcome; 0 for an outcome without results."""
    return Counter(result.outcome for result in results)


def unchecked(checks: Sequence[tuple[str, str]], why: str) -> tuple[CheckResult, ...]:
    """Return each check (clause, name) as not checked, for a reason that is no breach."""
    return tuple(
        CheckResult(clause=clause, name=name, outcome="not-checked", seconds=0, evidence=why) for clause, name in checks
    )


_OUTCOMES = ("held", "breached", "not-checked")


def tally(results: Iterable[CheckResult]) -> str:
    """Return the counts of each clause as text, in the order of the clauses."""
    counted: Counter[tuple[str, str]] = Counter((result.clause, result.outcome) for result in results)
    clauses = sorted({clause for clause, _ in counted})
    return "; ".join(f"{clause} {'/'.join(str(counted[clause, how]) for how in _OUTCOMES)}" for clause in clauses)
