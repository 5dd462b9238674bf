"""Usage per minute, hour, day and month; a batch is counted once, regardless of how often it is delivered."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, NamedTuple

from psycopg import Cursor
from psycopg.rows import TupleRow

from core.services import CryptoOperation
from core.usage import BUCKETS, Latency
from database.repository import Repository


def _buckets(form: str) -> str:
    """Return an SQL array with the number of each bucket inserted into `form`."""
    return f"array[{', '.join(form.format(number) for number in range(1, BUCKETS + 1))}]::bigint[]"


# One statement, one round trip. The rows of a batch are summed first, because ON CONFLICT can change a row once, and
# are written in a fixed order, so that two processes that count the same minutes do not deadlock. Batch
# ids have a retention (core/retention.py).
_ADD = f"""
with fresh as (
    insert into okcm.usage_batch (tenant_id, batch_id) values (%(tenant)s, %(batch)s)
    on conflict do nothing returning 1
), used as (
    select minute, date_trunc('hour', minute, 'UTC') as hour, (minute at time zone 'UTC')::date as day,
           date_trunc('month', minute at time zone 'UTC')::date as month, service, operation,
           refusal, count, bytes, microseconds, latency::bigint[] as latency
    from unnest(%(minutes)s::timestamptz[], %(services)s::text[], %(operations)s::text[], %(refusals)s::text[],
                %(counts)s::bigint[], %(bytes)s::bigint[], %(microseconds)s::bigint[], %(latencies)s::text[])
        as used (minute, service, operation, refusal, count, bytes, microseconds, latency)
    where exists (select from fresh)
), added as (
    insert into okcm.usage_minute as kept (tenant_id, minute, service, operation, count, refused, bytes)
    select %(tenant)s, minute, service, operation, sum(count), coalesce(sum(count) filter (where refusal <> ''), 0),
           sum(bytes)
    from used group by minute, service, operation order by minute, service, operation
    on conflict (tenant_id, minute, service, operation) do update set count = kept.count + excluded.count,
        refused = kept.refused + excluded.refused, bytes = kept.bytes + excluded.bytes
), added_to_hour as (
    insert into okcm.usage_hour as kept
        (tenant_id, hour, service, operation, refusal, count, bytes, microseconds, latency, last_minute)
    select %(tenant)s, hour, service, operation, refusal, sum(count), sum(bytes), sum(microseconds),
           {_buckets("sum(latency[{0}])")}, max(minute)
    from used group by hour, service, operation, refusal order by hour, service, operation, refusal
    on conflict (tenant_id, hour, service, operation, refusal) do update set count = kept.count + excluded.count,
        bytes = kept.bytes + excluded.bytes, microseconds = kept.microseconds + excluded.microseconds,
        latency = {_buckets("kept.latency[{0}] + excluded.latency[{0}]")},
        last_minute = greatest(kept.last_minute, excluded.last_minute)
), added_to_day as (
    insert into okcm.usage_day as kept
        (tenant_id, day, service, operation, refusal, count, bytes, microseconds, latency)
    select %(tenant)s, day, service, operation, refusal, sum(count), sum(bytes), sum(microseconds),
           {_buckets("sum(latency[{0}])")}
    from used group by day, service, operation, refusal order by day, service, operation, refusal
    on conflict (tenant_id, day, service, operation, refusal) do update set count = kept.count + excluded.count,
        bytes = kept.bytes + excluded.bytes, microseconds = kept.microseconds + excluded.microseconds,
        latency = {_buckets("kept.latency[{0}] + excluded.latency[{0}]")}
), added_to_month as (
    insert into okcm.usage_month as kept
        (tenant_id, month, service, operation, refusal, count, bytes, microseconds, latency, first_day, last_day)
    select %(tenant)s, month, service, operation, refusal, sum(count), sum(bytes), sum(microseconds),
           {_buckets("sum(latency[{0}])")}, min(day), max(day)
    from used group by month, service, operation, refusal order by month, service, operation, refusal
    on conflict (tenant_id, month, service, operation, refusal) do update set count = kept.count + excluded.count,
        bytes = kept.bytes + excluded.bytes, microseconds = kept.microseconds + excluded.microseconds,
        latency = {_buckets("kept.latency[{0}] + excluded.latency[{0}]")},
        first_day = least(kept.first_day, excluded.first_day), last_day = greatest(kept.last_day, excluded.last_day)
)
select count(*) from fresh
"""  # noqa: S608 - constants

_DAYS = (
    "select day, service, operation, refusal, count, bytes, microseconds, latency from okcm.usage_day"
    " where day between %s and %s order by day, service, operation, refusal"
)
_HOURS = (
    "select hour, service, operation, refusal, count, bytes, microseconds, latency, last_minute from okcm.usage_hour"
    " where hour >= %s and hour < %s order by hour, service, operation, refusal"
)
_COURSE = f"""
select hour, coalesce(sum(count) filter (where refusal = ''), 0)::bigint,
       coalesce(sum(count) filter (where refusal <> ''), 0)::bigint,
       coalesce(sum(microseconds) filter (where refusal = ''), 0)::bigint,
       {_buckets("coalesce(sum(latency[{0}]) filter (where refusal = ''), 0)")}
