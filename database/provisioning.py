"""Steps of provisioning for the progress pages, events of the marketplace, and the route of a tenant.

Temporal, not these rows, determines which operation runs. An event is stored before the response, so that no accepted
event is lost.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from core.errors.platform import DatabaseRefused
from core.tenants.provisioning import NUMBERS, EventKind, MarketplaceEvent, Step, StepState
from database.repository import Repository

_NEWEST_OPERATION = "select operation_id from okcm.operation_step order by planned_at desc limit 1"
_STEPS = (
    "select number, step, state, attempts, started_at, finished_at, problem from okcm.operation_step"  # noqa: S608 - a constant
    f" where operation_id = ({_NEWEST_OPERATION}) order by number"
)
_OPERATIONS = """
    select operation_id, min(planned_at), count(*), count(*) filter (where state = 'done'), bool_or(state = 'failed'),
           (array_agg(problem order by number) filter (where problem is not null and state <> 'done'))[1]
    from okcm.operation_step group by operation_id order by 2 desc, 1 desc limit %s
"""


class StepRow(NamedTuple):
    """One step of the current or last operation. `attempts` counts failed attempts."""

    number: int
    step: Step
    state: StepState
    attempts: int
    started_at: datetime | None
    finished_at: datetime | None
    problem: str | None


class OperationRow(NamedTuple):
    """An operation with the number of its steps and of those that are done; `problem` is the code of the last error."""

    operation_id: str
    planned_at: datetime
    steps: int
    done: int
    failed: bool
    problem: str | None


class Steps(Repository):
    def plan(self, operation_id: str, steps: Sequence[Step]) -> None:
        """Store the steps of an operation as pending; a repeated call changes nothing."""
        self.connection.execute(
            "insert into okcm.operation_step (tenant_id, operation_id, step, number)"
            " select %s, %s, * from unnest(%s::text[], %s::integer[]) on conflict do nothing",
            [self.tenant_id, operation_id, [*map(str, steps)], [NUMBERS[step] for step in steps]],
        )

    def finish(self, operation_id: str, step: Step, started_at: datetime) -> None:
        """Mark a step as done; `started_at` is the start of this attempt. A repeated call keeps the first end."""
        # The two times come from two machines; `greatest` prevents an end before the start.
        self._change(
            "update okcm.operation_step set state = 'done', problem = null,"
            " started_at = %(at)s, finished_at = greatest(%(at)s, clock_timestamp())",
            {"at": started_at, "operation": operation_id, "step": step},
        )

    def retry(self, operation_id: str, step: Step, problem: str) -> None:
        """Count a failed attempt and store its error code; a completed step is unchanged."""
        self._change(
            "update okcm.operation_step set state = 'retrying', attempts = attempts + 1, problem = %(problem)s,"
            " finished_at = null",
            {"problem": problem, "operation": operation_id, "step": step},
        )

    def fail(self, operation_id: str, step: Step, problem: str) -> None:
        self._change(
            "update okcm.operation_step set state = 'failed', attempts = attempts + 1, problem = %(problem)s,"
            " finished_at = clock_timestamp()",
            {"problem": problem, "operation": operation_id, "step": step},
        )

    def newest_operation(self) -> str | None:
        """Return the operation id of the newest planned operation."""
        found = self.connection.execute(_NEWEST_OPERATION).fetchone()
        return None if found is None else found[0]

    def latest(self) -> Sequence[StepRow]:
        """Return the steps of the newest operation in order."""
        rows = self.connection.execute(_STEPS)
        return [StepRow(number, Step(step), StepState(state), *rest) for number, step, state, *rest in rows]

    def operations(self, limit: int) -> Sequence[OperationRow]:
        """Return the newest operations, the newest first."""
        rows = self.connection.execute(_OPERATIONS, [limit])
        return [OperationRow(*row) for row in rows]

    def _change(self, update: str, values: dict[str, object]) -> None:
        """Run `update` on one step unless it is done; raise DatabaseRefused if it was never planned."""
        one = "operation_id = %(operation)s and step = %(step)s"
        if self.connection.execute(f"{update} where {one} and state <> 'done'", values).rowcount == 1:
            return
        planned = "select from okcm.operation_step where "
        if self.connection.execute(planned + one, values).fetchone() is None:
            raise DatabaseRefused("the step was not planned", "plan the steps of the operation first")


class Inbox(Repository):
    def accept(self, event: MarketplaceEvent) -> bool:
        """Store an event; return False if (tenant, event id) is stored already."""
        stored = self.connection.execute(
            "insert into okcm.marketplace_event (tenant_id, event_id, kind, organization, region, occurred_at)"
            " values (%s, %s, %s, %s, %s, %s) on conflict do nothing",
            [event.tenant_id, event.event_id, event.kind, event.organization, event.region, event.timestamp],
        )
        return stored.rowcount == 1

    def accept_discovery(self, event: MarketplaceEvent) -> bool:
        """Store an event that reports a discovered service; otherwise as `accept`."""
        stored = self.connection.execute(
            "insert into okcm.marketplace_event"
            " (tenant_id, event_id, kind, organization, region, occurred_at, service)"
            " values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
            [
                event.tenant_id,
                event.event_id,
                event.kind,
                event.organization,
                event.region,
                event.timestamp,
                event.service,
            ],
        )
        return stored.rowcount == 1

    def discovered(self, event_id: str) -> str | None:
        """Return the service of a stored event."""
        found = self.connection.execute(
            "select service from okcm.marketplace_event where event_id = %s", [event_id]
        ).fetchone()
        return None if found is None else found[0]

    def unstarted_changes(self) -> Sequence[tuple[str, EventKind]]:
        """Return (event id, kind) of the events that enable or disable the tenant and that no workflow has received.

        They are in the order in which they were accepted.
        """
        rows = self.connection.execute(
            "select event_id, kind from okcm.marketplace_event where started_at is null"
            " and kind in ('service_enabled', 'service_disabled') order by accepted_at, event_id"
        )
        return [(event_id, EventKind(kind)) for event_id, kind in rows]

    def mark_started(self, event_id: str) -> None:
        """Record that the workflow received the event, so that the sweep skips it."""
        self.connection.execute(
            "update okcm.marketplace_event set started_at = clock_timestamp()"
            " where event_id = %s and started_at is null",
            [event_id],
        )


class RouteRow(NamedTuple):
    """A tenant's L2 key and the SHA-256 (hex) of the CA certificates that may issue its client certificates.

    `former_issuer_fingerprint` is that of the former CA, until its certificates have expired.
    """

    l2_key: str
    issuer_fingerprint: str
    region: str
    former_issuer_fingerprint: str | None = None


class Routes(Repository):
    def publish(self, route: RouteRow) -> None:
        """Create or replace the tenant's route."""
        # A repeated step writes nothing, so `published_at` changes only with the route.
        self.connection.execute(
            "insert into okcm.route as kept (tenant_id, l2_key, issuer_fingerprint, region,"
            " former_issuer_fingerprint) values (%s, %s, %s, %s, %s)"
            " on conflict (tenant_id) do update set l2_key = excluded.l2_key,"
            " issuer_fingerprint = excluded.issuer_fingerprint, region = excluded.region,"
            " former_issuer_fingerprint = excluded.former_issuer_fingerprint, published_at = now()"
            " where (kept.l2_key, kept.issuer_fingerprint, kept.region, kept.former_issuer_fingerprint)"
            " is distinct from"
            " (excluded.l2_key, excluded.issuer_fingerprint, excluded.region, excluded.former_issuer_fingerprint)",
            [
                self.tenant_id,
                route.l2_key,
                route.issuer_fingerprint,
                route.region,
                route.former_issuer_fingerprint,
            ],
        )

    def withdraw(self) -> bool:
        """Remove the route; return False if none existed."""
        return self.connection.execute("delete from okcm.route").rowcount == 1

    def get(self) -> RouteRow | None:
        found = self.connection.execute(
            "select l2_key, issuer_fingerprint, region, former_issuer_fingerprint from okcm.route"
        ).fetchone()
        return None if found is None else RouteRow(*found)
