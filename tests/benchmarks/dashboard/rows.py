"""Sample data for a database after long use: thousands of tenants, a million audit events in one, 50 services.

The product's processes cannot write past data: they insert rows one transaction at a time, with the present time. This
module writes in bulk as the administrator, and only here. The result equals the product's: every state with the steps
that lead to it, and an audit stream with a valid chain.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg

from core.retention import DELETED
from core.services import CryptoOperation
from core.tenants.lifecycle import State
from core.tenants.provisioning import Step, StepState
from core.usage import BUCKETS
from openkcm.contract.audit_events import GENESIS, UPSTREAM_NAME, AuditName, link
from openkcm.contract.services import ServiceKind

REGIONS = ("eu-west-1", "eu-central-1", "us-east-1")
SERVICES = (
    ("orders", "mongodb"),
    ("customer-records", "mongodb"),
    ("ledger", "postgresql"),
    ("payments", "microservice"),
    ("reporting", "microservice"),
)
"""The services of the audit records."""
_KINDS = tuple(ServiceKind)
MORE_SERVICES = tuple((f"service-{number:02}", _KINDS[number % len(_KINDS)]) for number in range(len(SERVICES), 50))
"""The other services of the tenant."""

# Per thousand tenants; the rest is active.
_STATES = {
    State.REQUESTED: 2,
    State.PROVISIONING: 4,
    State.FAILED: 12,
    State.SUSPENDED: 20,
    State.LOCKED: 8,
    State.LEAVING: 10,
    State.OFFBOARDED: 15,
}
_PROMISE = timedelta(minutes=3)
_PEOPLE = ("ada@acme.example", "grace@acme.example", "alan@acme.example")
_USED = "unnest(%(services)s::text[]) as service, unnest(array['encrypt', 'decrypt']) as operation"
_SUMS = ", ".join(f"sum(latency[{number}])" for number in range(1, BUCKETS + 1))
_ADDRESSES = tuple(f"10.20.{n // 8}.{n % 8 + 10}" for n in range(64))


@dataclass(frozen=True)
class Amounts:
    """The amounts of sample data."""

    tenants: int = 10_000
    events: int = 1_000_000
    usage_days: int = 365


QUICK = Amounts(tenants=300, events=5_000, usage_days=10)


def fill_tenants(connection: psycopg.Connection, number: int, now: datetime, chance: random.Random) -> None:
    """Add tenants of every state, the oldest one year old, each with the steps of its provisioning."""
    tenants = [_tenant(n, now, chance) for n in range(1, number + 1)]
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "copy okcm.tenant (tenant_id, organization, region, state, requested_at, ready_at, promise_broken_at)"
            " from stdin"
        ) as copy,
    ):
        for tenant in tenants:
            copy.write_row(tenant)
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "copy okcm.operation_step (tenant_id, operation_id, step, number, state, attempts, planned_at, started_at,"
            " finished_at, problem) from stdin"
        ) as copy,
    ):
        for tenant_id, _, _, state, requested_at, ready_at, _ in tenants:
            for row in _steps(str(tenant_id), State(str(state)), requested_at, ready_at, chance):
                copy.write_row(row)
    # As the daily assessments leave them; three in a thousand are late, and one found a breach.
    connection.execute(
        "update okcm.isolation_assessment as a set complete_at = at, breached = n %% 1000 = 0,"
        " breached_at = case when n %% 1000 = 0 then at end,"
        " due_at = at + case when n %% 1000 in (1, 2, 3) then interval '12 hours' else interval '1 day' end"
        " from (select tenant_id, n, %(now)s - interval '1 day' + (n %% 500) * interval '2 minutes' as at from ("
        "   select tenant_id, row_number() over (order by tenant_id) as n from okcm.isolation_assessment) as numbered"
        " ) as made where made.tenant_id = a.tenant_id",
        {"now": now},
    )


def _tenant(number: int, now: datetime, chance: random.Random) -> tuple[object, ...]:
    place = chance.randrange(1000)
    state = State.ACTIVE
    for other, share in _STATES.items():
        place -= share
        if place < 0:
            state = other
            break
    age = timedelta(seconds=chance.uniform(600, 365 * 86_400))
    if state in {State.REQUESTED, State.PROVISIONING}:
        age = timedelta(seconds=chance.expovariate(1 / 60))
    requested_at = now - age
    # Most are ready after seconds; the operations page shows the tail of such a distribution.
    took = timedelta(seconds=chance.lognormvariate(1.6, 0.9))
    has_been_ready = state not in {State.REQUESTED, State.PROVISIONING, State.FAILED}
    late = took > _PROMISE if has_been_ready else state is not State.REQUESTED and age > _PROMISE
    return (
        f"customer-{number:05}",
        f"Customer {number} {chance.choice(('GmbH', 'Ltd', 'Inc', 'AG', 'SA'))}",
        chance.choice(REGIONS),
        state.value,
        requested_at,
        requested_at + took if has_been_ready else None,
        requested_at + _PROMISE if late else None,
    )


def _steps(
    tenant_id: str, state: State, requested_at: object, ready_at: object, chance: random.Random
) -> Iterator[tuple[object, ...]]:
    if state is State.REQUESTED or not isinstance(requested_at, datetime):
        return
    ends = ready_at if isinstance(ready_at, datetime) else requested_at + timedelta(seconds=4)
    reached = len(Step) if isinstance(ready_at, datetime) else chance.randrange(1, len(Step))
    part = (ends - requested_at) / len(Step)
    for number, step in enumerate(Step, start=1):
        begins, done = requested_at + part * (number - 1), number < reached or reached == len(Step)
        is_current = number == reached and not done
        kind = StepState.DONE if done else StepState.PENDING
        if is_current:
            kind = StepState.FAILED if state is State.FAILED else StepState.RETRYING
        yield (
            *(tenant_id, f"tenant/{tenant_id}/provision", step.value, number, kind.value, 3 if is_current else 0),
            *(requested_at, begins if done or is_current else None, begins + part if done else None),
            "key_unavailable" if is_current else None,
        )


def fill_audit(
    connection: psycopg.Connection, tenant_id: str, number: int, now: datetime, chance: random.Random
) -> None:
    """Start a tenant's stream with `number` events of the last 90 days; the tenant must have no events yet."""
    seq, chain_hash = 0, GENESIS
    with (
        connection.cursor() as cursor,
        cursor.copy("copy okcm.audit_event (tenant_id, seq, event_id, record, chain_hash) from stdin") as copy,
    ):
        for seq, event in enumerate(_events(tenant_id, number, now, chance), start=1):
            record = _record(event)
            chain_hash = link(chain_hash, record)
            copy.write_row((tenant_id, seq, event["event_id"], record, chain_hash))
    connection.execute(
        "insert into okcm.audit_head (tenant_id, seq, chain_hash, moved) values (%s, %s, %s, true)",
        [tenant_id, seq, chain_hash],
    )
    # As okcm.audit_append_all counts them.
    connection.execute(
        "insert into okcm.audit_hour"
        " select tenant_id, date_trunc('hour', (event ->> 'time')::timestamptz, 'UTC'), event ->> 'name',"
        " okcm.audit_service(event), coalesce(event -> 'details' ->> 'operation', ''), event ->> 'outcome', count(*),"
        " min(seq), max(seq) from (select tenant_id, seq, record::jsonb as event from okcm.audit_event"
        " where tenant_id = %s) as e group by 1, 2, 3, 4, 5, 6",
        [tenant_id],
    )