from okcm.usage_hour where hour >= %s and service <> '' group by hour order by hour
"""  # noqa: S608 - constants
# Whole hours where they are complete, since a day of 50 services has a hundred thousand minutes. The first counted hour
# may be incomplete: an older release counted minutes and days only. The last condition is implied; the planner does not
# know the value of the one before it, and would read all hours.
_TOTALS = """
with whole as (
    select greatest(date_trunc('hour', %(since)s::timestamptz - interval '1 microsecond', 'UTC'),
                    coalesce((select min(hour) from okcm.usage_hour), 'infinity')) + interval '1 hour' as since
), uses as (
    select service, operation, count, refused, minute from okcm.usage_minute
    where minute >= %(since)s and minute < (select since from whole)
    union all
    select service, operation, count, case when refusal = '' then 0 else count end, last_minute from okcm.usage_hour
    where hour >= (select since from whole) and hour >= %(since)s
)
select service, operation, sum(count)::bigint, sum(refused)::bigint, max(minute) from uses
group by service, operation order by service, operation
"""
# Each bucket separately, and only for successful requests: unnesting the arrays, or adding those of rejected requests,
# takes three times as long. The rejected requests are read once for their sums and for their causes, which alone have a
# time.
_SUMS_AND_CAUSES = f"""
select null::timestamptz, service, operation, refusal, sum(count)::bigint, sum(bytes)::bigint,
       sum(microseconds)::bigint, {_buckets("sum(latency[{0}])")}, min({{first}}){{utc}}, max({{last}}){{utc}}
from {{table}} where {{within}} and refusal = '' group by service, operation, refusal
union all
select {{time}}{{utc}}, service, operation, refusal, sum(count)::bigint, sum(bytes)::bigint, 0,
       array_fill(0::bigint, array[{BUCKETS}]), min({{first}}){{utc}}, max({{last}}){{utc}}
