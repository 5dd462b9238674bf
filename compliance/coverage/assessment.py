"""Assessment of how much of a tenant's listed data is encrypted, and which gaps remain.

Sources are observations of the crypto service (connected services, used keys) and reports of the customer's programs
(`ReportedUse`), which are claims, not evidence. The list of protected fields defines the sensitive data; OpenKCM does
not know other data. If a fact is unknown, the service is not `FullyCovered`; without a list its coverage is `Unknown`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from itertools import chain
from typing import TypeVar

from compliance.coverage.gaps import (
    BackfillUnfinished,
    BeingConnected,
    CertificateLapsed,
    Disconnected,
    FieldUnseen,
    Gap,
    NoFieldsListed,
    NoService,
    NotConnected,
    NothingEncrypted,
    PlacesUntold,
    PlainAllowed,
    PlainRead,
    TenantClosed,
)
from core.services import CryptoOperation, ServiceState
from core.tenants.lifecycle import ENCRYPTS, State
from openkcm.contract.protected_fields import Backfill, ProtectedField
from openkcm.contract.services import OTHER_PLACES, ServiceKind

LATELY_DAYS = 7
"""Days within which a service must use its keys, and over which the overhead is measured."""
LOOKED_BACK_DAYS = 30
"""Days within which each listed field must be used; older reports are ignored."""
PLAIN = "#plain"
"""Suffix of a place: count of unencrypted values that programs read there."""
_BACKFILLED = "#backfilled"
"""Suffix of a place: count of existing values that a backfill encrypted."""


ALL_PROTECTED = "All sensitive data protected"
"""Shown only for a tenant that is `FullyCovered`."""
NOT_MEASURED = "not measured yet"


class EncryptionMethod(StrEnum):
    """Methods by which a service encrypts."""

    PROGRAMS = "programs"
    """Its programs encrypt fields (`openkcm run`) and report it."""
    REQUESTS = "requests"
    """It requests encryption and decryption from the crypto service."""
    DATA_KEYS = "data-keys"
    KMIP_KEYS = "kmip-keys"
    """It encrypts its files with keys that it fetches over KMIP, as databases and object stores do."""


_WAYS: tuple[tuple[EncryptionMethod, frozenset[CryptoOperation]], ...] = (
    (EncryptionMethod.REQUESTS, frozenset({CryptoOperation.ENCRYPT, CryptoOperation.DECRYPT, CryptoOperation.REWRAP})),
    (EncryptionMethod.DATA_KEYS, frozenset({CryptoOperation.DATA_KEY, CryptoOperation.WRAPPED_DATA_KEY})),
    (EncryptionMethod.KMIP_KEYS, frozenset({CryptoOperation.GET})),
)
ENCRYPTING = frozenset(chain.from_iterable(operations for _, operations in _WAYS))
"""Operations that a service requests only if its data is or will be encrypted with its keys."""


@dataclass(frozen=True, slots=True)
class ReportedUse:
    """Reported operations of a service's programs at one place on one UTC day."""

    day: date
    place: str
    operations: int
    bytes: int
    microseconds: int
    requests: int
    request_microseconds: int


@dataclass(frozen=True, slots=True)
class RequestCount:
    """Number of completed requests of a service for one operation on one UTC day."""

    day: date
    operation: CryptoOperation
    count: int


@dataclass(frozen=True, slots=True)
class BackfillProgress:
    """Progress of the encryption of existing values at one place, as the service reported it on a day."""

    place: str
    state: Backfill
    done: int
    remaining: int
    day: date


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """Known facts about one service. A discovered service that was never connected has no `state`."""

    service: str
    kind: ServiceKind
    state: ServiceState | None
    discovered: bool = False
    certificate_ends: datetime | None = None
    agents_connected: int | None = None
    """None if no agent has ever sent a heartbeat."""
    fields: tuple[ProtectedField, ...] = ()
    uses: tuple[ReportedUse, ...] = ()
    backfills: tuple[BackfillProgress, ...] = ()
    asked: tuple[RequestCount, ...] = ()
    fetched: date | None = None
    """The last day on which it fetched a key over KMIP."""
    keys_kept: int = 0
    """Number of KMIP objects that it can still use."""


@dataclass(frozen=True, slots=True)
class Overhead:
    """Time spent on encryption, and total time of the same requests.

    Programs divide the times of a request among the places that it uses, so sums over places are sums over requests.
    """

    microseconds: int
    request_microseconds: int

    @property
    def share(self) -> float:
        return self.microseconds / self.request_microseconds

    def percent(self) -> str:
        percent = 100 * self.share
        if percent < 0.1:
            return "<0.1%"
        return f"{percent:.1f}%" if percent < 10 else f"{percent:.0f}%"

    def words(self) -> str:
        return f"{self.percent()} overhead"


@dataclass(frozen=True, slots=True)
class Volume:
    operations: int
    bytes: int