def _record(event: dict[str, object]) -> str:
    """Return the text as PostgreSQL formats a jsonb object: keys by length, then by their bytes."""
    ordered = {key: event[key] for key in sorted(event, key=lambda key: (len(key), key))}
    return json.dumps(ordered, ensure_ascii=False)


def _events(tenant_id: str, number: int, now: datetime, chance: random.Random) -> Iterator[dict[str, object]]:
    names = (AuditName.CRYPTO_USED, AuditName.CRYPTO_KEY_RELEASED, AuditName.CRYPTO_KEY_CHANGED)
    rare = (AuditName.SIGNED_IN, AuditName.SIGNED_OUT, AuditName.EXPORTED, AuditName.SERVICE_CERTIFICATE_ISSUED)
    pause = timedelta(days=90) / number
    for seq in range(1, number + 1):
        at = now - timedelta(days=90) + pause * seq
        throw = chance.random()
        if throw < 0.985:
            service = chance.choice(SERVICES)[0]
            yield _use(tenant_id, seq, at, chance.choices(names, (70, 27, 3))[0], service, chance)
        elif throw < 0.99:
            yield _use(tenant_id, seq, at, AuditName.CRYPTO_REFUSED, chance.choice(SERVICES)[0], chance)
        else:
            yield _other(tenant_id, seq, at, chance.choice(rare), chance)


