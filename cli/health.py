"""What the health of a root key on record means, in the words of its error."""

from collections.abc import Iterator

from core.errors.keys import CustomerKeyError
from core.tenants.locks import HEALTHY

_WELL = "the root key does its part"


def _all(kind: type[CustomerKeyError]) -> Iterator[type[CustomerKeyError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _all(below)


def meaning(health: str) -> str:
    """Return what a health on record says."""
    return _WELL if health == HEALTHY else _error(health).message


def healed_by(health: str) -> str:
    """Return what a person can do about it; empty for one that is well."""
    return "" if health == HEALTHY else _error(health).hint


def _error(health: str) -> type[CustomerKeyError]:
    return {kind.code: kind for kind in _all(CustomerKeyError)}.get(health, CustomerKeyError)
