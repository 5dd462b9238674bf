"""Inputs and results of every workflow, activity, signal and update: one growable model each.

They carry ids, never a customer's name, a key or a token: workflow histories outlive the moment and are read by
operators. Activities read the details from PostgreSQL.
"""

from pydantic import BaseModel, ConfigDict, Field

from tenancy.events import AnnouncementKind
from tenancy.ids import TenantId
from tenancy.lifecycle import State


class Message(BaseModel):
    model_config = ConfigDict(frozen=True)


class TenantMemory(Message):
    """What the tenant entity remembers from one run to the next."""

    state: State = State.REQUESTED
    seen_events: tuple[str, ...] = ()
    provisions: int = 0


class TenantInput(Message):
    tenant_id: TenantId
    region: str
    promise_seconds: float
    memory: TenantMemory = Field(default_factory=TenantMemory)


class MarketplaceSignal(Message):
    """An accepted event; its details lie in PostgreSQL under (tenant, event)."""

    event_id: str
    kind: str


class ProvisionInput(Message):
    tenant_id: TenantId
    region: str
    attempt: int = Field(description="1 for the first provisioning, one more for each retry of a failed one")
    promise_seconds: float


class ProvisionResult(Message):
    state: State


class StepInput(Message):
    """Input of a step that needs no more than to know for whom it works."""

    tenant_id: TenantId
    operation_id: str


class ActivateResult(Message):
    messages: int = Field(description="how many announcements now wait in the outbox")


class AnnounceInput(StepInput):
    kind: AnnouncementKind


class FailureInput(StepInput):
    code: str
    reason: str = Field(description="the activity that failed")


class SignHeadsResult(Message):
    signed: int