def _use(  # noqa: PLR0917 - the fields of an event
    tenant_id: str, seq: int, at: datetime, name: AuditName, service: str, chance: random.Random
) -> dict[str, object]:
    refused = name is AuditName.CRYPTO_REFUSED
    operation = CryptoOperation.GET if name is AuditName.CRYPTO_KEY_RELEASED else chance.choice(list(CryptoOperation))
    details = {"operation": operation.value, "at": at.isoformat(timespec="milliseconds")}
    if refused:
        details["code"] = chance.choice(("object_not_found", "client_not_authorized", "key_not_usable"))
    elif name is AuditName.CRYPTO_USED:
        details |= {"count": str(chance.randrange(2, 4000)), "bytes": str(chance.randrange(100, 10_000_000))}
    return _event(
        tenant_id,
        seq,
        at,
        name,
        actor=service,
        actor_kind="service",
        subject=service,
        outcome="refused" if refused else "success",
        source=chance.choice(_ADDRESSES),
        correlation_id=f"{chance.getrandbits(64):016x}",
        details=details,
    )


def _other(tenant_id: str, seq: int, at: datetime, name: AuditName, chance: random.Random) -> dict[str, object]:
    by_person = name is not AuditName.SERVICE_CERTIFICATE_ISSUED
    person, service = chance.choice(_PEOPLE), chance.choice(SERVICES)[0]
    return _event(
        tenant_id,
        seq,
        at,
        name,
        actor=person if by_person else "worker",
        actor_kind="human" if by_person else "system",
        subject="dashboard" if by_person else service,
        outcome="success",
        source=chance.choice(_ADDRESSES) if by_person else "",
        correlation_id=f"dashboard/{seq}" if by_person else f"tenant/{tenant_id}/service/{service}",
        details={},
    )


def _event(tenant_id: str, seq: int, at: datetime, name: AuditName, **fields: object) -> dict[str, object]:
    event = {
        "seq": seq,
        "time": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "tenant_id": tenant_id,
        "event_id": f"generated/{seq}",
        "name": name.value,
        **fields,
    }
    upstream = UPSTREAM_NAME.get(name)
    return event if upstream is None else event | {"upstream_event_type": upstream}


def fill_usage(connection: psycopg.Connection, tenant_id: str, days: int, now: datetime) -> None:
    """Add what the product keeps: the minutes, hours, days and months of its retention, at most `days` of them.

    Every service has uses in every minute of the last two days, in every hour and on every day. All months are whole,
    as in an installation that is older.
    """
    names = [name for name, _ in (*SERVICES, *MORE_SERVICES)]
    kept = min(days, DELETED["usage_hour"].days)
    values = {
        "tenant": tenant_id,
        "services": names,
        "minute": now - timedelta(days=min(days, 2)),
        "hour": now - timedelta(days=kept),
        "day": now - timedelta(days=days),
        "now": now.astimezone(UTC),
    }
    connection.execute(
        "insert into okcm.usage_minute (tenant_id, minute, service, operation, count, refused, bytes)"
        " select %(tenant)s, minute, service, operation, used, case when used %% 97 = 0 then 1 else 0 end, used * 512"
        " from (select date_trunc('minute', at) as minute, service, operation, 1 + (random() * 3000)::bigint as used"
        f"  from generate_series(%(minute)s::timestamptz, %(now)s, '1 minute') as at, {_USED}) as made"
        " on conflict do nothing",
        values,
    )
    for table, time, step in (("usage_hour", "hour", "1 hour"), ("usage_day", "day", "1 day")):
        last = ", last_minute" if table == "usage_hour" else ""
        begins = f"date_trunc('{time}', at, 'UTC')" if last else "(at at time zone 'UTC')::date"
        connection.execute(
            f"insert into okcm.{table}"
            f" (tenant_id, {time}, service, operation, refusal, count, bytes, microseconds, latency{last})"
            " select %(tenant)s, begins, service, operation, refusal, used, used * 512, 60 * used,"
            # All uses are in one bucket of the latencies.
            "  (select array_agg(case when n = 5 then used else 0 end order by n) from generate_series(1, 40) as n)"
            f"  {', begins' if last else ''}"
            f" from (select {begins} as begins, service, operation, refusal,"
            "   case when refusal = '' then 1 + (random() * 90000)::bigint else 1 + (random() * 90)::bigint end as used"
            f"  from generate_series(%({time})s::timestamptz, %(now)s, '{step}') as at, {_USED},"
            "  unnest(array['', 'ciphertext_refused']) as refusal) as made on conflict do nothing",
            values,
        )
    connection.execute(
        "insert into okcm.usage_month (tenant_id, month, service, operation, refusal, count, bytes, microseconds,"
        " latency, first_day, last_day) select tenant_id, date_trunc('month', day)::date, service, operation, refusal,"
        f" sum(count), sum(bytes), sum(microseconds), array[{_SUMS}], min(day), max(day)"
        " from okcm.usage_day where tenant_id = %(tenant)s group by 1, 2, 3, 4, 5",
        values,
    )
    connection.execute(
        "update okcm.schema_migration set applied_at = applied_at - make_interval(days => %s)", [days + 62]
    )
