"""What a boundary check is: an attack across the tenant boundary that must be refused, and its evidence.

A check holds only when the attack was *refused* and its positive control worked: the same call on the attacker's own
things succeeded, so the refusal came from the wall and not from a broken attacker. Where nothing can be such a control
(the tenant is locked, say) the attack is *not checked*, which is no breach and no pass. Anything else that goes wrong
(a server down, a time-out) is none of the three; it raises and the gate is tried again.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

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
