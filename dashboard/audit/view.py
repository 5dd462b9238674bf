"""The Audit page as values: records, chain state, search progress, and the filter as a query string."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, get_args
from urllib.parse import parse_qsl, urlencode
from zoneinfo import ZoneInfo

from core.audit import AuditFilter, operation_of, service_of
from core.errors.services import InvalidRequest
from core.services import CryptoOperation
from dashboard.components import formatting as words
from database.audit import FoundRecord, SignedCheckpoint, StreamBounds
from openkcm.contract.audit_events import AuditName, Outcome, StoredRecord, fields_of, is_linked
from openkcm.verification.event_labels import FAMILIES, family_of, what
from openkcm.verification.results import CheckedSignature

_ACTORS = {"human": "person", "service": "service", "system": "OpenKCM"}
OUTCOMES: dict[Outcome, str] = {
    "success": "Success",
    "refused": "Refused",
    "failure": "Failure",
    "intended": "Intended",
}
UNREADABLE = "Unreadable record"


class Chain(StrEnum):
    """Result of comparing the newest checkpoint with the stored stream."""

    EMPTY = "empty"
    UNSIGNED = "unsigned"
    SIGNED = "signed"
    TRUNCATED = "truncated"
    REPLACED = "replaced"
    FORGED = "forged"


@dataclass(frozen=True, slots=True)
class Row:
    """One record in the list. `linked`: its chain hash follows from its text and the previous record.

    `local` is the time in the reader's zone, empty where it is unknown. `times` is the number of operations that the
    record counts, and `cause` the code of a refusal or failure.
    """

    seq: int
    time: str
    local: str
    what: str
    operation: str
    service: str
    subject: str
    actor: str
    outcome: str
    cause: str
    times: int
    code: str
    source: str
    correlation_id: str
    linked: bool


@dataclass(frozen=True, slots=True)
class Details:
    """All fields of one record; `raw` is exactly the hashed text."""

    title: str
    fields: tuple[tuple[str, str], ...]
    raw: str
    linked: bool


@dataclass(frozen=True, slots=True)
class Status:
    """The state of the chain. `said` explains it; `alarming` requires action.

    `signature` is the result for the newest checkpoint and `fingerprint` identifies the key; both empty without a
    checkpoint.
    """

    chain: Chain
    records: str
    signed: str
    head: str
    said: str
    alarming: bool
    signature: str = ""
    fingerprint: str = ""


def choices() -> list[str]:
    """Return the filter options: each family, followed by its events."""
    chosen = []
    for family in FAMILIES:
        names = [str(name) for name in AuditName if name.startswith(f"{family}.")]
        chosen += [f"{family}.", *names]
    return chosen


def choice_label(choice: str) -> str:
    """Return the label of an option: `Use of keys: all`, `Use of keys: key handed to a service`."""
    words_of = "all" if choice.endswith(".") else _lowered(what(choice))
    return f"{family_of(choice)}: {words_of}"


def _lowered(text: str) -> str:
    return text if text.startswith("OpenKCM") else text[:1].lower() + text[1:]


def row(found: FoundRecord, zone: str | None = None) -> Row:
    """Return a record as a row of the list."""
    fields = fields_of(found.stored.record)
    at = _moment(fields)
    name = str(fields.get("name", ""))
    return Row(
        seq=found.stored.seq,
        time="unknown" if at is None else f"{at:%Y-%m-%d %H:%M:%S}",
        local="" if at is None else clock_in(at, zone),
        what=what(name) if fields else UNREADABLE,
        operation=operation_of(fields),
        service=service_of(fields),
        subject=_text(fields, "subject"),
        actor=_actor(fields),
        outcome=_outcome(fields),
        cause=_detail(fields, "code"),
        times=_times(fields),
        code=name,
        source=_text(fields, "source"),
        correlation_id=_text(fields, "correlation_id"),
        linked=linked(found),
    )


def clock_in(time: datetime, zone: str | None) -> str:
    """Return a time in a zone that a browser has named; empty for a name that is no zone of this machine."""
    try:
        return f"{time.astimezone(ZoneInfo(zone or '')):%Y-%m-%d %H:%M:%S}"
    except (LookupError, ValueError, OSError, OverflowError):
        return ""


def details(found: FoundRecord, now: datetime, zone: str | None = None) -> Details:
    """Return all fields of a record."""
    fields = fields_of(found.stored.record)
    at = _moment(fields)
    listed = [
        ("Time", "unknown" if at is None else f"{at:%Y-%m-%d %H:%M:%S.%f} UTC ({words.relative(at, now)})"),
        ("Local time", "" if at is None else clock_in(at, zone)),
        ("Event", what(_text(fields, "name")) if fields else UNREADABLE),
        ("Code", _text(fields, "name")),
        ("Upstream event type", _text(fields, "upstream_event_type")),
        ("Outcome", _outcome(fields)),
        ("Actor", _actor(fields)),
        ("Object", _text(fields, "subject")),
        ("Source", _text(fields, "source")),
        ("Correlation id", _text(fields, "correlation_id")),
        ("Event id", _text(fields, "event_id")),
        *_particulars(fields.get("details")),
        ("Chain hash", found.stored.chain_hash.hex()),
        ("Previous hash", "missing" if found.previous is None else found.previous.hex()),
    ]
    return Details(
        title=f"Record {found.stored.seq:,}",
        fields=tuple((label, value) for label, value in listed if value),
        raw=found.stored.record,
        linked=linked(found),
    )


def linked(found: FoundRecord) -> bool:
    """Return whether the record follows from the previous one and contains its own number."""
    says = fields_of(found.stored.record).get("seq")
    return found.previous is not None and says == found.stored.seq and is_linked(found.previous, found.stored)


def links(rows: Sequence[Row]) -> tuple[bool, str]:
    """Return whether all shown links are valid, and a sentence about it."""
    broken = [f"{one.seq:,}" for one in rows if not one.linked]
    if broken:
        return False, (
            f"The chain is broken at {'record' if len(broken) == 1 else 'records'} {words.listed(broken)}: text "
            "and hash do not match, or the previous record was changed."
        )
    if len(rows) == 1:
        return True, "Hash link of the shown record verified."
    return True, f"Hash links of {len(rows):,} shown records verified."


def status(ends: StreamBounds, checked: CheckedSignature | None, now: datetime) -> Status:
    """Return the state of the chain by its newest checkpoint; `checked` is the result for its signature."""
    length = 0 if ends.last is None else ends.last.seq
    head = "none" if ends.last is None else ends.last.chain_hash.hex()
    if ends.signed is None or checked is None:
        if not length:
            return Status(Chain.EMPTY, "0", "none", head, "No records yet.", alarming=False)
        said = f"No checkpoint yet; {words.count(length, 'record')} will be signed within a minute."
        return Status(Chain.UNSIGNED, f"{length:,}", "none yet", head, said, alarming=False)
    chain, said = _by_checkpoint(length, ends.signed, ends.at_signed, words.moment(ends.signed_at, now))
    if chain is Chain.SIGNED and checked.problem is not None:
        chain = Chain.FORGED
        said = f"The signature over record {ends.signed.seq:,} does not verify: {checked.problem}."
    return Status(
        chain,
        f"{length:,}",
        f"{ends.signed.seq:,}",
        head,
        said,
        alarming=chain is not Chain.SIGNED,
        signature="Verified" if checked.problem is None else "Not verified",
        fingerprint=checked.fingerprint,
    )


def summary(status: Status) -> str:
    """Return the figures of a state as one line of Markdown."""
    figures = (
        ("Records", status.records),
        ("Signed up to record", status.signed),
        ("Signature", status.signature.lower()),
    )
    return ", ".join(f"{label}: **{value}**" for label, value in figures if value)


def _by_checkpoint(length: int, signed: SignedCheckpoint, stored: StoredRecord | None, at: str) -> tuple[Chain, str]:
    if length < signed.seq:
        said = (
            f"Records are missing at the end: record {signed.seq:,} was signed on {at}, and the last record is "
            f"{length:,}."
        )
        return Chain.TRUNCATED, said
    if stored is None or stored.chain_hash != signed.chain_hash:
        return Chain.REPLACED, f"Record {signed.seq:,} differs from the record signed on {at}."
    after = length - signed.seq
    rest = f"{words.count(after, 'newer record')} will be signed within a minute" if after else "no newer records"
    return Chain.SIGNED, f"Signed up to record {signed.seq:,} on {at}, by the key {signed.key}; {rest}."


def verdict(records: int, signed: int, seconds: float, at: datetime) -> str:
    """Return the result of a successful verification; `signed` is the newest signed record, 0 for none."""
    head = (
        f"The newest checkpoint, of record {signed:,}, and its signature are verified."
        if signed
        else "No checkpoint yet, so missing records at the end would not be detected."
    )
    return (
        f"{words.count(records, 'record')} verified in {words.span(seconds)}, {words.at(at)}: no record is "
        f"missing, altered or out of order. {head}"
    )


BROKEN_ADVICE = (
    "Do not repair, restore or delete anything: the current data is evidence. Download the entire stream, note "
    "the time, and ask the platform's operators to keep a copy of the database. Records before the named record "
    "are verified; the named record and all later ones are not."
)


def search_progress(shown: int, rest: range, *, backwards: bool) -> str:
    """Return how far an incomplete search has progressed."""
    found = words.count(shown, "matching record", "matching records") if shown else "No matching records"
    far = f"back to record {rest.stop:,}" if backwards else f"forward to record {rest.start - 1:,}"
    not_yet = words.count(len(rest), "older record" if backwards else "newer record")
    return f"{found} so far; searched {far}, {not_yet} not searched."


def _moment(fields: Mapping[str, object]) -> datetime | None:
    try:
        at = datetime.fromisoformat(str(fields.get("time")))
    except ValueError:
        return None
    return at if at.tzinfo is not None else None


def _outcome(fields: Mapping[str, object]) -> str:
    said = _text(fields, "outcome")
    return {str(key): value for key, value in OUTCOMES.items()}.get(said, said)


def _actor(fields: Mapping[str, object]) -> str:
    kind = _text(fields, "actor_kind")
    return " ".join(part for part in (_text(fields, "actor"), f"({_ACTORS.get(kind, kind)})" if kind else "") if part)


def _detail(fields: Mapping[str, object], name: str) -> str:
    found = fields.get("details")
    return _text(found, name) if isinstance(found, dict) else ""


def _times(fields: Mapping[str, object]) -> int:
    count = _detail(fields, "count")
    return int(count) if count.isascii() and count.isdigit() and len(count) <= _MOST_DIGITS else 1


def _particulars(found: object) -> list[tuple[str, str]]:
    if not isinstance(found, dict):
        return []
    return [
        (f"Detail: {name}", value if isinstance(value, str) else json.dumps(value)) for name, value in found.items()
    ]


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name, "")
    return value if isinstance(value, str) else json.dumps(value)


_MOST_DIGITS = 15
"""Digits of a number that the browser shows exactly."""

DOWNLOAD = "audit.jsonl"
"""The last part of the address that accepts such a query."""

_OPERATIONS = frozenset(str(one) for one in CryptoOperation)
_OUTCOMES: frozenset[Outcome] = frozenset(get_args(Outcome))
_LONGEST = 200


def encode(chosen: AuditFilter) -> str:
    """Return the query that `decode` reads."""
    pairs = [("name", name) for name in sorted(chosen.names)]
    pairs += [("outcome", outcome) for outcome in sorted(chosen.outcomes)]
    pairs += [("service", service) for service in sorted(chosen.services)]
    pairs += [("operation", operation) for operation in sorted(chosen.operations)]
    pairs += [(key, value) for key in ("actor", "subject", "text") if (value := getattr(chosen, key))]
    pairs += [(key, at.isoformat()) for key in ("since", "until") if (at := getattr(chosen, key)) is not None]
    return urlencode(pairs)


def decode(query: str) -> AuditFilter:
    """Return the filter of a query; raises InvalidRequest for any query that `encode` does not produce."""
    chosen = AuditFilter()
    seen: set[str] = set()
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key == "name" and value in choices():
            chosen = replace(chosen, names=chosen.names | {value})
        elif key == "outcome" and value in _OUTCOMES:
            chosen = replace(chosen, outcomes=chosen.outcomes | {outcome for outcome in _OUTCOMES if outcome == value})
        elif key == "service" and len(value) <= _LONGEST:
            chosen = replace(chosen, services=chosen.services | {value})
        elif key == "operation" and value in _OPERATIONS:
            chosen = replace(chosen, operations=chosen.operations | {value})
        elif key in {"actor", "subject", "text"} and key not in seen and len(value) <= _LONGEST:
            chosen = _with(chosen, key, value)
        elif key in {"since", "until"} and key not in seen:
            chosen = _with(chosen, key, _parse_time(value))
        else:
            raise InvalidRequest("unknown filter of the audit stream", "use the links of the Audit page")
        seen.add(key)
    return chosen


def _with(chosen: AuditFilter, key: str, value: str | datetime) -> AuditFilter:
    changed: dict[str, Any] = {key: value}
    return replace(chosen, **changed)


def _parse_time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidRequest("not a valid time", "use the format 2026-11-25T12:00:00+00:00")
    return moment
