"""Inputs of what makes compliance reports; the part of `messages` that is about it."""

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
    """Input of a step of making a report: which one; the rest is on record."""

    report_id: ReportId


class SignHeadsResult(Message):
    signed: int


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
    told: NotificationKind | None = None


class DueInput(Message):
    after: str = Field("", description="the tenant behind which to go on")


class DueExamination(Message):
    tenant_id: TenantId
    region: str


class DueResult(Message):
    """Whose examination is due, in order of ids; empty when there is none behind the one asked for."""

    tenants: tuple[DueExamination, ...] = ()
