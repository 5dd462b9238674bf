"""Inputs and results of the workflows and activities of services."""

from datetime import datetime

from pydantic import Field

from core.messages.base import Message, ServiceName, StepInput
from core.names import TenantId


class ServiceWorkflowState(Message):
    """What the workflow of a service remembers from one run to the next; the rest is on record."""

    generation: int = Field(0, description="of the newest certificate; 0 while there is none")
    renew_at: datetime | None = None


class ServiceInput(Message):
    tenant_id: TenantId
    region: str
    service: ServiceName
    memory: ServiceWorkflowState = Field(default_factory=ServiceWorkflowState)


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


class UnrenewedService(Message):
    """A connected service whose newest certificate was not renewed; `generation` is that certificate's."""

    tenant_id: TenantId
    region: str
    service: ServiceName
    generation: int


class ExpiryResult(Message):
    services: tuple[UnrenewedService, ...]
