"""Agents, their heartbeats, and the figures that services report about field encryption and backfills."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import NamedTuple

from database.repository import Repository
from openkcm.contract.protected_fields import Backfill
from openkcm.contract.services import OTHER_PLACES

_INSTANCES = 50
"""Agents that are kept per service."""
_PLACES = 1000
"""Places (tables, collections) that are counted separately per service and day."""

# Fixed order, so that two processes with reports of the same agents do not deadlock.
_UPSERT_HEARTBEATS = """
insert into okcm.agent as kept (tenant_id, service, instance, agent_version, certificate_not_after, problem,
                                first_contact_at, last_contact_at)
select %(tenant)s, reported.service, instance, agent_version, not_after, problem, at, at
from unnest(%(services)s::text[], %(instances)s::text[], %(versions)s::text[], %(not_after)s::timestamptz[],
            %(problems)s::text[], %(at)s::timestamptz[])
    as reported (service, instance, agent_version, not_after, problem, at)
join okcm.service on service.tenant_id = %(tenant)s and service.service = reported.service
order by reported.service, instance
on conflict (tenant_id, service, instance) do update set agent_version = excluded.agent_version,
    certificate_not_after = excluded.certificate_not_after, problem = excluded.problem,
    last_contact_at = excluded.last_contact_at
where kept.last_contact_at < excluded.last_contact_at
"""
_DELETE_OLD_AGENTS = f"""
with ranked as (
    select service, instance, last_contact_at,
           row_number() over (partition by service order by last_contact_at desc, instance) as place
    from okcm.agent where service = any(%(services)s::text[])
)
delete from okcm.agent a using ranked r where a.service = r.service and a.instance = r.instance
    and (r.place > {_INSTANCES} or r.last_contact_at < now() - interval '30 days')
"""  # noqa: S608 - a constant
_LARGEST = "9000000000000000000"
_SUMS = ("operations", "bytes", "microseconds", "requests", "request_microseconds")
# Sums are capped below the column's maximum: a figure that one customer reports must not fail the batch of all tenants.
_ADD_USES = f"""
with reported as (
    select reported.* from unnest(%(days)s::date[], %(services)s::text[], %(places)s::text[], %(operations)s::bigint[],
                %(bytes)s::bigint[], %(microseconds)s::bigint[], %(requests)s::bigint[],
                %(request_microseconds)s::bigint[])
        as reported (day, service, place, {", ".join(_SUMS)})
    join okcm.service on service.tenant_id = %(tenant)s and service.service = reported.service
), full_days as (
    select day, service from okcm.protection_use
    where day = any(%(days)s::date[]) and service = any(%(services)s::text[])
    group by day, service having count(*) >= {_PLACES}
), placed as (
    select day, service,
        case when exists (select from full_days f where (f.day, f.service) = (reported.day, reported.service))
            and not exists (select from okcm.protection_use k
                            where (k.day, k.service, k.place) = (reported.day, reported.service, reported.place))
        then %(others)s else place end as place, {", ".join(_SUMS)}
    from reported
)
insert into okcm.protection_use as kept (tenant_id, day, service, place, {", ".join(_SUMS)})
select %(tenant)s, day, service, place, {", ".join(f"least(sum({one}), {_LARGEST})::bigint" for one in _SUMS)}
from placed group by day, service, place order by day, service, place
on conflict (tenant_id, day, service, place) do update set
    {", ".join(f"{one} = least(kept.{one}::numeric + excluded.{one}, {_LARGEST})::bigint" for one in _SUMS)}
"""  # noqa: S608 - constants
_UPSERT_BACKFILLS = """
insert into okcm.backfill as kept (tenant_id, service, place, done, remaining, state, reported_at)
select %(tenant)s, reported.service, place, done, remaining, reported.state, at
from unnest(%(services)s::text[], %(places)s::text[], %(done)s::bigint[], %(remaining)s::bigint[],
            %(states)s::text[], %(at)s::timestamptz[]) as reported (service, place, done, remaining, state, at)
join okcm.service on service.tenant_id = %(tenant)s and service.service = reported.service
order by reported.service, place
on conflict (tenant_id, service, place) do update set done = excluded.done, remaining = excluded.remaining,
    state = excluded.state, reported_at = excluded.reported_at
