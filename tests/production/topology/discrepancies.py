"""Which discrepancies of the key server's log a drill may cause, and when."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Period:
    """The time of a drill, from the load before it to its recovery, and the kinds that it may cause in this time."""

    kinds: frozenset[str]
    begin: datetime
    end: datetime

    def permits(self, kind: str, at: datetime) -> bool:
        return kind in self.kinds and self.begin <= at <= self.end


def unexpected(found: Iterable[Mapping[str, Any]], periods: Sequence[Period]) -> list[Mapping[str, Any]]:
    """Return the discrepancies that no drill may have caused; one without a time is always unexpected."""
    return [one for one in found if not _is_permitted(one, periods)]


def _is_permitted(one: Mapping[str, Any], periods: Sequence[Period]) -> bool:
    if one["at"] is None:
        return False
    at = datetime.fromisoformat(one["at"])
    return any(period.permits(one["kind"], at) for period in periods)
