"""Inputs and results of the workflows and activities of tenants, from provisioning to offboarding.

Every workflow, activity, signal and update has one extensible model for input and result. The models contain ids, never
a customer's name, a key or a token: workflow histories are kept, and operators read them. Activities read the details
from PostgreSQL.
"""

from datetime import datetime
from enum import StrEnum

from pydantic import Field, JsonValue

from core.keys.root_keys import RootKeyMode
from core.messages.base import AnnounceInput, ApprovalRef, Message, StepInput
from core.names import TenantId
from core.notifications import NotificationKind
from core.tenants.approvals import Action, ApprovalState
from core.tenants.lifecycle import State
from core.tenants.offboarding import LONGEST_GRACE
from core.tenants.provisioning import EventKind


class PendingApproval(Message):
    """A pending approval; its requester is in PostgreSQL."""

    approval_id: str
    action: Action
    expires_at: datetime


class TenantWorkflowState(Message):
    """State that the tenant workflow keeps between runs."""

    state: State = State.REQUESTED
    seen_events: tuple[str, ...] = ()
    provision: bool = Field(default=False, description="whether a provisioning was requested and has not started")
    provisions: int = 0
    changes: int = Field(0, description="number of started root key changes")
    rotations: int = Field(0, description="number of started key rotations")
    rolls: int = Field(0, description="number of started CA rotations")
    operations: int = Field(0, description="number of status changes and preflights; makes their operation ids unique")
    waiting: tuple[PendingApproval, ...] = ()
    approved: tuple[str, ...] = Field(
        (), description="ids of approved requests whose action a lost workflow had not begun"
    )
    pending_events: tuple[EventKind, ...] = Field(
        (), description="kinds of the marketplace events that could not be processed at once"
    )
    notifications: tuple[AnnounceInput, ...] = Field((), description="stored notifications that are still unsent")
    completed_updates: tuple[str, ...] = Field((), description="ids of updates that a repetition must not run again")


class TenantInput(Message):
    tenant_id: TenantId
    region: str
    provisioning_slo_seconds: float
    memory: TenantWorkflowState | None = Field(
        None, description="the state of the previous run; None: the workflow first reads it from the database"
    )


class StoredTenant(Message):
    """The state of a tenant in the database, with which a new tenant workflow starts."""

    memory: TenantWorkflowState | None = Field(
        None, description="None when the tenant needs no workflow: its destruction has begun"
    )
    root_key_mode: RootKeyMode = RootKeyMode.PLATFORM


class PayloadKeyResult(Message):
    """Result of a step whose own payload is encrypted under the tenant's key, if it exists."""

    exists: bool


class MarketplaceSignal(Message):
    """An accepted event; its details are in PostgreSQL under (tenant, event)."""

    event_id: str
    kind: str


class ProvisionInput(Message):
    tenant_id: TenantId
    region: str
    attempt: int = Field(description="1 for the first provisioning, one more for each retry of a failed one")
    provisioning_slo_seconds: float


class ProvisionResult(Message):
    state: State


class ActivateResult(Message):
    messages: int = Field(description="number of notifications that are now in the outbox")


class StatusChange(StrEnum):
    """Requested change of a tenant's status."""

    SUSPEND = "suspend"
    RESUME = "resume"
    LOCK = "lock"
    UNLOCK = "unlock"
    CLEAR_BREACH = "clear-isolation-lock"
    """Releases the lock of an isolation breach; no other change does."""


class StatusChangeRequest(ApprovalRef):
    """A request to change a tenant's status."""

    move: StatusChange


class StatusChangeInput(StepInput, StatusChangeRequest):
    """Input of a step that changes a tenant's status."""


class StatusChangeResult(Message):
    state: State
    notification: NotificationKind | None = Field(
        None, description="kind of the notification that is now in the outbox"
    )


class PolicyRequest(ApprovalRef):
    """A requested policy as submitted; the activity validates its bounds."""

    tenant_key_days: int
    service_key_days: int
    four_eyes: tuple[str, ...] = ()
    revoked_keys_readable: bool = False
    resources_recorded: bool = False


class PolicyInput(StepInput, PolicyRequest):
    """Input of the step that changes the policy."""


class ApprovalRequest(Message):
    """A stored request for an approval; action and requester are in PostgreSQL under (tenant, approval)."""

    approval_id: str


class ApprovalStep(StepInput, ApprovalRequest):
    """Input of a step of one approval."""


class CloseApprovalInput(ApprovalStep):
    code: str = Field("", description="error code of the action; empty on success")


class WaitingResult(Message):
    """All pending approvals, in the order of their expiry."""

    waiting: tuple[PendingApproval, ...] = ()


class ApprovalResult(WaitingResult):
    action: Action
    argument: dict[str, JsonValue] = Field(default_factory=dict)
    state: ApprovalState
    code: str = Field("", description="error code of a request that was not admitted")
    notification: NotificationKind | None = None


class LeaveReason(StrEnum):
    """Origin of an offboarding or a restore; without free text, which workflow histories would keep."""

    OPERATOR = "operator"
    CUSTOMER = "customer"
    MARKETPLACE = "marketplace"


class OffboardRequest(ApprovalRef):
    """A request to offboard a tenant; `now` skips the grace period."""

    grace_seconds: float | None = Field(None, gt=0, le=LONGEST_GRACE.total_seconds(), description="None: the default")
    reason: LeaveReason = LeaveReason.OPERATOR
    now: bool = False


class LeaveInput(StepInput, OffboardRequest):
    """Input of the step that starts the offboarding of a tenant."""


class RestoreInput(StepInput):
    """Input of the step that restores a tenant."""

    reason: LeaveReason = LeaveReason.OPERATOR


class OffboardingResult(StatusChangeResult):
    since: datetime
    until: datetime


class OffboardInput(Message):
    tenant_id: TenantId
    region: str
    number: int = Field(description="identifies the offboarding among those of the tenant")
    since: datetime
    until: datetime


class DestructionStartedResult(Message):
    begun: bool = Field(description="false when the tenant was restored")


class OffboardResult(Message):
    destroyed: bool = Field(description="false when the tenant was restored before the destruction")
