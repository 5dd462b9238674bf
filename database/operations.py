"""The operators' questions across tenants, asked of the functions in migrations/*_operations.sql."""

from collections.abc import Sequence
from datetime import timedelta

from core.isolation import LATE
from core.tenants.lifecycle import State
from core.tenants.provisioning import Step, StepState
from database.boundary_interfaces import TroubledExamination
from database.connection import Database
from database.context import PLATFORM
from database.platform_queries import PlatformQueries
from database.questions import ProvisioningTime, StuckTenant, TenantCount, TenantFilter
from database.rows import TenantRow
from database.tenants import COLUMNS, tenant_row

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

    def troubled(self, limit: int) -> Sequence[TroubledExamination]:
        """Return whose boundaries somebody must look at: breached ones first, then late examinations."""
        return PlatformQueries(self._database).troubled_examinations(LATE, limit)

    def times(self, limit: int) -> Sequence[ProvisioningTime]:
        """Return how long the newest ready tenants took, the newest first."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select requested_at, ready_at from okcm.provisioning_times(%s)", [limit])
            return [ProvisioningTime(requested_at, ready_at) for requested_at, ready_at in rows]