@dataclass(frozen=True, slots=True)
class FieldCoverage:
    """Coverage of one place. `field` is None if the place is not on the list of protected fields.

    `seen` is the last day on which a program reported encryption or decryption there. `plaintext_read` is the last day
    on which a program read an unencrypted value, unless a later backfill encrypted all values.
    """

    place: str
    field: ProtectedField | None
    today: Volume
    week: Volume
    month: Volume
    seen: date | None
    plaintext_read: date | None
    plain_values: int
    backfill: BackfillProgress | None
    overhead: Overhead | None


@dataclass(frozen=True, slots=True)
class FullyCovered:
    """No known gap, and every listed field was seen. Each service has at least one listed field."""


@dataclass(frozen=True, slots=True)
class Incomplete:
    """At least one gap; each gap states its remedy."""

    gaps: tuple[Gap, ...]


@dataclass(frozen=True, slots=True)
class Unknown:
    """No known gap, but for at least one service nothing is listed that could be checked: neither good nor bad."""

    gaps: tuple[NoFieldsListed, ...]


Verdict = FullyCovered | Incomplete | Unknown
Counted = TypeVar("Counted", ReportedUse, RequestCount)


@dataclass(frozen=True, slots=True)
class ServiceCoverage:
    facts: ServiceFacts
    fields: tuple[FieldCoverage, ...]
    ways: tuple[EncryptionMethod, ...]
    days: Mapping[date, int]
    """Operations of its programs and of the crypto service for each day with at least one."""
    overhead: Overhead | None
    verdict: Verdict

    @property
    def service(self) -> str:
        return self.facts.service


@dataclass(frozen=True, slots=True)
class Coverage:
    """Coverage of a tenant. `gaps` are of the tenant itself, those of a service are in its verdict."""

    today: date
    services: tuple[ServiceCoverage, ...]
    retired: tuple[str, ...]
    gaps: tuple[Gap, ...]

    @property
    def verdict(self) -> Verdict:
        gaps = [*self.gaps]
        for one in self.services:
            match one.verdict:
                case Incomplete(more) | Unknown(more):
                    gaps += more
                case FullyCovered():  # pragma: no branch - mypy checks that every case is named
                    pass
        return _verdict(gaps)

    @property
    def overhead(self) -> Overhead | None:
        known = [one.overhead for one in self.services if one.overhead is not None]
        if not known:
            return None
        return Overhead(sum(one.microseconds for one in known), sum(one.request_microseconds for one in known))


def coverage(state: State, services: Sequence[ServiceFacts], now: datetime) -> Coverage:
    """Assess a tenant's services. `now` is in UTC, because uses are counted by UTC day."""
    today = now.date()
    counting = [one for one in services if not _is_retired(one)]
    gaps: list[Gap] = [] if state in ENCRYPTS else [TenantClosed(state)]
    if not counting:
        gaps.append(NoService())
    return Coverage(
        today,
        tuple(_covered(one, now) for one in counting),
        tuple(one.service for one in services if _is_retired(one)),
        tuple(gaps),
    )


def _verdict(gaps: Sequence[Gap]) -> Verdict:
    unlisted = tuple(gap for gap in gaps if isinstance(gap, NoFieldsListed))
    if len(unlisted) < len(gaps):
        return Incomplete(tuple(gaps))
    return Unknown(unlisted) if unlisted else FullyCovered()


def first_day(today: date) -> date:
    """Return the first day of the assessed period."""
    return today - timedelta(days=LOOKED_BACK_DAYS - 1)


def _lately(today: date) -> date:
    return today - timedelta(days=LATELY_DAYS - 1)


def _is_retired(service: ServiceFacts) -> bool:
    """Return whether a service is retired: disconnected, without protected fields, and not discovered."""
    return service.state is ServiceState.DISCONNECTED and not service.fields and not service.discovered


def _covered(service: ServiceFacts, now: datetime) -> ServiceCoverage:
    today = now.date()
    service = replace(service, uses=_within(service.uses, today), asked=_within(service.asked, today))
    fields = tuple(_fields(service, today))
    return ServiceCoverage(
        facts=service,
        fields=fields,
        ways=tuple(_ways(service, fields, today)),
        days=_days(service),
        overhead=_overhead(use for use in service.uses if use.day >= _lately(today) and _is_of_requests(use)),
        verdict=_judge(service, fields, now),
    )


def _within(counted: tuple[Counted, ...], today: date) -> tuple[Counted, ...]:
    return tuple(one for one in counted if first_day(today) <= one.day <= today)


def _judge(service: ServiceFacts, fields: Sequence[FieldCoverage], now: datetime) -> Verdict:
    match service.state:
        case None:
            return Incomplete((NotConnected(service.service),))
        case ServiceState.DISCONNECTED:
            return Incomplete((Disconnected(service.service),))
        case ServiceState.CONNECTING:
            return Incomplete((BeingConnected(service.service),))
        case ServiceState.CONNECTED:  # pragma: no branch - mypy checks that every case is named
            return _verdict(tuple(_gaps(service, fields, now)))


