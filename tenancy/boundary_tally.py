"""How the boundary checks of each clause ended, as the record of a run says it: what a report counts them by.

`A1 3/0/1; C2 2/0/0` is: of the checks of A1 three held, none was breached and one could not be made.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from tenancy.boundaries import CheckResult

DETAIL = "clauses"
"""The name of the detail of a `boundary.` record that has the tally."""

_OUTCOMES = ("held", "breached", "not-checked")
_ONE = re.compile(r"([A-Z][A-Z0-9-]{0,9}) ([0-9]{1,9})/([0-9]{1,9})/([0-9]{1,9})")
_MOST = 100
"""Clauses in one tally; there are about twenty."""


def tally(results: Iterable[CheckResult]) -> str:
    """Return how many checks of each clause ended how, in the order of their ids."""
    counted: Counter[tuple[str, str]] = Counter((result.clause, result.outcome) for result in results)
    clauses = sorted({clause for clause, _ in counted})
    return "; ".join(f"{clause} {'/'.join(str(counted[clause, how]) for how in _OUTCOMES)}" for clause in clauses)


def tallied(text: str) -> Mapping[str, tuple[int, int, int]]:
    """Return, by clause, how many held, were breached and could not be made; what is no tally says nothing."""
    found = [_ONE.fullmatch(part) for part in text.split("; ", _MOST)[:_MOST]]
    return {one[1]: (int(one[2]), int(one[3]), int(one[4])) for one in found if one is not None}