from {{table}} where {{within}} and refusal <> ''
group by grouping sets ((service, operation, refusal), ({{time}}, refusal))
order by 1, 2, 3, 4
"""  # noqa: S608 - constants
_COUNTS = """
select {time}{utc}, {part}, sum(count)::bigint from {table}
where {within} and operation = any(%(operations)s) group by {time}, {part} order by {time}, {part}
"""
_LATENCIES = f"""
select {{time}}{{utc}}, sum(microseconds)::bigint, {_buckets("sum(latency[{0}])")} from {{table}}
where {{within}} and refusal = '' and operation = any(%(operations)s) group by {{time}} order by {{time}}
"""  # noqa: S608 - constants
# Days that are in no whole month have the time of theirs.
_MONTHS = """(
    select month, service, operation, refusal, count, bytes, microseconds, latency, first_day, last_day
    from okcm.usage_month where month >= %(whole)s and month < %(rest)s
    union all
    select date_trunc('month', day::timestamp)::date, service, operation, refusal, count, bytes, microseconds, latency,
           day, day
    from okcm.usage_day where (day >= %(first)s and day < %(whole)s) or (day >= %(rest)s and day <= %(last)s)
) as used"""

_DAY = timedelta(days=1)

UsagePart = Literal["service", "operation"]


class Days(NamedTuple):
    """Whole UTC days, including `first` and `last`."""

    first: date
    last: date


class Hours(NamedTuple):
    """The whole hours that begin in [since, until). They are kept for 90 days (core/retention.py)."""

    since: datetime
    until: datetime


class Months(NamedTuple):
    """Whole UTC days, including `first` and `last`, with the months as their times."""

    first: date
    last: date

    def whole(self, since: date, today: date) -> tuple[date, date]:
        """Return the first of the whole months from `since` on, and the day after them: the days between are whole.

        The current month is whole if `last` is not before today. Without a whole month both are the day after `last`.
        """
        begins = max(since, self.first if self.first.day == 1 else _next_month(self.first))
        ends = _next_month(self.last)
        if self.last < min(today, ends - _DAY):
            ends = self.last.replace(day=1)
        return (begins, ends) if begins < ends else (self.last + _DAY, self.last + _DAY)


UsageSpan = Days | Hours | Months


def _next_month(day: date) -> date:
    return (day.replace(day=1) + 31 * _DAY).replace(day=1)


def _of(span: UsageSpan, form: str, part: UsagePart = "service") -> bytes:
    """Return a statement for the counters of a span: of its months, its days or its hours."""
    # A day becomes a time after the aggregation: the conversion of each row takes as long as the sum.
    day_to_time = "::timestamp at time zone 'UTC'"
    match span:
        case Months():
            names = {"time": "month", "first": "first_day", "last": "last_day", "utc": day_to_time, "table": _MONTHS}
            within = "true"
        case Days():
            names = {"time": "day", "first": "day", "last": "day", "utc": day_to_time, "table": "okcm.usage_day"}
            within = "day between %(first)s and %(last)s"
        case Hours():
            names = {"time": "hour", "first": "hour", "last": "last_minute", "utc": "", "table": "okcm.usage_hour"}
            within = "hour >= %(first)s and hour < %(last)s"
    return form.format(within=within, part=part, **names).encode()


@dataclass(frozen=True, slots=True)
class UsesRow:
    """Uses in one minute with the same result: `refusal` is the error code, empty for success.

    `latency` covers the timed requests, which can be fewer than `count`.
    """

    minute: datetime
    service: str
    operation: CryptoOperation
    refusal: str
    count: int
    bytes: int
    latency: Latency = field(default_factory=Latency)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Uses of one service in one minute; `refused` of `count` were rejected."""

    minute: datetime
    service: str
    operation: CryptoOperation
    count: int
    refused: int
    bytes: int


@dataclass(frozen=True, slots=True)
class UsageTotalRow:
    """Uses of one service in a period; `last_minute` is its newest minute with a use."""

    service: str
    operation: CryptoOperation
    count: int
    refused: int
    last_minute: datetime


@dataclass(frozen=True, slots=True)
class UsageSum:
    """Uses of one service and operation with the same result, over one or more days; see `UsesRow`."""

    service: str
    operation: CryptoOperation
    refusal: str
    count: int
    bytes: int
    latency: Latency = field(default_factory=Latency)


class UsageDay(NamedTuple):
    """The sum of one UTC day."""

    day: date
    used: UsageSum


@dataclass(frozen=True, slots=True)
class UsageCount:
    """The uses of one `part` in the UTC month, day or hour that `begins`: a service, an operation or an error code."""

    begins: datetime
    part: str
    count: int

    @property
    def day(self) -> date:
        """The UTC day."""
        return self.begins.astimezone(UTC).date()


class SpanSum(NamedTuple):
    """The uses of one service and operation with the same result in a span.

    `first` is the beginning of the first day or hour with one. `last` is the newest minute with one for a span of
    hours, and the beginning of the last day for others.
    """

    used: UsageSum
    first: datetime
    last: datetime


class UsageLatency(NamedTuple):
    """Latencies of the successful uses in the UTC month, day or hour that `begins`."""

    begins: datetime
    latency: Latency


@dataclass(frozen=True, slots=True)
class AnsweredDay:
    """The number of successful uses of one service and operation on one UTC day."""

    service: str
    day: date
    operation: CryptoOperation
    count: int


