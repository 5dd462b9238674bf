"""The full examination of a tenant: its result for each clause as it is signed, and how anybody checks that.

An examination is one run of every attack. Its results are kept attack by attack for a while, and for each clause as
one line that is kept for longer: how many attacks held, succeeded or could not be made, with a digest over all of them.
That line is what is signed, in Transit. It names tenant, run, clause, time and digest, so that one which was edited, or
moved to another tenant or run, no longer fits its signature, and an attack that was edited, added or taken away no
longer fits its line.

What a boundary check is: an attack across the tenant boundary that must be refused, and its evidence.

A check holds only when the attack was *refused* and its positive control worked: the same call on the attacker's own
things succeeded, so the refusal came from the wall and not from a broken attacker. Where nothing can be such a control
(the tenant is locked, say) the attack is *not checked*, which is no breach and no pass. Anything else that goes wrong
(a server down, a time-out) is none of the three; it raises and the gate is tried again.

How the boundary checks of each clause ended, as the record of a run says it: what a report counts them by.

`A1 3/0/1; C2 2/0/0` is: of the checks of A1 three held, none was breached and one could not be made.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from openkcm.verification.results import SignatureCheck

LATE = timedelta(hours=2)
"""For how long an examination may be due before somebody is told; it is due at least once a day."""


class ClauseResult(BaseModel):
    """How the attacks on one clause ended; `digest` is over each of them, evidence included."""

    model_config = ConfigDict(frozen=True)

    clause: str
    held: int
    breached: int
    not_checked: int
    digest: bytes


class SignedClause(ClauseResult):
    """The same as it is kept: of which run, from when, and signed by `key` (base64 of the DER form)."""

    run: str
    examined_at: AwareDatetime
    signature: str
    key: str


def run_of(workflow_run: str) -> str:
    """Return the name of the examination that one run of the workflow makes, however often it is tried."""
    return f"examination-{workflow_run}"


Outcome = Literal["held", "breached", "not-checked"]


class CheckResult(BaseModel):
    """One attack and how it ended. `seconds` is the duration of attack and control together.

    `evidence` says of one that was not checked why it was not.
    """

    model_config = ConfigDict(frozen=True)

    clause: str
    name: str
    outcome: Outcome
    seconds: float
    evidence: str


def by_clause(results: Iterable[CheckResult]) -> Mapping[str, Sequence[CheckResult]]:
    """Return the results of each clause, both in the order in which they came."""
    found: dict[str, list[CheckResult]] = {}
    for result in results:
        found.setdefault(result.clause, []).append(result)
    return found


def summed_up(clause: str, results: Sequence[CheckResult]) -> ClauseResult:
    """Return one clause's line for the results of its attacks."""
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
    """Return what is signed: one unambiguous line, as `openkcm.contract.audit_events.head_message` makes it of a head.

    Raises:
        ValueError: a name holds a space, so that two different lines could read alike.
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
    """Return what is wrong with the lines of one run, in words; empty when each is signed and fits its attacks.

    `results` are the attacks of that run; None once they are no longer kept, when the lines alone are checked.
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
            return f"the attacks on {line.clause} are not those that were signed"
    unsigned = () if attacks is None else sorted(attacks.keys() - {line.clause for line in lines})
    return f"the attacks on {', '.join(unsigned)} were signed by nobody" if unsigned else ""


def _unsigned(line: SignedClause) -> ClauseResult:
    return ClauseResult.model_validate(line.model_dump(include=set(ClauseResult.model_fields)))


def breaches(results: Iterable[CheckResult]) -> tuple[str, ...]:
    """Return the names of the checks whose attack succeeded."""
    return tuple(result.name for result in results if result.outcome == "breached")


def outcomes(results: Iterable[CheckResult]) -> Counter[Outcome]:
    """Return how many attacks ended how; 0 for an outcome that none had."""
    return Counter(result.outcome for result in results)


def unchecked(checks: Sequence[tuple[str, str]], why: str) -> tuple[CheckResult, ...]:
    """Return clause and name of each as not checked, for a reason that is no breach."""
    return tuple(
        CheckResult(clause=clause, name=name, outcome="not-checked", seconds=0, evidence=why) for clause, name in checks
    )


_OUTCOMES = ("held", "breached", "not-checked")


def tally(results: Iterable[CheckResult]) -> str:
    """Return how many checks of each clause ended how, in the order of their ids."""
    counted: Counter[tuple[str, str]] = Counter((result.clause, result.outcome) for result in results)
    clauses = sorted({clause for clause, _ in counted})
    return "; ".join(f"{clause} {'/'.join(str(counted[clause, how]) for how in _OUTCOMES)}" for clause in clauses)
