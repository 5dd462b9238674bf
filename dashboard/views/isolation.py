"""The last boundary check of a tenant: which walls were attacked, and that they held."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from database.interfaces import BoundaryRunRow
from tenancy.boundaries import CheckResult

_WALLS: Mapping[str, str] = MappingProxyType(
    {
        "U2": "No other tenant can use your tenant key, or open with theirs what yours encrypted",
        "C2": "What is encrypted for your tenant opens for no other tenant",
        "C3": "What is encrypted under your tenant key opens under no other key",
        "M1": "What is stored for your tenant can refer to none but your own keys",
        "M2": "Another tenant's transaction can neither read nor write your rows",
        "A1": "Only certificates of your own authority speak for your tenant",
        "A3": "A certificate that claims another tenant's name stays with its issuer's tenant",
    }
)
"""What each clause of the Multi-Tenant Cryptographic Isolation standard means to the customer."""


@dataclass(frozen=True, slots=True)
class Wall:
    """One clause and the attacks on it; `results` in the order in which they were made."""

    clause: str
    meaning: str
    results: tuple[CheckResult, ...]

    @property
    def held(self) -> int:
        return sum(result.outcome == "held" for result in self.results)

    @property
    def stands(self) -> bool:
        return self.held == len(self.results)


@dataclass(frozen=True, slots=True)
class Check:
    at: datetime
    walls: tuple[Wall, ...]

    @property
    def attacks(self) -> int:
        return sum(len(wall.results) for wall in self.walls)

    @property
    def held(self) -> int:
        return sum(wall.held for wall in self.walls)

    @property
    def passed(self) -> bool:
        """Whether there were attacks and none of them succeeded."""
        return 0 < self.attacks == self.held


def check(run: BoundaryRunRow | None) -> Check | None:
    """Return the newest run by clause, None when there was none."""
    if run is None:
        return None
    by_clause: dict[str, list[CheckResult]] = {}
    for result in run.results:
        by_clause.setdefault(result.clause, []).append(result)
    return Check(
        run.recorded_at,
        tuple(
            Wall(clause, _WALLS.get(clause, clause), tuple(results)) for clause, results in sorted(by_clause.items())
        ),
    )


def attack(result: CheckResult) -> str:
    """Return the name of an attack as words."""
    return result.name.replace("-", " ")
