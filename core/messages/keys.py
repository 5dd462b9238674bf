"""Inputs and results of workflows and activities for key rotation and root keys."""

from pydantic import Field

from core.keys.root_keys import RootKeyMode
from core.keys.rotation import RotationScope
from core.messages.base import ApprovalRef, Message, ServiceName, StepInput
from core.messages.tenants import StatusChangeResult
from core.names import TenantId
from core.notifications import NotificationKind


class RotateRequest(ApprovalRef):
    """A requested rotation; with neither services nor tenant key it completes an earlier rotation."""

    request_id: str
    services: RotationScope
    service: ServiceName | None = Field(None, description="for the scope `one`")
    tenant_key: bool
    compromised: bool = Field(
        default=False, description="whether the replaced keys are compromised, so that they must decrypt nothing"
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
    """The steps that a rotation has to run."""

    services: int = Field(description="number of service keys that get a new version")
    retires: bool = Field(description="whether versions of the tenant key are to be retired")
    destroys: bool = Field(description="whether compromised service keys exist or will exist")
    follows: bool = Field(default=False, description="whether an older version of the root key still wraps keys")


class RotationProgress(Message):
    total: int
    done: int
    more: bool = Field(default=False, description="true after a time slice that left keys for the next one")


class RetireResult(Message):
    retired: bool = Field(description="false while an older version still wraps keys")


class DestroyResult(Message):
    objects: int = Field(description="number of objects that compromised service keys still encrypt")


class RotationEnded(Message):
    notification: NotificationKind | None = Field(
        None, description="kind of the notification that is now in the outbox"
    )


class RotationFailedStep(RotationStep):
    code: str
    reason: str = Field(description="the activity that failed")


class RotateResult(Message):
    """Result of a rotation; `code` is its error, empty on success. All keys work in both cases."""

    code: str = ""


class DueRotation(Message):
    """The rotation that the tenant's policy requires now; None if no key is due."""

    request: RotateRequest | None = None


class DueTenants(Message):
    """Tenants with due keys, whose tenant workflows must check them."""

    tenants: tuple[TenantId, ...]


class RetireVersionRequest(ApprovalRef):
    service: ServiceName
    version: int


class RetireVersionStep(StepInput, RetireVersionRequest):
    """Input of the step that destroys a service key version that encrypts no data any more."""


class RootKeyRequest(ApprovalRef):
    """A root key request; reference and encrypted credentials are in PostgreSQL under (tenant, request)."""

    request_id: str


class RootKeyStep(StepInput, RootKeyRequest):
    """Input of a step of a preflight or a change; `number` is 0 for a preflight."""

    number: int = 0


class ChangeRootKeyInput(ApprovalRef):
    tenant_id: TenantId
    region: str
    number: int = Field(description="counts the tenant's changes, from 1; part of the workflow's id")
    request_id: str


class PreflightResult(Message):
    """Result of a preflight; the texts of its problems are in PostgreSQL."""

    problems: int
    code: str = Field("", description="code of the first problem")


class ChangeRootKeyResult(Message):
    """Result of a change: a new root key of `mode`, or the error `code` and no effect."""

    mode: RootKeyMode | None = None
    code: str = ""
    problems: int = Field(0, description="number of problems that the preflight found")


class AbandonInput(RootKeyStep):
    code: str
    reason: str = Field(description="the activity that failed")


class WatchRootKeysInput(Message):
    """One of `shards` parts of a region's root keys."""

    region: str
    shard: int = Field(0, description="number of the part, from 0")
    shards: int = Field(1, description="number of parts")


class WatchResult(Message):
    """Tenants whose root key health requires another tenant status, which their tenant workflows must check."""

    tenants: tuple[TenantId, ...]


class WrapProgress(Message):
    total: int
    wrapped: int
    more: bool = Field(default=False, description="true after a time slice that left keys for the next one")


class SwitchResult(StatusChangeResult):
    switched: bool = Field(description="false while a service key has no wrap under the new root key")
    mode: RootKeyMode