where kept.reported_at < excluded.reported_at
"""
_DELETE_OLD_BACKFILLS = f"""
with ranked as (
    select service, place, row_number() over (partition by service order by reported_at desc, place) as rank
    from okcm.backfill where service = any(%(services)s::text[])
)
delete from okcm.backfill b using ranked r where b.service = r.service and b.place = r.place and r.rank > {_PLACES}
"""  # noqa: S608 - a constant


class HeartbeatRow(NamedTuple):
    """The last heartbeat of an agent. `problem` is an error code or None."""

    service: str
    instance: str
    agent_version: str
    certificate_not_after: datetime
    problem: str | None
    last_contact_at: datetime


class ProtectionUseRow(NamedTuple):
    """Field encryption by a service's programs at one place on one UTC day, as the service reports it."""

    day: date
    service: str
    place: str
    operations: int
    bytes: int
    microseconds: int
    requests: int
    request_microseconds: int


class BackfillRow(NamedTuple):
    """Progress of a service's backfill at one place, as the service reports it; in values, `done` in this round."""

    service: str
    place: str
    done: int
    remaining: int
    state: Backfill
    reported_at: datetime


class Agents(Repository):
    def note(self, contacts: Sequence[HeartbeatRow], uses: Sequence[ProtectionUseRow]) -> None:
        """Update agents with newer heartbeats and add uses to their sums.

        Both are bounded: the agents of a service with the newest heartbeats are kept, and places above the limit of a
        day are counted together. Reports for a service that is not recorded are ignored.
        """
        if contacts:
            self.connection.execute(
                _UPSERT_HEARTBEATS,
                {
                    "tenant": self.tenant_id,
                    "services": [row.service for row in contacts],
                    "instances": [row.instance for row in contacts],
                    "versions": [row.agent_version for row in contacts],
                    "not_after": [row.certificate_not_after for row in contacts],
                    "problems": [row.problem for row in contacts],
                    "at": [row.last_contact_at for row in contacts],
                },
            )
            self.connection.execute(
                _DELETE_OLD_AGENTS.encode(), {"services": sorted({row.service for row in contacts})}
            )
        if uses:
            self.connection.execute(
                _ADD_USES.encode(),
                {
                    "tenant": self.tenant_id,
                    "others": OTHER_PLACES,
                    "days": [row.day for row in uses],
                    "services": [row.service for row in uses],
                    "places": [row.place for row in uses],
                    "operations": [row.operations for row in uses],
                    "bytes": [row.bytes for row in uses],
                    "microseconds": [row.microseconds for row in uses],
                    "requests": [row.requests for row in uses],
                    "request_microseconds": [row.request_microseconds for row in uses],
                },
            )

    def all(self) -> Sequence[HeartbeatRow]:
        """Return the agents by service, newest heartbeat first."""
        rows = self.connection.execute(
            "select service, instance, agent_version, certificate_not_after, problem, last_contact_at"
            " from okcm.agent order by service, last_contact_at desc, instance"
        )
        return [HeartbeatRow(*row) for row in rows]

    def uses(self, first: date, last: date) -> Sequence[ProtectionUseRow]:
        """Return the sums of the days from `first` to `last`, inclusive, by day, service and place."""
        rows = self.connection.execute(
            "select day, service, place, operations, bytes, microseconds, requests, request_microseconds"
            " from okcm.protection_use where day between %s and %s order by day, service, place",
            [first, last],
        )
        return [ProtectionUseRow(*row) for row in rows]

    def note_backfills(self, backfills: Sequence[BackfillRow]) -> None:
        """Store newer progress per place; keeps the newest 1000 places of a service and ignores unknown services."""
        self.connection.execute(
            _UPSERT_BACKFILLS,
            {
                "tenant": self.tenant_id,
                "services": [row.service for row in backfills],
                "places": [row.place for row in backfills],
                "done": [row.done for row in backfills],
                "remaining": [row.remaining for row in backfills],
                "states": [row.state.value for row in backfills],
                "at": [row.reported_at for row in backfills],
            },
        )
        services = sorted({row.service for row in backfills})
        self.connection.execute(_DELETE_OLD_BACKFILLS.encode(), {"services": services})

    def backfills(self) -> Sequence[BackfillRow]:
        """Return the progress of the backfills, by service and place."""
        rows = self.connection.execute(
            "select service, place, done, remaining, state, reported_at from okcm.backfill order by service, place"
        )
        return [BackfillRow(service, place, done, left, Backfill(s), at) for service, place, done, left, s, at in rows]

    def newest(self, services: Sequence[str]) -> Mapping[str, str]:
        """Return the serial of each service's newest certificate that is not revoked."""
        rows = self.connection.execute(
            "select distinct on (service) service, serial from okcm.service_certificate"
            " where service = any(%s) and revoked_at is null order by service, generation desc",
            [list(services)],
        )
        return {str(service): str(serial) for service, serial in rows}
