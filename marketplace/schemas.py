"""Models of the responses, which the OpenAPI document contains."""

from datetime import datetime

from pydantic import BaseModel

from core.notifications import NotificationKind, announcement_text, dashboard_url
from core.tenants.lifecycle import State
from core.tenants.provisioning import TITLES, StepState
from database.provisioning import StepRow
from database.tenants import TenantRow


class EventAnswer(BaseModel):
    """The event is stored and will take effect. `status_url` requires the marketplace's token."""

    tenant_id: str
    state: State
    event_id: str
    duplicate: bool
    status_url: str


class StepAnswer(BaseModel):
    """One numbered step of the newest operation; `attempts` counts failed attempts."""

    number: int
    name: str
    title: str
    state: StepState
    attempts: int
    started_at: datetime | None
    finished_at: datetime | None


class StatusAnswer(BaseModel):
    """The state of a tenant; `ready_seconds` counts from the stored event and is null until the tenant was ready."""

    tenant_id: str
    organization: str
    region: str
    state: State
    requested_at: datetime
    ready_at: datetime | None
    ready_seconds: float | None
    dashboard_url: str
    provisioning_slo_breached: bool
    steps: list[StepAnswer]
    announcement: str | None


class ProblemAnswer(BaseModel):
    """RFC 9457; `code` is stable, `hint` is the next step."""

    title: str
    status: int
    code: str
    detail: str
    hint: str


def status_answer(row: TenantRow, steps: list[StepRow], base_url: str) -> StatusAnswer:
    """Return the data that the marketplace can see of a tenant; the reason for a failed step is not part of it."""
    url = dashboard_url(base_url, row.tenant_id)
    ready = row.state is State.ACTIVE
    return StatusAnswer(
        tenant_id=row.tenant_id,
        organization=row.organization,
        region=row.region,
        state=row.state,
        requested_at=row.requested_at,
        ready_at=row.ready_at,
        ready_seconds=None if row.ready_at is None else (row.ready_at - row.requested_at).total_seconds(),
        dashboard_url=url,
        provisioning_slo_breached=row.promise_broken_at is not None,
        steps=[
            StepAnswer(
                number=step.number,
                name=step.step,
                title=TITLES[step.step],
                state=step.state,
                attempts=step.attempts,
                started_at=step.started_at,
                finished_at=step.finished_at,
            )
            for step in steps
        ],
        announcement=announcement_text(NotificationKind.READY, row.organization, url)[1] if ready else None,
    )


class RegionAnswer(BaseModel):
    region: str
    https: str
    kmip: str


class EnrolmentOptionsAnswer(BaseModel):
    """The URL and the attestations for enrolment."""

    url: str
    proofs: list[str]
    issuers: list[str]
    audience: str


class DiscoveryAnswer(BaseModel):
    """Public data. `ca` is the root of the crypto service's certificate; `ca_sha256` is the hash of its DER form."""

    service: str
    versions: dict[str, list[str]]
    regions: list[RegionAnswer]
    ca: str
    ca_sha256: str
    enrolment: EnrolmentOptionsAnswer


class EnrolmentAnswer(BaseModel):
    """The enrolment is stored and will take effect. The ticket permits only reading its result."""

    enrolment_id: str
    ticket: str
    status_url: str
    retry_seconds: int


class EnrolmentProblem(BaseModel):
    code: str
    message: str
    hint: str


class EnrolmentStatusAnswer(BaseModel):
    """The status of an enrolment. `chain` contains the issuers of the certificate and ends with `ca`."""

    state: str
    tenant_id: str
    service: str
    kind: str
    region: str
    certificate: str | None
    chain: str | None
    ca: str | None
    https: str | None
    kmip: str | None
    not_after: datetime | None
    problem: EnrolmentProblem | None
