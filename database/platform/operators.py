"""What operators may ask across tenants: how far each is and where it is stuck. Imports no psycopg.

The operators' questions across tenants, asked of the functions in migrations/*_operations.sql.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.isolation import LATE
from core.tenants.lifecycle import State
from core.tenants.provisioning import Step, StepState
from database.connection.database import Database
from database.isolation import FailedAssessment
from database.platform.scheduled import PlatformQueries
from database.postgres.access import PLATFORM
from database.tenants import COLUMNS, TenantRow, tenant_row


@dataclass(frozen=True, slots=True)
class TenantCount:
    """How many tenants of a region are in a state; `late` of them broke the promise, are about to, or failed."""

    region: str
    state: State
    tenants: int
    late: int


@dataclass(frozen=True, slots=True)
class TenantFilter:
    """Which tenants to list; None is any. `search` is the beginning of an id or a part of an organization's name."""

    state: State | None = None
    region: str | None = None
    late: bool = False
    search: str | None = None


@dataclass(frozen=True, slots=True)
class StuckTenant:
    """A tenant that failed, or is not ready after the promised time. `step` is None while it has no steps yet."""

    tenant_id: str
    organization: str
    region: str
    state: State
    requested_at: datetime
    step: Step | None
    step_state: StepState | None
    attempts: int
    problem: str | None


@dataclass(frozen=True, slots=True)
class ProvisioningTime:
    """When a tenant was asked for and when it was ready."""

    requested_at: datetime
    ready_at: datetime

    @property
    def seconds(self) -> float:
        return (self.ready_at - self.requested_at).total_seconds()


_PAGE = f"select {COLUMNS} from okcm.page_of_tenants(%s, %s, %s, %s, %s, %s, %s)"  # noqa: S608 - a constant


class Operations:
    """Questions that span tenants, for the operators' desk; the platform's own tenants are in none of the answers.

    Raises, all of them: DatabaseUnavailable, DatabaseRefused. They do not nest with a tenant's transaction.
    """

    def __init__(self, database: Database, promise_seconds: float) -> None:
        self.promise_seconds = promise_seconds
        self._database = database
        self._promise = timedelta(seconds=promise_seconds)

    def counts(self) -> Sequence[TenantCount]:
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute(
                "select region, state, tenants, late from okcm.count_tenants(%s)", [self._promise]
            )
            return [TenantCount(region, State(state), tenants, late) for region, state, tenants, late in rows]

    def page(self, wanted: TenantFilter, after: str, limit: int) -> Sequence[TenantRow]:
        """Return tenants in order of id, from the first one behind `after`."""
        # NUL is the one character that no text in PostgreSQL has, so nothing is found by it.
        if wanted.search is not None and "\0" in wanted.search:
            return []
        values = [wanted.state, wanted.region, wanted.late, wanted.search or None, self._promise, after, limit]
        with self._database.raw_tx(PLATFORM) as connection:
            return [tenant_row(row) for row in connection.execute(_PAGE, values)]

    def stuck(self, limit: int) -> Sequence[StuckTenant]:
        """Return who needs somebody now, those that wait longest first."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute(
                "select tenant_id, organization, region, state, requested_at, step, step_state, attempts, problem"
                " from okcm.stuck_tenants(%s, %s)",
                [self._promise, limit],
            )
            return [
                StuckTenant(
                    tenant_id,
                    organization,
                    region,
                    State(state),
                    requested_at,
                    None if step is None else Step(step),
                    None if step_state is None else StepState(step_state),
                    attempts or 0,
                    problem,
                )
                for tenant_id, organization, region, state, requested_at, step, step_state, attempts, problem in rows
            ]

    def troubled(self, limit: int) -> Sequence[FailedAssessment]:
        """Return whose boundaries somebody must look at: breached ones first, then late examinations."""
        return PlatformQueries(self._database).troubled_examinations(LATE, limit)

    def times(self, limit: int) -> Sequence[ProvisioningTime]:
        """Return how long the newest ready tenants took, the newest first."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select requested_at, ready_at from okcm.provisioning_times(%s)", [limit])
            return [ProvisioningTime(requested_at, ready_at) for requested_at, ready_at in rows]
