"""The content of the development marketplace for an account, from the endpoint's status document alone."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.tenants.lifecycle import State
from core.tenants.provisioning import NUMBERS, Step, StepState
from database.provisioning import StepRow
from database.tenants import TenantRow
from devstack.marketplace_simulator import view
from devstack.marketplace_simulator.view import Stage
from marketplace.schemas import status_answer

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
PROMISE = 180.0


def a_status(state: State, waited: float = 2.0, steps: dict[Step, StepState] | None = None, **changed: Any) -> dict:
    """Return the real endpoint's status document of such a tenant."""
    requested_at = NOW - timedelta(seconds=waited)
    ready = (
        requested_at + timedelta(seconds=1.25)
        if state not in {State.REQUESTED, State.PROVISIONING, State.FAILED}
        else None
    )
    row = TenantRow("acme-corp-12345", "ACME Corporation", "eu-west-1", state, "platform", requested_at, ready, None)
    rows = [
        StepRow(NUMBERS[step], step, step_state, 1, requested_at, NOW if step_state is StepState.DONE else None, None)
        for step, step_state in (steps or {}).items()
    ]
    return status_answer(row, rows, "http://127.0.0.1:18501").model_dump(mode="json") | changed


def test_account_that_was_never_enabled_gets_the_offer() -> None:
    assert view.standing(None, PROMISE, NOW).stage is Stage.OFFERED


def test_every_tenant_state_has_its_stage() -> None:
    stages = {state: view.standing(a_status(state), PROMISE, NOW).stage for state in State}
    assert {state for state, stage in stages.items() if stage is Stage.PREPARING} == {
        State.REQUESTED,
        State.PROVISIONING,
    }
    assert {state for state, stage in stages.items() if stage is Stage.LEFT} == {State.LEAVING, State.OFFBOARDED}
    assert {state for state, stage in stages.items() if stage is Stage.FAILED} == {State.FAILED}
    assert stages[State.ACTIVE] is stages[State.LOCKED] is stages[State.SUSPENDED] is Stage.ENABLED


def test_requested_tenant_is_confirmed_with_six_pending_steps() -> None:
    standing = view.standing(a_status(State.REQUESTED), PROMISE, NOW)
    assert standing.title == "OpenKCM is being provisioned for ACME Corporation"
    assert standing.detail == "2.0 s since the click"
    assert (len(standing.steps), standing.done, standing.late) == (6, 0.0, "")


def test_progress_counts_complete_steps_and_names_retried_ones() -> None:
    steps = {
        Step.OPEN_RECORDS: StepState.DONE,
        Step.CREATE_KEYS: StepState.RETRYING,
        Step.CREATE_AUTHORITY: StepState.FAILED,
    }
    standing = view.standing(a_status(State.PROVISIONING, steps=steps), PROMISE, NOW)
    assert standing.done == pytest.approx(1 / 6)
    assert [step.text for step in standing.steps[:4]] == [
        "1 · create the tenant's records and audit stream · 2.0 s",
        "2 · create the L2 tenant key and the payload key · retrying after 1 failed attempt",
        "3 · create the tenant CA · failed",
        "4 · run the isolation checks",
    ]


@pytest.mark.parametrize(
    "late", [a_status(State.PROVISIONING, 181), a_status(State.REQUESTED, provisioning_slo_breached=True)]
)
def test_late_provisioning_shows_its_notification(late: dict) -> None:
    assert "nothing is lost" in view.standing(late, PROMISE, NOW).late


def test_ready_message_contains_the_dashboard_address() -> None:
    standing = view.standing(a_status(State.ACTIVE), PROMISE, NOW)
    assert standing.message.splitlines() == [
        "OpenKCM is ready for ACME Corporation!",
        "",
        "✓ Tenant environment created",
        "✓ Encryption keys configured",
        "✓ Services can now request encryption keys",
        "✓ CMK UI available at: http://127.0.0.1:18501/tenant/acme-corp-12345",
    ]
    assert standing.dashboard_url == "http://127.0.0.1:18501/tenant/acme-corp-12345"
    assert standing.detail == "Account acme-corp-12345 · region eu-west-1 · active · ready 1.2 s after the click"


def test_failed_and_offboarded_tenants_have_their_titles() -> None:
    failed = view.standing(a_status(State.FAILED), PROMISE, NOW)
    assert failed.title == "OpenKCM could not be provisioned for ACME Corporation"
    assert "none of your data is affected" in failed.message
    assert view.standing(a_status(State.LEAVING), PROMISE, NOW).detail == "Offboarding is in progress."
    offboarded = view.standing(a_status(State.OFFBOARDED), PROMISE, NOW)
    assert (offboarded.title, offboarded.detail) == (
        "ACME Corporation was offboarded",
        "All keys are destroyed. The id is not reused.",
    )


@pytest.mark.parametrize(
    ("tenant_id", "organization", "problem"),
    [
        ("gamma-corp-1", "Gamma Corp", ""),
        ("Gamma", "Gamma Corp", "“Gamma” is not a valid account id: use 3 to 40 lower-case letters"),
        ("openkcm-canary", "Gamma Corp", "“openkcm-canary” is not a valid account id"),
        ("", "Gamma Corp", "“” is not a valid account id"),
        ("gamma-corp-1", "", "Enter the name of the organization"),
        ("gamma-corp-1", "x" * 201, "The organization's name is longer than 200 characters"),
    ],
)
def test_typed_account_is_validated(tenant_id: str, organization: str, problem: str) -> None:
    found = view.account_problem(tenant_id, organization)
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


def test_accounts_are_those_of_the_demonstration() -> None:
    assert [account.label for account in view.ACCOUNTS] == [
        "ACME Corporation · acme-corp-12345",
        "Beta Corp · beta-corp-67890",
    ]
