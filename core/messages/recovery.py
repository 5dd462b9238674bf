"""Inputs and results of the recovery of workflows and of repairs."""

from pydantic import Field

from core.messages.base import Message, ServiceName
from core.names import TenantId


class RecoveryCursor(Message):
    """The last tenant or service of a page; the next page starts behind it. Services follow after all tenants."""

    tenant_id: TenantId | None = Field(None, description="None before the first page")
    service: ServiceName | None = None
    services: bool = Field(default=False, description="whether all tenants are checked and services follow")


class RecoveryPage(Message):
    """The result of one page."""

    started: int = Field(description="number of started workflows")
    next: RecoveryCursor | None = Field(None, description="None after the last page")


class RecoverTenantInput(Message):
    tenant_id: TenantId


class RepairTenantInput(Message):
    tenant_id: TenantId
    request_id: str = Field(max_length=40, description="identifies the request in the audit stream")
    replace_workflows: bool = Field(description="whether the tenant's workflows start again from its rows")
