"""Inputs and results of every workflow, activity, signal and update: one growable model each.

They carry ids, never a customer's name, a key or a token: workflow histories outlive the moment and are read by
operators. Activities read the details from PostgreSQL.

Inputs and results of what lets a tenant leave and comes after; the part of `messages` that is about it.
"""

from datetime import datetime
from enum import StrEnum

from pydantic import Field, JsonValue

from core.messages.base import ApprovalRef, Message, ServiceName, StepInput
from core.names import TenantId
from core.notifications import NotificationKind
from core.tenants.approvals import Action, ApprovalState
from core.tenants.lifecycle import State
from core.tenants.offboarding import LONGEST_GRACE
from core.tenants.provisioning import EventKind


class PendingApproval(Message):
    """A request that waits for a second person; who asked lies in PostgreSQL."""

    approval_id: str
    action: Action
    expires_at: datetime


class TenantWorkflowState(Message):
    """What the tenant entity remembers from one run to the next."""

    state: State = State.REQUESTED
    seen_events: tuple[str, ...] = ()
    provisions: int = 0
    changes: int = Field(0, description="changes of the root key that were begun")
    rotations: int = Field(0, description="rotations of its keys that were begun")
    rolls: int = Field(0, description="of its certificate authority that were begun")
    operations: int = Field(0, description="moves of its standing and preflights; makes their operation ids unique")
    waiting: tuple[PendingApproval, ...] = ()
    leavings: int = Field(0, description="how often it began to leave")
    wish: EventKind | None = Field(None, description="the marketplace's last word, when it could not be done at once")


class TenantInput(Message):
    tenant_id: TenantId
    region: str
    promise_seconds: float
    memory: TenantWorkflowState = Field(default_factory=TenantWorkflowState)


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


class ActivateResult(Message):
    messages: int = Field(description="how many announcements now wait in the outbox")


class StatusChange(StrEnum):
    """What somebody may ask of a tenant's standing."""

    SUSPEND = "suspend"
    RESUME = "resume"
    LOCK = "lock"
    UNLOCK = "unlock"
    CLEAR_BREACH = "clear-breach"
    """Releases the lock of a breach, which no other move does."""


class StatusChangeRequest(ApprovalRef):
    """What somebody asks of a tenant's standing."""

    move: StatusChange


class StatusChangeInput(StepInput, StatusChangeRequest):
    """Input of a step that moves a tenant's standing."""


class StatusChangeResult(Message):
    state: State
    told: NotificationKind | None = Field(None, description="of the announcement that now waits in the outbox")


class PolicyRequest(ApprovalRef):
    """A policy that somebody asks for, as they said it: its bounds are looked at where it can still be refused."""

    tenant_key_days: int
    service_key_days: int
    four_eyes: tuple[str, ...] = ()


class PolicyInput(StepInput, PolicyRequest):
    """Input of the step that changes the policy."""


class ApprovalRequest(Message):
    """A stored request for a second person; what and who lies in PostgreSQL under (tenant, approval)."""

    approval_id: str


class ApprovalStep(StepInput, ApprovalRequest):
    """Input of a step of one request."""


class CloseApprovalInput(ApprovalStep):
    code: str = Field("", description="of what stopped the action; empty when it is done")


class WaitingResult(Message):
    """All that waits for a second person then, the first to expire first."""

    waiting: tuple[PendingApproval, ...] = ()


class ApprovalResult(WaitingResult):
    action: Action
    argument: dict[str, JsonValue] = Field(default_factory=dict)
    state: ApprovalState
    code: str = Field("", description="why it was not admitted")
    told: NotificationKind | None = None


class LeaveReason(StrEnum):
    """Who let a tenant leave; no words of theirs, which would stay in histories."""

    OPERATOR = "operator"
    CUSTOMER = "customer"
    MARKETPLACE = "marketplace"


class OffboardRequest(ApprovalRef):
    """What somebody asks for who lets a tenant leave; `now` is without any grace."""

    grace_seconds: float | None = Field(None, gt=0, le=LONGEST_GRACE.total_seconds(), description="None: the usual")
    reason: LeaveReason = LeaveReason.OPERATOR
    now: bool = False


class LeaveInput(StepInput, OffboardRequest):
    """Input of the step that lets a tenant leave."""


class OffboardingResult(StatusChangeResult):
    since: datetime
    until: datetime


class OffboardInput(Message):
    tenant_id: TenantId
    region: str
    number: int = Field(description="counts how often the tenant began to leave, from 1")
    since: datetime
    until: datetime


class DestructionStartedResult(Message):
    begun: bool = Field(description="false when the tenant was restored")


class DestructionInventory(Message):
    """What there is to destroy, as far as a workflow has to know it."""

    services: tuple[ServiceName, ...] = Field(description="those that are connected or have a workflow")


class OffboardResult(Message):
    destroyed: bool = Field(description="false when the tenant was restored in the last moment")
