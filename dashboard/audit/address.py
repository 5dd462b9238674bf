"""The filters of the Audit page in its address, so that they survive a reload, Back and a shared link; pure.

Other pages link here with these names: `from`, `to` (ISO 8601 to the minute, UTC; `to` is exclusive), `service`,
`operation`, `actor`, `object`, `outcome`, `event`, `search`, and `seq` for one open record. `service`, `operation`,
`outcome` and `event` may be repeated. An invalid value is named and ignored.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import get_args

from core.audit import AuditFilter
from core.services import CryptoOperation
from dashboard.audit.view import choices
from dashboard.components import formatting as words
from openkcm.contract.audit_events import Outcome

LONGEST = 200
_OUTCOMES: tuple[Outcome, ...] = tuple(sorted(get_args(Outcome)))
_OPERATIONS = tuple(str(one) for one in CryptoOperation)
_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
"""Names of services, also of a former release: the database has the service or not."""
_TEXTS = ("actor", "object", "search")
_MANY = ("service", "operation", "outcome", "event")
FILTERS = ("from", "to", *_MANY, *_TEXTS)
SEQ = "seq"
LIVE = "live"
_FORMAT = "%Y-%m-%dT%H:%MZ"
_MOST_DIGITS = 18


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """The chosen filters; times are in UTC."""

    since: datetime | None = None
    until: datetime | None = None
    service: tuple[str, ...] = ()
    operation: tuple[str, ...] = ()
    outcome: tuple[Outcome, ...] = ()
    event: tuple[str, ...] = ()
    actor: str = ""
    object: str = ""
    search: str = ""

    def filter(self) -> AuditFilter:
        """Return the filter of the records."""
        return AuditFilter(
            names=frozenset(self.event),
            outcomes=frozenset(self.outcome),
            actor=self.actor.strip(),
            subject=self.object.strip(),
            text=self.search.strip(),
            since=self.since,
            until=self.until,
            services=frozenset(self.service),
            operations=frozenset(self.operation),
        )

    def address(self) -> dict[str, str | list[str]]:
        """Return the query of the address."""
        found: dict[str, str | list[str]] = {
            "from": "" if self.since is None else minute(self.since),
            "to": "" if self.until is None else minute(self.until),
            "service": list(self.service),
            "operation": list(self.operation),
            "outcome": list(self.outcome),
            "event": list(self.event),
            "actor": self.actor,
            "object": self.object,
            "search": self.search,
        }
        return {name: value for name, value in found.items() if value}

    def more_filters(self) -> str:
        """Return the title of the filters that the page shows on request, with those that are set."""
        times = (("from", self.since), ("to", self.until))
        parts = [f"{name} {time.astimezone(UTC):%Y-%m-%d %H:%M} UTC" for name, time in times if time is not None]
        parts += [name for name in ("outcome", "event", "actor", "object") if getattr(self, name)]
        title = "Time range and more filters"
        return f"{title}: {', '.join(parts)}" if parts else title


def minute(time: datetime) -> str:
    """Return a time as it is in an address: `2026-11-25T17:14Z`."""
    return f"{time.astimezone(UTC):{_FORMAT}}"


def parse(query: Mapping[str, Sequence[str]]) -> tuple[AuditQuery, tuple[str, ...]]:
    """Return the filters of an address, and a sentence for each value that is ignored."""
    ignored: list[str] = []
    since, until = (_time(name, query.get(name, ()), ignored) for name in ("from", "to"))
    if since is not None and until is not None and since >= until:
        ignored.append("`to` is not after `from`.")
        until = None
    found = AuditQuery(
        since,
        until,
        _known("service", query, ignored, None),
        _known("operation", query, ignored, _OPERATIONS),
        tuple(one for one in _OUTCOMES if one in _known("outcome", query, ignored, _OUTCOMES)),
        _known("event", query, ignored, choices()),
        *(_text(name, query.get(name, ()), ignored) for name in _TEXTS),
    )
    return found, tuple(ignored)


def parse_seq(value: str) -> int | None:
    """Return the number of the open record; None without one, 0 for a value that is no number."""
    if not value:
        return None
    return int(value) if re.fullmatch(rf"[1-9][0-9]{{0,{_MOST_DIGITS - 1}}}", value, re.ASCII) else 0


def _time(name: str, values: Sequence[str], ignored: list[str]) -> datetime | None:
    if not values:
        return None
    try:
        time = datetime.fromisoformat(values[-1])
        # A time without a zone is UTC, as the page says.
        time = (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        ignored.append(f"`{name}` is not a time such as 2026-11-25T17:14Z: {words.excerpt(values[-1])}.")
        return None
    return time.replace(second=0, microsecond=0)


def _known(
    name: str, query: Mapping[str, Sequence[str]], ignored: list[str], known: Sequence[str] | None
) -> tuple[str, ...]:
    found = []
    for value in dict.fromkeys(query.get(name, ())):
        if value in known if known is not None else _SERVICE.fullmatch(value) is not None:
            found.append(value)
        else:
            ignored.append(words.unknown_value(name, value))
    return tuple(found)


def _text(name: str, values: Sequence[str], ignored: list[str]) -> str:
    if not values:
        return ""
    if len(values[-1]) > LONGEST:
        ignored.append(f"`{name}` has more than {LONGEST} characters.")
        return ""
    return values[-1]
