"""Inputs and results of the workflows and activities of services."""

from datetime import datetime

from pydantic import Field

from core.messages.base import Message, ServiceName, StepInput
from core.names import TenantId


class ServiceWorkflowState(Message):
    """State that the workflow of a service keeps between runs; all other state is in PostgreSQL."""

    generation: int = Field(0, description="generation of the newest certificate; 0 without a certificate")
    renew_at: datetime | None = None
    by_hand: bool = Field(default=False, description="the certificate is that of an appliance and ends at `renew_at`")


class ServiceInput(Message):
    tenant_id: TenantId
    region: str
    service: ServiceName
    memory: ServiceWorkflowState = Field(default_factory=ServiceWorkflowState)


class EnrolInput(Message):
    """A stored request for a certificate; kind and CSR are in PostgreSQL under (tenant, request)."""

    request_id: str
    another_key: bool = Field(
        default=True, description="also for another key than that of a connected service's newest certificate"
    )


class ServiceStep(StepInput):
    """Input of a step of one service."""

    service: ServiceName


class EnrolStep(ServiceStep):
    request_id: str
    another_key: bool = True


class RenewalStep(ServiceStep):
    requested: bool = Field(default=False, description="a person requests it, also for an appliance")


class CertificatePlan(Message):
    """The next certificate, and the request with the public key to certify."""

    request_id: str
    generation: int = Field(description="counts a service's certificates, from 1")
    by_hand_until: datetime | None = Field(
        None, description="end of an appliance's certificate; no other one is issued then"
    )


class CertificateStep(ServiceStep, CertificatePlan):
    """Input of the steps that issue the planned certificate."""


class CertificateResult(Message):
    renew_at: datetime = Field(
        description="time at which two thirds of the certificate's lifetime are over; the end of an appliance's one"
    )
    by_hand: bool = False


class ConnectFailureInput(ServiceStep):
    code: str
    reason: str = Field(description="the activity that failed")


class RollAuthorityInput(Message):
    tenant_id: TenantId
    region: str
    number: int = Field(description="counts the tenant's CA rotations, from 1; part of the workflow's id")


class RollAuthorityResult(Message):
    """Result of a CA rotation: a new current CA, or the error `code` and no effect."""

    code: str = ""


class AuthorityPlan(Message):
    version: int = Field(description="version of the tenant CA's Transit key that the new CA certifies")


class AuthorityStep(StepInput, AuthorityPlan):
    """Input of the steps that execute the planned CA rotation."""


class AuthorityFailureInput(AuthorityStep):
    code: str
    reason: str = Field(description="the activity that failed")


class ServicesResult(Message):
    services: tuple[ServiceName, ...]


class UnrenewedService(Message):
    """A connected service whose newest certificate was not renewed; `generation` belongs to that certificate."""

    tenant_id: TenantId
    region: str
    service: ServiceName
    generation: int


class ExpiryResult(Message):
    services: tuple[UnrenewedService, ...]
