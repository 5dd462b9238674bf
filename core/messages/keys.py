"""Inputs and results of what rotates a tenant's keys; the part of `messages` that is about it."""

from pydantic import Field

from core.keys.root_keys import RootKeyMode
from core.keys.rotation import RotationScope
from core.messages.base import ApprovalRef, Message, ServiceName, StepInput
from core.messages.tenants import StatusChangeResult
from core.names import TenantId
from core.notifications import NotificationKind


class RotateRequest(ApprovalRef):
    """What is asked of a rotation; with neither services nor tenant key it finishes what an earlier one left."""

    request_id: str
    services: RotationScope
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
    told: NotificationKind | None = Field(None, description="of the announcement that now waits in the outbox")


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


class RetireVersionRequest(ApprovalRef):
    service: ServiceName
    version: int


class RetireVersionStep(StepInput, RetireVersionRequest):
    """Input of the step that destroys a version of a service key which encrypts nothing any more."""


class RootKeyRequest(ApprovalRef):
    """A stored request about the root key; place and sealed credentials lie in PostgreSQL under (tenant, request)."""

    request_id: str


class RootKeyStep(StepInput, RootKeyRequest):
    """Input of a step of a preflight or a change; `number` is 0 where nothing is changed."""

    number: int = 0


class ChangeRootKeyInput(ApprovalRef):
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


class WrapProgress(Message):
    total: int
    wrapped: int


class SwitchResult(StatusChangeResult):
    switched: bool = Field(description="false while a service key has no wrap under the new root key")
    mode: RootKeyMode