def _gaps(service: ServiceFacts, fields: Sequence[FieldCoverage], now: datetime) -> Iterable[Gap]:
    name, today = service.service, now.date()
    if service.certificate_ends is None or service.certificate_ends <= now:
        yield CertificateLapsed(name)
    if not any(_ways(service, fields, today)):
        yield NothingEncrypted(name, LATELY_DAYS)
    if not service.fields:
        yield NoFieldsListed(name)
    for one in fields:
        if one.field is not None and one.seen is None:
            yield FieldUnseen(name, one.place, LOOKED_BACK_DAYS)
        if one.field is not None and one.field.plaintext_allowed:
            yield PlainAllowed(name, one.place, finished=_is_finished(one.backfill))
        if one.backfill is not None and _lacks(one.backfill, listed=one.field is not None):
            yield BackfillUnfinished(name, one.place, one.backfill.state, one.backfill.remaining)
        if one.plaintext_read is not None:
            yield PlainRead(name, one.place, one.plain_values, one.plaintext_read)
    if any(use.place == OTHER_PLACES and use.operations for use in service.uses):
        yield PlacesUntold(name)


def _fields(service: ServiceFacts, today: date) -> Iterable[FieldCoverage]:
    """Return the listed fields in order, then other places that programs report."""
    lately = _lately(today)
    listed = {field.name: field for field in service.fields}
    reported: defaultdict[str, list[ReportedUse]] = defaultdict(list)
    for use in service.uses:
        if use.operations and use.place != OTHER_PLACES:
            reported[use.place].append(use)
    backfills = {one.place: one for one in service.backfills}
    places = {*map(_plain_place, reported), *(one.place for one in service.backfills if _lacks(one, listed=False))}
    for place in dict.fromkeys([*listed, *sorted(places)]):
        uses, plain, backfill = reported.get(place, []), reported.get(place + PLAIN, []), backfills.get(place)
        if backfill is not None and _is_finished(backfill):
            # On the day of the backfill the order of read and backfill is unknown, so that day counts.
            plain = [use for use in plain if use.day >= backfill.day]
        yield FieldCoverage(
            place=place,
            field=listed.get(place),
            today=_amount(uses, today),
            week=_amount(uses, lately),
            month=_amount(uses, first_day(today)),
            seen=max((use.day for use in uses), default=None),
            plaintext_read=max((use.day for use in plain), default=None),
            plain_values=sum(use.operations for use in plain),
            backfill=backfill,
            overhead=_overhead(use for use in uses if use.day >= lately),
        )


def _plain_place(place: str) -> str:
    """Return a place without the suffix of its counter."""
    return place.removesuffix(PLAIN).removesuffix(_BACKFILLED)


def _is_of_requests(use: ReportedUse) -> bool:
    """Return whether the use is part of application requests; a backfill is not."""
    return not use.place.endswith((PLAIN, _BACKFILLED))


def _lacks(backfill: BackfillProgress, *, listed: bool) -> bool:
    """Return whether unencrypted values are known to exist, except in a decrypted field that is no longer listed."""
    return backfill.state is not Backfill.FINISHED and (listed or backfill.state is not Backfill.UNDONE)


def _is_finished(backfill: BackfillProgress | None) -> bool:
    return backfill is not None and backfill.state is Backfill.FINISHED


def _ways(service: ServiceFacts, fields: Sequence[FieldCoverage], today: date) -> Iterable[EncryptionMethod]:
    since = _lately(today)
    if any(one.seen is not None and one.seen >= since for one in fields):
        yield EncryptionMethod.PROGRAMS
    lately = {one.operation for one in service.asked if one.count and one.day >= since}
    for way, operations in _WAYS:
        # A database fetches its key only at its start and then runs for months with encrypted files.
        has_key = way is EncryptionMethod.KMIP_KEYS and service.fetched is not None and service.keys_kept > 0
        if has_key or lately & operations:
            yield way


def _days(service: ServiceFacts) -> Mapping[date, int]:
    days: Counter[date] = Counter()
    for use in service.uses:
        if not use.place.endswith(PLAIN):
            days[use.day] += use.operations
    for one in service.asked:
        days[one.day] += one.count
    return {day: count for day, count in sorted(days.items()) if count}


def _amount(uses: Iterable[ReportedUse], since: date) -> Volume:
    counted = [use for use in uses if use.day >= since]
    return Volume(sum(use.operations for use in counted), sum(use.bytes for use in counted))


def _overhead(uses: Iterable[ReportedUse]) -> Overhead | None:
    """Return the sums; None, not zero, if no request was measured."""
    spent = lasted = 0
    for use in uses:
        spent, lasted = spent + use.microseconds, lasted + use.request_microseconds
    return Overhead(spent, lasted) if lasted else None
