"""Operators' queries across tenants: the state of each tenant and its failed steps.

They call SQL functions that are granted to the roles of the operators.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum, unique
from typing import NamedTuple

from core.isolation import LATE
from core.tenants.lifecycle import State
from core.tenants.provisioning import Step, StepState
from core.tenants.status import REQUEST_WINDOW
from database.connection.database import Database
from database.isolation import FailedAssessment
from database.notifications import UndeliveredNotification
from database.platform.scheduled import PlatformQueries
from database.postgres.access import PLATFORM
from database.tenants import COLUMNS, TenantRow, tenant_row


class TenantCount(NamedTuple):
    """Tenants of a region in a state; `late` of them failed, or exceed or are about to exceed the provisioning SLO."""

    region: str
    state: State
    tenants: int
    late: int


@unique
class Problem(StrEnum):
    """Problems by which tenants are counted and filtered; some exclude no other."""

    ANY = "any"
    """One of the next four."""
    PROVISIONING = "provisioning"
    """Provisioning failed, or exceeds the provisioning SLO."""
    ROOT_KEY = "root-key"
    """The recorded health of the customer's root key is a failure."""
    ISOLATION = "isolation"
    """An isolation check failed."""
    REQUESTS = "requests"
    """Requests were rejected in the last minutes (`REQUEST_WINDOW`)."""
    LOCKED_MANUAL = "locked-manual"
    LOCKED_ROOT_KEY = "locked-root-key"
    LOCKED_BREACH = "locked-isolation-breach"
    LATE = "late"
    """As PROVISIONING, or ready later than the provisioning SLO; not counted as a problem."""


class TenantFilter(NamedTuple):
    """Which tenants to list; None is any. `search` is the start of an id or a part of an organization's name."""

    state: State | None = None
    region: str | None = None
    problem: Problem | None = None
    search: str | None = None


class ListedTenant(NamedTuple):
    """A tenant with its present problems."""

    tenant: TenantRow
    problems: tuple[Problem, ...]


class Backlog(NamedTuple):
    """What the platform has to deliver or renew: counts over all tenants, with the oldest or first time."""

    waiting: int
    """Notifications that are still attempted; `dead` are no longer attempted, of the last 30 days."""
    waiting_since: datetime | None
    dead: int
    authorities: int
    """Certificate authorities that end within `AUTHORITY_DAYS`."""
    first_end: datetime | None


class StuckTenant(NamedTuple):
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


class ProvisioningTime(NamedTuple):
    """When a tenant was requested and when it was ready."""

    requested_at: datetime
    ready_at: datetime

    @property
    def seconds(self) -> float:
        return (self.ready_at - self.requested_at).total_seconds()


_DEAD_LETTERS = timedelta(days=30)
"""How long a dead letter is listed for operators."""
AUTHORITY_DAYS = 30
"""Days before its end from which a certificate authority is reported; it is renewed much earlier."""

_SINCE = "date_trunc('minute', statement_timestamp()) - %s"
_PAGE = (
    f"select {COLUMNS}, problems"  # noqa: S608 - constants
    f" from okcm.page_with_problems(%s, %s, %s, %s, %s, {_SINCE}, %s, %s)"
)
_PROBLEMS = f"select problem, tenants from okcm.count_problems(%s, {_SINCE})"  # noqa: S608 - a constant


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

    def problems(self) -> Mapping[Problem, int]:
        """Return the number of tenants with each problem and each lock; a missing one has none."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute(_PROBLEMS, [self._promise, REQUEST_WINDOW])
            return {Problem(problem): tenants for problem, tenants in rows}

    def backlog(self) -> Backlog:
        with self._database.raw_tx(PLATFORM) as connection:
            row = connection.execute(
                "select waiting, waiting_since, dead, authorities, first_end from okcm.platform_backlog(%s, %s)",
                [_DEAD_LETTERS, timedelta(days=AUTHORITY_DAYS)],
            ).fetchone()
            return Backlog(*row) if row is not None else Backlog(0, None, 0, 0, None)

    def page(self, wanted: TenantFilter, after: str, limit: int) -> Sequence[ListedTenant]:
        """Return tenants in order of id, starting after `after`."""
        # PostgreSQL cannot store NUL in a text, so no tenant matches.
        if wanted.search is not None and "\0" in wanted.search:
            return []
        values = [wanted.state, wanted.region, wanted.problem, wanted.search or None, self._promise, REQUEST_WINDOW]
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute(_PAGE, [*values, after, limit])
            return [ListedTenant(tenant_row(row[:-1]), tuple(map(Problem, row[-1]))) for row in rows]

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
