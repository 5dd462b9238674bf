"""What operators may ask across tenants: how far each is and where it is stuck. Imports no psycopg."""

from dataclasses import dataclass
from datetime import datetime

from core.tenants.lifecycle import State
from core.tenants.provisioning import Step, StepState


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
