"""How far an operation is, for the pages that show progress; the truth about what runs is Temporal's.

Events as the marketplace sent them: stored before they are answered, so that nothing accepted is ever lost.

The tenant's one route, by which the crypto service finds its keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection
from psycopg.rows import TupleRow

from core.errors.platform import DatabaseRefused
from core.tenants.provisioning import NUMBERS, MarketplaceEvent, Step, StepState


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step of the running or last operation. `attempts` counts tries that failed so far."""

    number: int
    step: Step
    state: StepState
    attempts: int
    started_at: datetime | None
    finished_at: datetime | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class Steps:
    connection: Connection[TupleRow]
    tenant_id: str

    def plan(self, operation_id: str, steps: Sequence[Step]) -> None:
        """Write the steps of an operation as pending; a second call changes nothing."""
        self.connection.execute(
            "insert into okcm.operation_step (tenant_id, operation_id, step, number)"
            " select %s, %s, * from unnest(%s::text[], %s::integer[]) on conflict do nothing",
            [self.tenant_id, operation_id, [*map(str, steps)], [NUMBERS[step] for step in steps]],
        )

    def finish(self, operation_id: str, step: Step, started_at: datetime) -> None:
        # The two clocks are two machines'; a step never ends before it began.
        """Mark a step done; `started_at` is when this attempt began. Repeating it keeps the first finish."""
        self._change(
            "update okcm.operation_step set state = 'done', problem = null,"
            " started_at = %(at)s, finished_at = greatest(%(at)s, clock_timestamp())",
            {"at": started_at, "operation": operation_id, "step": step},
        )

    def retry(self, operation_id: str, step: Step, problem: str) -> None:
        """Count a failed attempt and keep why (an error code); a step that is done stays done."""
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

    def latest(self) -> Sequence[StepRow]:
        """Return the steps of the newest operation in order."""
        rows = self.connection.execute(
            "select number, step, state, attempts, started_at, finished_at, problem from okcm.operation_step"
            " where operation_id = (select operation_id from okcm.operation_step order by planned_at desc limit 1)"
            " order by number"
        )
        return [StepRow(number, Step(step), StepState(state), *rest) for number, step, state, *rest in rows]

    def _change(self, update: str, values: dict[str, object]) -> None:
        """Run `update` on one step unless it is done; a step that was never planned is a mistake of ours."""
        one = "operation_id = %(operation)s and step = %(step)s"
        if self.connection.execute(f"{update} where {one} and state <> 'done'", values).rowcount == 1:
            return
        planned = "select from okcm.operation_step where "
        if self.connection.execute(planned + one, values).fetchone() is None:
            raise DatabaseRefused("the step was not planned", "plan the operation's steps before changing one")


@dataclass(frozen=True, slots=True)
class Inbox:
    connection: Connection[TupleRow]
    tenant_id: str

    def accept(self, event: MarketplaceEvent) -> bool:
        """Store an event; False when (tenant, event id) was stored before."""
        stored = self.connection.execute(
            "insert into okcm.marketplace_event (tenant_id, event_id, kind, organization, region, occurred_at)"
            " values (%s, %s, %s, %s, %s, %s) on conflict do nothing",
            [event.tenant_id, event.event_id, event.kind, event.organization, event.region, event.timestamp],
        )
        return stored.rowcount == 1

    def accept_discovery(self, event: MarketplaceEvent) -> bool:
        """Store an event that says that a service was discovered; as `accept`."""
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
        """Return the service that a stored event is about."""
        found = self.connection.execute(
            "select service from okcm.marketplace_event where event_id = %s", [event_id]
        ).fetchone()
        return None if found is None else found[0]

    def mark_started(self, event_id: str) -> None:
        """Record that the workflow has the event, so that the sweep leaves it alone."""
        self.connection.execute(
            "update okcm.marketplace_event set started_at = clock_timestamp()"
            " where event_id = %s and started_at is null",
            [event_id],
        )


@dataclass(frozen=True, slots=True)
class RouteRow:
    """Where the crypto service finds a tenant's keys, and by which issuers' certificates (SHA-256 of the CA, hex).

    `former_issuer_fingerprint` is that of the former authority, for as long as its certificates last.
    """

    l2_key: str
    issuer_fingerprint: str
    region: str
    former_issuer_fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class Routes:
    connection: Connection[TupleRow]
    tenant_id: str

    def publish(self, route: RouteRow) -> None:
        # A repeated step writes nothing, so a reader that watches `published_at` sees only real changes.
        """Create or replace the tenant's one route."""
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
        """Remove the route; False when there was none."""
        return self.connection.execute("delete from okcm.route").rowcount == 1

    def get(self) -> RouteRow | None:
        found = self.connection.execute(
            "select l2_key, issuer_fingerprint, region, former_issuer_fingerprint from okcm.route"
        ).fetchone()
        return None if found is None else RouteRow(*found)
