"""Base classes of the messages between workflows and activities."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from core.names import TenantId
from core.notifications import NotificationKind
from openkcm.contract.names import parse_service_name

ServiceName = Annotated[str, AfterValidator(parse_service_name)]


class Message(BaseModel):
    model_config = ConfigDict(frozen=True)


class StepInput(Message):
    """Input of a step that needs only the tenant and the operation."""

    tenant_id: TenantId
    operation_id: str


class AnnounceInput(StepInput):
    kind: NotificationKind


class FailureInput(StepInput):
    code: str
    reason: str = Field(description="the activity that failed")


class ApprovalRef(Message):
    """Input of an operation that may need an approval."""

    approval_id: str | None = Field(None, description="approval by a second person, if one is required")


class TenantsResult(Message):
    tenants: tuple[TenantId, ...]
