"""Inputs of what makes compliance reports; the part of `messages` that is about it."""

from typing import Annotated

from pydantic import StringConstraints

from tenancy.ids import TenantId
from tenancy.messages import Message, StepInput

ReportId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]


class MakeReportInput(Message):
    tenant_id: TenantId
    report_id: ReportId


class ReportStep(StepInput):
    """Input of a step of making a report: which one; the rest is on record."""

    report_id: ReportId
