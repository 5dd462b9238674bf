"""How much of a tenant's listed data is encrypted, as far as is known here, and what is missing until all of it is.

It rests on what the crypto service itself saw (who is connected, whose keys were used) and on what the customer's own
programs say of themselves (`ReportedUse`), which is a claim and no evidence. Which data is sensitive is for the list of
protected fields to say; what is not on it is not known here. Where something is not known, nothing is `FullyCovered`.
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
"""Within which something must have been encrypted under a service's keys, and over which overhead is measured."""
LOOKED_BACK_DAYS = 30
"""Within which each listed field must have been seen; what lies before is not looked at."""
PLAIN = "#plain"
"""After a place: values read there that were not encrypted."""
_BACKFILLED = "#backfilled"
"""After a place: values from before that were encrypted."""


ALL_PROTECTED = "All sensitive data protected"
"""Said of a tenant that is `FullyCovered`, and of no other."""
NOT_MEASURED = "not measured yet"


class EncryptionMethod(StrEnum):
    """How a service encrypts."""

    PROGRAMS = "programs"
    """Its programs encrypt fields themselves (`openkcm run`), and say so."""
    REQUESTS = "requests"
    """It has the crypto service encrypt and decrypt."""
    DATA_KEYS = "data-keys"
    KMIP_KEYS = "kmip-keys"
    """It encrypts its files with keys that it fetched over KMIP, as databases and object stores do."""


_WAYS: tuple[tuple[EncryptionMethod, frozenset[CryptoOperation]], ...] = (
    (EncryptionMethod.REQUESTS, frozenset({CryptoOperation.ENCRYPT, CryptoOperation.DECRYPT, CryptoOperation.REWRAP})),
    (EncryptionMethod.DATA_KEYS, frozenset({CryptoOperation.DATA_KEY, CryptoOperation.WRAPPED_DATA_KEY})),
    (EncryptionMethod.KMIP_KEYS, frozenset({CryptoOperation.GET})),
)
ENCRYPTING = frozenset(chain.from_iterable(operations for _, operations in _WAYS))
"""What a service asks for only when data of it lies, or is to lie, under its keys."""


@dataclass(frozen=True, slots=True)
class ReportedUse:
    """What a service's programs say that they did at one place on one UTC day."""

    day: date
    place: str
    operations: int
    bytes: int
    microseconds: int
    requests: int
    request_microseconds: int


@dataclass(frozen=True, slots=True)
class RequestCount:
    """How often the crypto service answered one operation of a service on one UTC day."""

    day: date
    operation: CryptoOperation
    count: int


@dataclass(frozen=True, slots=True)
class BackfillProgress:
    """How far a service is with encrypting the values from before at one place, as it said on a day."""

    place: str
    state: Backfill
    done: int
    remaining: int
    day: date


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """What is known of one service. One that was discovered and never connected has no `state`."""

    service: str
    kind: ServiceKind
    state: ServiceState | None
    discovered: bool = False
    certificate_ends: datetime | None = None
    agents_connected: int | None = None
    """None where no agent was ever heard of."""
    fields: tuple[ProtectedField, ...] = ()
    uses: tuple[ReportedUse, ...] = ()
    backfills: tuple[BackfillProgress, ...] = ()
    asked: tuple[RequestCount, ...] = ()
    fetched: date | None = None
    """The last day ever on which it fetched a key over KMIP."""
    keys_kept: int = 0
    """KMIP objects that it can still use."""


@dataclass(frozen=True, slots=True)
class Overhead:
    """Time spent in encryption beside the whole time of the requests in which it was spent.

    Programs divide a request's times among the places that it touched, so sums over places are sums over requests.
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
    """One place at which programs encrypt, or should. `field` is None for one that is not on the list.

    `seen` is the last day on which a program said that it encrypted or decrypted there, `plain_read` the last on which
    one read a value that was not encrypted, unless all were encrypted after that day.
    """

    place: str
    field: ProtectedField | None
    today: Volume
    week: Volume
    month: Volume
    seen: date | None
    plain_read: date | None
    plain_values: int
    backfill: BackfillProgress | None
    overhead: Overhead | None


@dataclass(frozen=True, slots=True)
class FullyCovered:
    """Nothing is missing, of what can be known here."""


@dataclass(frozen=True, slots=True)
class Incomplete:
    """Something is: each gap says what, and what to do."""

    gaps: tuple[Gap, ...]


Verdict = FullyCovered | Incomplete
Counted = TypeVar("Counted", ReportedUse, RequestCount)


@dataclass(frozen=True, slots=True)
class ServiceCoverage:
    facts: ServiceFacts
    fields: tuple[FieldCoverage, ...]
    ways: tuple[EncryptionMethod, ...]
    days: Mapping[date, int]
    """Operations of its programs, and those it asked the crypto service for, on each day that has any."""
    overhead: Overhead | None
    verdict: Verdict

    @property
    def service(self) -> str:
        return self.facts.service


@dataclass(frozen=True, slots=True)
class Coverage:
    """`gaps` are the tenant's own; each service has more in its verdict. What was put away is in `retired`."""

    today: date
    services: tuple[ServiceCoverage, ...]
    retired: tuple[str, ...]
    gaps: tuple[Gap, ...]

    @property
    def verdict(self) -> Verdict:
        gaps = [*self.gaps]
        for one in self.services:
            match one.verdict:
                case Incomplete(more):
                    gaps += more
                case FullyCovered():  # pragma: no branch - mypy checks that every case is named
                    pass
        return Incomplete(tuple(gaps)) if gaps else FullyCovered()

    @property
    def overhead(self) -> Overhead | None:
        known = [one.overhead for one in self.services if one.overhead is not None]
        if not known:
            return None
        return Overhead(sum(one.microseconds for one in known), sum(one.request_microseconds for one in known))


