"""The full examination of a tenant: attacks on it for every clause, where the gate makes the quick ones.

It is an ordered list of attacks (`worker.wiring.attacks`), each of which gives the results of its own. What one of them
finds does not keep the others from being made: the evidence is to be whole also where a wall is down.
"""

from collections.abc import Callable, Sequence

from tenancy.boundaries import CheckResult

Attack = Callable[[str], Sequence[CheckResult]]
"""Attacks the tenant of this id and returns how that ended; raises only where it could not be found out."""
