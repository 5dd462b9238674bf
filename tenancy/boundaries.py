"""What a boundary check is: an attack across the tenant boundary that must be refused, and its evidence.

A check holds only when the attack was *refused* and its positive control worked: the same call on the attacker's own
things succeeded, so the refusal came from the wall and not from a broken attacker. Anything else that goes wrong
(a server down, a time-out) is neither; it raises and the gate is tried again.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class CheckResult(BaseModel):
    """One attack and how it ended. `seconds` is the duration of attack and control together."""

    model_config = ConfigDict(frozen=True)

    clause: str
    name: str
    outcome: Literal["held", "breached"]
    seconds: float
    evidence: str


def breaches(results: tuple[CheckResult, ...]) -> tuple[str, ...]:
    """Return the names of the checks whose attack succeeded."""
    return tuple(result.name for result in results if result.outcome == "breached")
