"""A filter of the audit stream as the query of an address, and back."""

from dataclasses import replace
from datetime import datetime
from typing import Any, get_args
from urllib.parse import parse_qsl, urlencode

from core.audit import AuditFilter
from core.errors.services import InvalidRequest
from dashboard.views.audit import choices
from openkcm.contract.audit_events import Outcome

DOWNLOAD = "audit.jsonl"
"""The last part of the address that such a query belongs to."""

_OUTCOMES: frozenset[Outcome] = frozenset(get_args(Outcome))
_LONGEST = 200


def encode(chosen: AuditFilter) -> str:
    """Return the query that `decode` reads."""
    pairs = [("name", name) for name in sorted(chosen.names)]
    pairs += [("outcome", outcome) for outcome in sorted(chosen.outcomes)]
    pairs += [(key, value) for key in ("actor", "subject", "text") if (value := getattr(chosen, key))]
    pairs += [(key, at.isoformat()) for key in ("since", "until") if (at := getattr(chosen, key)) is not None]
    return urlencode(pairs)


def decode(query: str) -> AuditFilter:
    """Return the filter of a query; raises InvalidRequest for anything that `encode` would not write."""
    chosen = AuditFilter()
    seen: set[str] = set()
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key == "name" and value in choices():
            chosen = replace(chosen, names=chosen.names | {value})
        elif key == "outcome" and value in _OUTCOMES:
            chosen = replace(chosen, outcomes=chosen.outcomes | {outcome for outcome in _OUTCOMES if outcome == value})
        elif key in {"actor", "subject", "text"} and key not in seen and len(value) <= _LONGEST:
            chosen = _with(chosen, key, value)
        elif key in {"since", "until"} and key not in seen:
            chosen = _with(chosen, key, _moment(value))
        else:
            raise InvalidRequest("this cannot be asked of the audit stream", "use the links of the Audit page")
        seen.add(key)
    return chosen


def _with(chosen: AuditFilter, key: str, value: str | datetime) -> AuditFilter:
    changed: dict[str, Any] = {key: value}
    return replace(chosen, **changed)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidRequest("this is not a time", "write it like 2026-11-25T12:00:00+00:00")
    return moment
