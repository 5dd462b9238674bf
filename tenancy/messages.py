"""Inputs and results of every workflow, activity, signal and update: one growable model each.

They carry ids, never a customer's name, a key or a token: workflow histories outlive the moment and are read by
operators. Activities read the details from PostgreSQL.
"""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tenancy.events import AnnouncementKind
from tenancy.ids import TenantId, parse_service_name
from tenancy.lifecycle import State

ServiceName = Annotated[str, AfterValidator(parse_service_name)]


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
