"""How the boundary checks of each clause ended, as the record of a run says it: what a report counts them by.

`A1 3/0/1; C2 2/0/0` is: of the checks of A1 three held, none was breached and one could not be made.
"""

from collections import Counter
from collections.abc import Iterable

from tenancy.boundaries import CheckResult

_OUTCOMES = ("held", "breached", "not-checked")


def tally(results: Iterable[CheckResult]) -> str:
    """Return how many checks of each clause ended how, in the order of their ids."""
    counted: Counter[tuple[str, str]] = Counter((result.clause, result.outcome) for result in results)
    clauses = sorted({clause for clause, _ in counted})
    return "; ".join(f"{clause} {'/'.join(str(counted[clause, how]) for how in _OUTCOMES)}" for clause in clauses)
