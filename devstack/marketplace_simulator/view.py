"""The content of the development marketplace for an account: offer, progress, and next action."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from core.notifications import NotificationKind, announcement_text
from core.tenants.lifecycle import State
from core.tenants.provisioning import NUMBERS, TITLES, StepState
from dashboard.components import formatting as words
from openkcm.contract.names import parse_tenant_id
from openkcm.errors import IllegalTenantId

SERVICE = "OpenKCM - Customer Managed Key Service"
DETAILS = (
    "Customer-controlled encryption keys",
    "Multi-tenant isolation",
    "KMIP protocol support",
    "Compliance ready (SOC2, GDPR, PCI DSS)",
    "Automatic service integration",
)
_LONGEST_ORGANIZATION = 200


class Stage(StrEnum):
    """The state of the account from the view of its owner."""

    OFFERED = "offered"
    PREPARING = "preparing"
    ENABLED = "enabled"
    FAILED = "failed"
    LEFT = "left"


_STAGES = {
    State.REQUESTED: Stage.PREPARING,
    State.PROVISIONING: Stage.PREPARING,
    State.FAILED: Stage.FAILED,
    State.LEAVING: Stage.LEFT,
    State.OFFBOARDED: Stage.LEFT,
}
_SIGNS = {
    StepState.PENDING: ":material/radio_button_unchecked:",
    StepState.RETRYING: ":material/sync:",
    StepState.DONE: ":material/check_circle:",
    StepState.FAILED: ":material/error:",
}


@dataclass(frozen=True, slots=True)
class Account:
    """A customer account of the platform."""

    tenant_id: str
    organization: str

    @property
    def label(self) -> str:
        return f"{self.organization} · {self.tenant_id}"


ACCOUNTS = (Account("acme-corp-12345", "ACME Corporation"), Account("beta-corp-67890", "Beta Corp"))


@dataclass(frozen=True, slots=True)
class StepLine:
    icon: str
    text: str


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of an account. `done` is the share of complete steps, 0 to 1; `message` was sent to its owner."""

    stage: Stage
    organization: str
    title: str
    detail: str
    message: str
    late: str
    dashboard_url: str
    steps: tuple[StepLine, ...] = ()
    done: float = 0.0


def account_problem(tenant_id: str, organization: str) -> str:
    """Return what is wrong with a typed account, empty if it can be enabled."""
    try:
        parse_tenant_id(tenant_id)
    except IllegalTenantId as refused:
        return f"“{tenant_id}” is not a valid account id: use {refused.hint}"
    if not organization:
        return "Enter the name of the organization; every message to the customer contains it"
    if len(organization) > _LONGEST_ORGANIZATION:
        return f"The organization's name is longer than {_LONGEST_ORGANIZATION} characters"
    return ""


def standing(status: Mapping[str, Any] | None, provisioning_slo_seconds: float, now: datetime) -> Standing:
    """Return the view of the endpoint's status document, None for an account that was never enabled."""
    if status is None:
        return Standing(Stage.OFFERED, "", "", "", "", "", "")
    state, organization, url = State(status["state"]), str(status["organization"]), str(status["dashboard_url"])
    stage = _STAGES.get(state, Stage.ENABLED)
    waited = (now - datetime.fromisoformat(status["requested_at"])).total_seconds()
    late = stage is Stage.PREPARING and (bool(status["provisioning_slo_breached"]) or waited > provisioning_slo_seconds)
    found = {step["number"]: step for step in status["steps"]}
    steps = [found.get(number, {}) for number in NUMBERS.values()]
    return Standing(
        stage,
        organization,
        _title(stage, organization),
        _detail(status, stage, state, waited),
        _message(status, stage, organization, url),
        announcement_text(NotificationKind.LATE, organization, url)[1] if late else "",
        url,
        tuple(_step(title, step) for title, step in zip(TITLES.values(), steps, strict=True)),
        sum(step.get("state") == StepState.DONE for step in steps) / len(steps),
    )


def confirmation(organization: str) -> str:
    """Return the text of the response to the enable button."""
    return f"OpenKCM is being provisioned for {organization}"


def _title(stage: Stage, organization: str) -> str:
    return {
        Stage.PREPARING: confirmation(organization),
        Stage.ENABLED: f"OpenKCM is enabled for {organization}",
        Stage.FAILED: f"OpenKCM could not be provisioned for {organization}",
    }.get(stage, f"{organization} was offboarded")


def _detail(status: Mapping[str, Any], stage: Stage, state: State, waited: float) -> str:
    if stage is Stage.PREPARING:
        return f"{words.span(waited)} since the click"
    if stage is Stage.LEFT:
        return (
            "Offboarding is in progress." if state is State.LEAVING else "All keys are destroyed. The id is not reused."
        )
    ready = status["ready_seconds"]
    took = "" if ready is None else f" · ready {words.span(ready)} after the click"
    return f"Account {status['tenant_id']} · region {status['region']} · {state.value}{took}"


def _message(status: Mapping[str, Any], stage: Stage, organization: str, url: str) -> str:
    if stage is Stage.FAILED:
        return announcement_text(NotificationKind.FAILED, organization, url)[1]
    return str(status["announcement"] or "")


def _step(title: str, step: Mapping[str, Any]) -> StepLine:
    state = StepState(step.get("state", StepState.PENDING))
    suffix = ""
    if state is StepState.DONE and step["started_at"] and step["finished_at"]:
        took = datetime.fromisoformat(step["finished_at"]) - datetime.fromisoformat(step["started_at"])
        suffix = f" · {words.span(took.total_seconds())}"
    elif state is StepState.RETRYING:
        suffix = f" · retrying after {words.count(step['attempts'], 'failed attempt', 'failed attempts')}"
    elif state is StepState.FAILED:
        suffix = " · failed"
    return StepLine(_SIGNS[state], f"{title}{suffix}")
