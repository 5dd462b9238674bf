"""Inputs and results of what rotates a tenant's keys; the part of `messages` that is about it."""

from pydantic import Field

from tenancy.events import AnnouncementKind
from tenancy.ids import TenantId
from tenancy.messages import Approved, Message, ServiceName, StepInput
from tenancy.rotation import Scope


class RotateRequest(Approved):
    """What is asked of a rotation; with neither services nor tenant key it finishes what an earlier one left."""

    request_id: str
    services: Scope
    service: ServiceName | None = Field(None, description="for the scope `one`")
    tenant_key: bool
    compromised: bool = Field(
        default=False, description="whether what is replaced may be known to somebody, so that it must open nothing"
    )


class RotateInput(Message):
    tenant_id: TenantId
    region: str
    number: int = Field(description="counts the tenant's rotations, from 1; part of the workflow's id")
    request: RotateRequest
    scheduled: bool = False


class RotationStep(StepInput):
    """Input of a step of a rotation."""

    number: int


class PlanRotationStep(RotationStep):
    request: RotateRequest
    scheduled: bool = False


class RotationPlan(Message):
    """Which of its steps a rotation has to take."""

    services: int = Field(description="how many service keys get a new version")
    retires: bool = Field(description="whether versions of the tenant key are to be retired")
    destroys: bool = Field(description="whether there are, or will be, compromised service keys")
    follows: bool = Field(default=False, description="whether something lies under an older version of the root key")


class RotationProgress(Message):
    total: int
    done: int


class RetireResult(Message):
    retired: bool = Field(description="false while something lies under an older version")


class DestroyResult(Message):
    objects: int = Field(description="how many objects are still sealed under compromised service keys")


class RotationEnded(Message):
    told: AnnouncementKind | None = Field(None, description="of the announcement that now waits in the outbox")


class RotationFailedStep(RotationStep):
    code: str
    reason: str = Field(description="the activity that failed")


class RotateResult(Message):
    """How a rotation ended; a code says why it did not get to its end, with every key working as before or anew."""

    code: str = ""


class DueRotation(Message):
    """What the tenant's policy asks for now; None: nothing."""

    request: RotateRequest | None = None


class DueTenants(Message):
    """Tenants with keys that are due, for their entities to look at."""

    tenants: tuple[TenantId, ...]


class RetireVersionRequest(Approved):
    service: ServiceName
    version: int


class RetireVersionStep(StepInput, RetireVersionRequest):
    """Input of the step that destroys a version of a service key which encrypts nothing any more."""
