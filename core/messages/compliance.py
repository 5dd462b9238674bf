"""Inputs and results of workflows and activities for compliance reports and isolation assessments."""

from typing import Annotated

from pydantic import Field, StringConstraints

from core.messages.base import Message, StepInput
from core.names import TenantId
from core.notifications import NotificationKind

ReportId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]


class MakeReportInput(Message):
    tenant_id: TenantId
    report_id: ReportId


class ReportStep(StepInput):
    """Input of a step that creates a report; its other parameters are in PostgreSQL."""

    report_id: ReportId


class SignHeadsResult(Message):
    signed: int


class BoundariesInput(Message):
    tenant_id: TenantId
    region: str
    repeat: bool = Field(
        default=False,
        description="run also the shared checks that ran recently for all tenants, because a user requested a result",
    )
    daily: bool = Field(
        default=False, description="started by the schedule: complete only if a complete assessment is due"
    )


class ExamineInput(StepInput):
    """Input of the assessment; its operation id is the id of the run, the same for each retry."""

    repeat: bool = False
    daily: bool = False


class ExamineResult(Message):
    """Result of an assessment; the check results are in PostgreSQL under (tenant, run)."""

    examined: bool = Field(description="false if the tenant was offboarded meanwhile, so there was nothing to assess")
    held: int = 0
    breached: int = 0
    not_checked: int = 0
    complete: bool = Field(default=True, description="false for a daily assessment, which makes only a part of them")
    notification: NotificationKind | None = None


class DueInput(Message):
    after: str = Field("", description="the last tenant of the previous page")


class DueExamination(Message):
    tenant_id: TenantId
    region: str


class DueResult(Message):
    """Tenants whose assessment is due, in the order of their ids; empty after the last page."""

    tenants: tuple[DueExamination, ...] = ()
    per_second: float = Field(default=2.0, gt=0, description="assessments that the search starts in a second")
