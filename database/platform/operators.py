"""Operators' queries across tenants: the state of each tenant and its failed steps.

They call SQL functions that are granted to the roles of the operators.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.isolation import LATE
from core.tenants.lifecycle import State
from core.tenants.provisioning import Step, StepState
from database.connection.database import Database
from database.isolation import FailedAssessment
from database.notifications import UndeliveredNotification
from database.platform.scheduled import PlatformQueries
from database.postgres.access import PLATFORM
from database.tenants import COLUMNS, TenantRow, tenant_row


@dataclass(frozen=True, slots=True)
class TenantCount:
    """Tenants of a region in a state; `late` of them failed, or exceed or are about to exceed the provisioning SLO."""

    region: str
    state: State
    tenants: int
    late: int


@dataclass(frozen=True, slots=True)
class TenantFilter:
    """Which tenants to list; None is any. `search` is the start of an id or a part of an organization's name."""

    state: State | None = None
    region: str | None = None
    late: bool = False
    search: str | None = None


@dataclass(frozen=True, slots=True)
class StuckTenant:
    """A tenant that failed or exceeds the provisioning SLO. `step` is None until it has steps."""

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
    """When a tenant was requested and when it was ready."""

    requested_at: datetime
    ready_at: datetime

    @property
    def seconds(self) -> float:
        return (self.ready_at - self.requested_at).total_seconds()


_DEAD_LETTERS = timedelta(days=30)
"""How long a dead letter is listed for operators."""

_PAGE = f"select {COLUMNS} from okcm.page_of_tenants(%s, %s, %s, %s, %s, %s, %s)"  # noqa: S608 - a constant


class Operations:
    """Queries across tenants for operators, without the platform's own tenants. They do not nest with a transaction.

    Raises:
        DatabaseUnavailable, DatabaseRefused
    """

    def __init__(self, database: Database, provisioning_slo_seconds: float) -> None:
        self.provisioning_slo_seconds = provisioning_slo_seconds
        self._database = database
        self._promise = timedelta(seconds=provisioning_slo_seconds)

    def counts(self) -> Sequence[TenantCount]:
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute(
                "select region, state, tenants, late from okcm.count_tenants(%s)", [self._promise]
            )
            return [TenantCount(region, State(state), tenants, late) for region, state, tenants, late in rows]

    def page(self, wanted: TenantFilter, after: str, limit: int) -> Sequence[TenantRow]:
        """Return tenants in order of id, starting after `after`."""
        # PostgreSQL cannot store NUL in a text, so no tenant matches.
        if wanted.search is not None and "\0" in wanted.search:
            return []
        values = [wanted.state, wanted.region, wanted.late, wanted.search or None, self._promise, after, limit]
        with self._database.raw_tx(PLATFORM) as connection:
            return [tenant_row(row) for row in connection.execute(_PAGE, values)]

    def stuck(self, limit: int) -> Sequence[StuckTenant]:
        """Return tenants that require attention, the longest waiting first."""
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
        """Return tenants whose isolation requires attention: breaches first, then late assessments."""
        return PlatformQueries(self._database).troubled_examinations(LATE, limit)

    def undelivered(self, limit: int) -> Sequence[UndeliveredNotification]:
        """Return notifications that their receivers did not accept: dead letters of the last 30 days first."""
        return PlatformQueries(self._database).undelivered_notifications(_DEAD_LETTERS, limit)

    def times(self, limit: int) -> Sequence[ProvisioningTime]:
        """Return the provisioning times of the newest ready tenants, newest first."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select requested_at, ready_at from okcm.provisioning_times(%s)", [limit])
            return [ProvisioningTime(requested_at, ready_at) for requested_at, ready_at in rows]
