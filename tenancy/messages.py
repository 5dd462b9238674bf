"""Inputs and results of every workflow, activity, signal and update: one growable model each.

They carry ids, never a customer's name, a key or a token: workflow histories outlive the moment and are read by
operators. Activities read the details from PostgreSQL.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from openkcm.contract.names import parse_service_name
from tenancy.approvals import Action, ApprovalState
from tenancy.events import AnnouncementKind, EventKind
from tenancy.ids import TenantId
from tenancy.lifecycle import State
from tenancy.root_keys import RootKeyMode

ServiceName = Annotated[str, AfterValidator(parse_service_name)]


class Message(BaseModel):
    model_config = ConfigDict(frozen=True)


class PendingApproval(Message):
    """A request that waits for a second person; who asked lies in PostgreSQL."""

    approval_id: str
    action: Action
    expires_at: datetime


class TenantMemory(Message):
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


class ServiceMemory(Message):
    """What the workflow of a service remembers from one run to the next; the rest is on record."""

    generation: int = Field(0, description="of the newest certificate; 0 while there is none")
    renew_at: datetime | None = None


class ServiceInput(Message):
    tenant_id: TenantId
    region: str
    service: ServiceName
    memory: ServiceMemory = Field(default_factory=ServiceMemory)


class EnrolInput(Message):
    """A stored request for a certificate; kind and CSR lie in PostgreSQL under (tenant, request)."""

    request_id: str


class ServiceStep(StepInput):
    """Input of a step of one service."""

    service: ServiceName


class EnrolStep(ServiceStep):
    request_id: str


class CertificatePlan(Message):
    """Which certificate comes next, and the request whose public key it certifies."""

    request_id: str
    generation: int = Field(description="counts a service's certificates, from 1")


class CertificateStep(ServiceStep, CertificatePlan):
    """Input of the steps between a plan and its certificate."""


class CertificateResult(Message):
    renew_at: datetime = Field(description="when two thirds of the certificate's life are over")


class ConnectFailureInput(ServiceStep):
    code: str
    reason: str = Field(description="the activity that failed")


class StandingMove(StrEnum):
    """What somebody may ask of a tenant's standing."""

    SUSPEND = "suspend"
    RESUME = "resume"
    LOCK = "lock"
    UNLOCK = "unlock"
    CLEAR_BREACH = "clear-breach"
    """Releases the lock of a breach, which no other move does."""


class Approved(Message):
    """What may need a second person."""

    approval_id: str | None = Field(None, description="of the request that somebody else approved, where there is one")


class StandingRequest(Approved):
    """What somebody asks of a tenant's standing."""

    move: StandingMove


class StandingInput(StepInput, StandingRequest):
    """Input of a step that moves a tenant's standing."""


class StandingResult(Message):
    state: State
    told: AnnouncementKind | None = Field(None, description="of the announcement that now waits in the outbox")


class RootKeyRequest(Approved):
    """A stored request about the root key; place and sealed credentials lie in PostgreSQL under (tenant, request)."""

    request_id: str


class RootKeyStep(StepInput, RootKeyRequest):
    """Input of a step of a preflight or a change; `number` is 0 where nothing is changed."""

    number: int = 0


class ChangeRootKeyInput(Approved):
    tenant_id: TenantId
    region: str
    number: int = Field(description="counts the tenant's changes, from 1; part of the workflow's id")
    request_id: str


class PreflightResult(Message):
    """How a preflight ended; what was found in words lies in PostgreSQL."""

    problems: int
    code: str = Field("", description="of the first problem")


class ChangeRootKeyResult(Message):
    """How a change ended: with the root key of `mode` in force, or with `code` and no effect."""

    mode: RootKeyMode | None = None
    code: str = ""
    problems: int = Field(0, description="how many the preflight found")


class AbandonInput(RootKeyStep):
    code: str
    reason: str = Field(description="the activity that failed")


class WatchRootKeysInput(Message):
    region: str


class WatchResult(Message):
    """Tenants whose root key asks for another standing than theirs, for the entity to look at."""

    tenants: tuple[TenantId, ...]


class RollAuthorityInput(Message):
    tenant_id: TenantId
    region: str
    number: int = Field(description="counts the tenant's rolls, from 1; part of the workflow's id")


class RollAuthorityResult(Message):
    """How a roll ended: with another authority in force, or with `code` and no effect."""

    code: str = ""


class AuthorityPlan(Message):
    version: int = Field(description="of the tenant's Transit key that the new authority is to certify")


class AuthorityStep(StepInput, AuthorityPlan):
    """Input of the steps between a plan and its end."""


class AuthorityFailureInput(AuthorityStep):
    code: str
    reason: str = Field(description="the activity that failed")


class ServicesResult(Message):
    services: tuple[ServiceName, ...]


class TenantsResult(Message):
    tenants: tuple[TenantId, ...]


class LateService(Message):
    """A connected service whose newest certificate was not renewed; `generation` is that certificate's."""

    tenant_id: TenantId
    region: str
    service: ServiceName
    generation: int


class ExpiryResult(Message):
    services: tuple[LateService, ...]


class WrapProgress(Message):
    total: int
    wrapped: int


class SwitchResult(StandingResult):
    switched: bool = Field(description="false while a service key has no wrap under the new root key")
    mode: RootKeyMode


class BoundariesInput(Message):
    tenant_id: TenantId
    region: str
    anew: bool = Field(
        default=False,
        description="attack also what was attacked lately for all tenants alike: somebody asks how it is now",
    )


class ExamineInput(StepInput):
    """Input of the examination; its operation id is that of the run, however often it is tried."""

    anew: bool = False


class ExamineResult(Message):
    """How an examination ended; what was attacked lies in PostgreSQL under (tenant, run)."""

    examined: bool = Field(description="false where there was nothing to examine: the tenant has left meanwhile")
    held: int = 0
    breached: int = 0
    not_checked: int = 0
    told: AnnouncementKind | None = None


class DueInput(Message):
    after: str = Field("", description="the tenant behind which to go on")


class DueExamination(Message):
    tenant_id: TenantId
    region: str


class DueResult(Message):
    """Whose examination is due, in order of ids; empty when there is none behind the one asked for."""

    tenants: tuple[DueExamination, ...] = ()


class PolicyRequest(Approved):
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
    told: AnnouncementKind | None = None