class RecentUse(NamedTuple):
    """Answered and rejected uses since a minute, and the error codes, those most frequent in their hours first."""

    answered: int
    refused: int
    causes: tuple[str, ...]


class HourSum(NamedTuple):
    """All uses of one UTC hour; latencies cover answered ones only."""

    hour: datetime
    answered: int
    refused: int
    latency: Latency


class UsageHour(NamedTuple):
    """The sum of one UTC hour; `last_minute` is the newest minute with a use."""

    hour: datetime
    used: UsageSum
    last_minute: datetime


class Usage(Repository):
    """Counters per minute, UTC hour, UTC day and UTC month, all written by one statement.

    Periods in days include `first` and `last`.
    """

    def add(self, rows: Sequence[UsesRow], batch_id: str) -> bool:
        """Add to the counters of each minute and day; return False, without effect, if the batch was added before."""
        added = self.connection.execute(
            _ADD.encode(),
            {
                "tenant": self.tenant_id,
                "batch": batch_id,
                "minutes": [row.minute for row in rows],
                "services": [row.service for row in rows],
                "operations": [row.operation.value for row in rows],
                "refusals": [row.refusal for row in rows],
                "counts": [row.count for row in rows],
                "bytes": [row.bytes for row in rows],
                "microseconds": [row.latency.microseconds for row in rows],
                # As text: unnest would flatten an array of arrays to single numbers.
                "latencies": [f"{{{','.join(map(str, row.latency.counts))}}}" for row in rows],
            },
        ).fetchone()
        return added == (1,)

    def between(self, since: datetime, until: datetime) -> Sequence[UsageRow]:
        """Return the minutes in [since, until), oldest first."""
        rows = self.connection.execute(
            "select minute, service, operation, count, refused, bytes from okcm.usage_minute"
            " where minute >= %s and minute < %s order by minute, service, operation",
            [since, until],
        )
        return [
            UsageRow(minute, service, CryptoOperation(operation), *rest) for minute, service, operation, *rest in rows
        ]

    def totals(self, since: datetime) -> Sequence[UsageTotalRow]:
        """Return the sum of the minutes from `since` on for each service and operation."""
        rows = self.connection.execute(_TOTALS, {"since": since})
        return [UsageTotalRow(service, CryptoOperation(operation), *rest) for service, operation, *rest in rows]

    def recent(self, since: datetime) -> RecentUse:
        """Return the uses of the tenant's services in the minutes from `since` on.

        A rejected connection of a client that is no service of the tenant is an event of its audit stream and of the
        usage, but no fault: each isolation check makes some.
        """
        row = self.connection.execute(
            "select coalesce(sum(count), 0)::bigint, coalesce(sum(refused), 0)::bigint from okcm.usage_minute"
            " where minute >= %s and service <> ''",
            [since],
        ).fetchone()
        count, refused = row or (0, 0)
        if not refused:
            return RecentUse(count, 0, ())
        causes = self.connection.execute(
            "select refusal from okcm.usage_hour where hour >= date_trunc('hour', %(since)s::timestamptz, 'UTC')"
            " and refusal <> '' and service <> '' and last_minute >= %(since)s"
            " group by refusal order by sum(count) desc, refusal",
            {"since": since},
        )
        return RecentUse(count - refused, refused, tuple(code for (code,) in causes))

    def last_uses(self, since: datetime) -> Mapping[str, tuple[datetime | None, datetime | None]]:
        """Return the newest minute with an answered and with a rejected use since an hour, by service."""
        rows = self.connection.execute(
            "select service, max(last_minute) filter (where refusal = ''),"
            " max(last_minute) filter (where refusal <> '')"
            " from okcm.usage_hour where hour >= %s and service <> '' group by service order by service",
            [since],
        )
        return {service: (answered, refused) for service, answered, refused in rows}

    def hours(self, since: datetime, until: datetime) -> Sequence[UsageHour]:
        """Return all rows of the hours that begin in [since, until), oldest first."""
        rows = self.connection.execute(_HOURS, [since, until])
        return [UsageHour(hour, _sum(rest[:-1]), rest[-1]) for hour, *rest in rows]

    def course(self, since: datetime) -> Sequence[HourSum]:
        """Return the sums of the tenant's services for each hour from `since` on that has uses, oldest first.

        As in `recent`, rejected connections of other clients are no uses.
        """
        return [
            HourSum(hour, answered, refused, Latency(tuple(counts), microseconds))
            for hour, answered, refused, microseconds, counts in self.connection.execute(_COURSE.encode(), [since])
        ]

    def days(self, first: date, last: date) -> Sequence[UsageDay]:
        """Return all rows of a period, oldest first: for files, not for pages."""
        return [UsageDay(day, _sum(rest)) for day, *rest in self.connection.execute(_DAYS, [first, last])]

    def sums_and_causes(self, span: UsageSpan) -> tuple[Sequence[SpanSum], Sequence[UsageCount]]:
        """Return the sums of a span, and its rejected uses by error code in each month, day or hour that has one.

        The sums are by service, operation and refusal, in this order; their latencies cover successful requests only.
        """
        sums, causes = [], []
        for begins, *used, first, last in self._read(_SUMS_AND_CAUSES, span):
            if begins is None:
                sums.append(SpanSum(_sum(used), first, last))
            else:
                _, _, refusal, count, *_ = used
                causes.append(UsageCount(begins, refusal, count))
        return sums, causes

    def counts(self, span: UsageSpan, part: UsagePart, operations: Collection[CryptoOperation]) -> Sequence[UsageCount]:
        """Return the uses of each part in each month, day or hour by these operations, with rejected ones, in order."""
        return [UsageCount(*row) for row in self._read(_COUNTS, span, operations, part)]

    def latencies(self, span: UsageSpan, operations: Collection[CryptoOperation]) -> Sequence[UsageLatency]:
        """Return the latencies of successful uses by these operations in each month, day or hour with one, in order."""
        return [
            UsageLatency(begins, Latency(tuple(counts), microseconds))
            for begins, microseconds, counts in self._read(_LATENCIES, span, operations)
        ]

    def _read(
        self, form: str, span: UsageSpan, operations: Collection[CryptoOperation] = (), part: UsagePart = "service"
    ) -> Cursor[TupleRow]:
        first, last = (span.since, span.until) if isinstance(span, Hours) else (span.first, span.last)
        values: dict[str, Any] = {"first": first, "last": last, "operations": [one.value for one in operations]}
        if isinstance(span, Months):
            # Separately: with the bounds as values, the planner knows that few days are read. The tenant's first month
            # does not count, because retention may have begun to delete it.
            row = self.connection.execute(
                "select okcm.usage_months_since(), (select min(month) from okcm.usage_month),"
                " (statement_timestamp() at time zone 'UTC')::date"
            ).fetchone()
            since, oldest, today = row or (None, None, None)
            since = max(since, _next_month(oldest)) if oldest else date.max
            values["whole"], values["rest"] = span.whole(since, today)
        return self.connection.execute(_of(span, form, part), values)

    def answered(self, first: date, last: date, operations: Collection[CryptoOperation]) -> Sequence[AnsweredDay]:
        """Return the successful uses of the given operations, by service, day and operation, in this order."""
        rows = self.connection.execute(
            "select service, day, operation, sum(count)::bigint from okcm.usage_day"
            " where day between %s and %s and operation = any(%s) and refusal = ''"
            " group by service, day, operation order by service, day, operation",
            [first, last, [one.value for one in operations]],
        )
        return [AnsweredDay(service, day, CryptoOperation(operation), count) for service, day, operation, count in rows]

    def last_answered(self, operation: CryptoOperation) -> Mapping[str, date]:
        """Return the last day with a successful use of an operation, for each service that has one."""
        rows = self.connection.execute(
            "select service, max(day) from okcm.usage_day"
            " where operation = %s and refusal = '' and count > 0 group by service",
            [operation.value],
        )
        return {str(service): day for service, day in rows}

    def first_day(self) -> date | None:
        """Return the first day with a recorded use; None without any."""
        row = self.connection.execute("select min(day) from okcm.usage_day").fetchone()
        return None if row is None else row[0]


def _sum(row: Sequence[Any]) -> UsageSum:
    service, operation, refusal, count, size, microseconds, counts = row
    return UsageSum(service, CryptoOperation(operation), refusal, count, size, Latency(tuple(counts), microseconds))
