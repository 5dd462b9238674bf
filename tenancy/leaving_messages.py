"""Inputs and results of what lets a tenant leave and comes after; the part of `messages` that is about it."""

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from tenancy.ids import TenantId
from tenancy.leaving import LONGEST_GRACE
from tenancy.messages import Approved, Message, ServiceName, StandingResult, StepInput


class LeaveReason(StrEnum):
    """Who let a tenant leave; no words of theirs, which would stay in histories."""

    OPERATOR = "operator"
    CUSTOMER = "customer"
    MARKETPLACE = "marketplace"


class LeaveRequest(Approved):
    """What somebody asks for who lets a tenant leave; `now` is without any grace."""

    grace_seconds: float | None = Field(None, gt=0, le=LONGEST_GRACE.total_seconds(), description="None: the usual")
    reason: LeaveReason = LeaveReason.OPERATOR
    now: bool = False


class LeaveInput(StepInput, LeaveRequest):
    """Input of the step that lets a tenant leave."""


class LeavingResult(StandingResult):
    since: datetime
    until: datetime


class OffboardInput(Message):
    tenant_id: TenantId
    region: str
    number: int = Field(description="counts how often the tenant began to leave, from 1")
    since: datetime
    until: datetime


class BegunResult(Message):
    begun: bool = Field(description="false when the tenant was restored")


class Stock(Message):
    """What there is to destroy, as far as a workflow has to know it."""

    services: tuple[ServiceName, ...] = Field(description="those that are connected or have a workflow")


class OffboardResult(Message):
    destroyed: bool = Field(description="false when the tenant was restored in the last moment")