def coverage(state: State, services: Sequence[ServiceFacts], now: datetime) -> Coverage:
    """Judge a tenant's services. `now` is in UTC, whose days the uses are counted by."""
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


def first_day(today: date) -> date:
    """Return the first of the days that are looked back on."""
    return today - timedelta(days=LOOKED_BACK_DAYS - 1)


def _lately(today: date) -> date:
    return today - timedelta(days=LATELY_DAYS - 1)


def _is_retired(service: ServiceFacts) -> bool:
    """Whether a service was put away: disconnected, nothing of it listed, and nobody says that it is there."""
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
            gaps = tuple(_gaps(service, fields, now))
            return Incomplete(gaps) if gaps else FullyCovered()


def _gaps(service: ServiceFacts, fields: Sequence[FieldCoverage], now: datetime) -> Iterable[Gap]:
    name, today = service.service, now.date()
    if service.certificate_ends is None or service.certificate_ends <= now:
        yield CertificateLapsed(name)
    if not any(_ways(service, fields, today)):
        yield NothingEncrypted(name, LATELY_DAYS)
    for one in fields:
        if one.field is not None and one.seen is None:
            yield FieldUnseen(name, one.place, LOOKED_BACK_DAYS)
        if one.field is not None and one.field.plain_allowed:
            yield PlainAllowed(name, one.place, finished=_is_finished(one.backfill))
        if one.backfill is not None and _lacks(one.backfill, listed=one.field is not None):
            yield BackfillUnfinished(name, one.place, one.backfill.state, one.backfill.remaining)
        if one.plain_read is not None:
            yield PlainRead(name, one.place, one.plain_values, one.plain_read)
    if any(use.place == OTHER_PLACES and use.operations for use in service.uses):
        yield PlacesUntold(name)


def _fields(service: ServiceFacts, today: date) -> Iterable[FieldCoverage]:
    """Return the listed fields in order, then those that programs speak of besides."""
    lately = _lately(today)
    listed = {field.name: field for field in service.fields}
    told: defaultdict[str, list[ReportedUse]] = defaultdict(list)
    for use in service.uses:
        if use.operations and use.place != OTHER_PLACES:
            told[use.place].append(use)
    backfills = {one.place: one for one in service.backfills}
    spoken_of = {*map(_plainly, told), *(one.place for one in service.backfills if _lacks(one, listed=False))}
    for place in dict.fromkeys([*listed, *sorted(spoken_of)]):
        uses, plain, backfill = told.get(place, []), told.get(place + PLAIN, []), backfills.get(place)
        if backfill is not None and _is_finished(backfill):
            # On the day itself nobody knows which came first.
            plain = [use for use in plain if use.day >= backfill.day]
        yield FieldCoverage(
            place=place,
            field=listed.get(place),
            today=_amount(uses, today),
            week=_amount(uses, lately),
            month=_amount(uses, first_day(today)),
            seen=max((use.day for use in uses), default=None),
            plain_read=max((use.day for use in plain), default=None),
            plain_values=sum(use.operations for use in plain),
            backfill=backfill,
            overhead=_overhead(use for use in uses if use.day >= lately),
        )


def _plainly(place: str) -> str:
    """Return a place without the mark that says what was counted there."""
    return place.removesuffix(PLAIN).removesuffix(_BACKFILLED)


def _is_of_requests(use: ReportedUse) -> bool:
    """Whether it happened in requests of an application, which the encryption of old values does not."""
    return not use.place.endswith((PLAIN, _BACKFILLED))


def _lacks(backfill: BackfillProgress, *, listed: bool) -> bool:
    """Whether values are known to be plain: not where a field was decrypted and then taken off the list, to leave."""
    return backfill.state is not Backfill.FINISHED and (listed or backfill.state is not Backfill.UNDONE)


def _is_finished(backfill: BackfillProgress | None) -> bool:
    return backfill is not None and backfill.state is Backfill.FINISHED


def _ways(service: ServiceFacts, fields: Sequence[FieldCoverage], today: date) -> Iterable[EncryptionMethod]:
    since = _lately(today)
    if any(one.seen is not None and one.seen >= since for one in fields):
        yield EncryptionMethod.PROGRAMS
    lately = {one.operation for one in service.asked if one.count and one.day >= since}
    for way, operations in _WAYS:
        # A database fetches its key when it starts and then runs for months; its files lie under the key all the time.
        holds = way is EncryptionMethod.KMIP_KEYS and service.fetched is not None and service.keys_kept > 0
        if holds or lately & operations:
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
    """Return the sums; None, which is not nothing, where no request was measured."""
    spent = lasted = 0
    for use in uses:
        spent, lasted = spent + use.microseconds, lasted + use.request_microseconds
    return Overhead(spent, lasted) if lasted else None
