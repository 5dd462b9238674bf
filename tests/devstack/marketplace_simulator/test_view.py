"""What the development marketplace shows of an account, from the endpoint's status document alone."""

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
    """Return what the real endpoint says of such a tenant."""
    asked = NOW - timedelta(seconds=waited)
    ready = (
        asked + timedelta(seconds=1.25) if state not in {State.REQUESTED, State.PROVISIONING, State.FAILED} else None
    )
    row = TenantRow("acme-corp-12345", "ACME Corporation", "eu-west-1", state, "platform", asked, ready, None)
    rows = [
        StepRow(NUMBERS[step], step, how, 1, asked, NOW if how is StepState.DONE else None, None)
        for step, how in (steps or {}).items()
    ]
    return status_answer(row, rows, "http://127.0.0.1:18501").model_dump(mode="json") | changed


def test_an_account_that_never_clicked_is_offered_it() -> None:
    assert view.standing(None, PROMISE, NOW).stage is Stage.OFFERED


def test_every_state_of_a_tenant_has_its_stage() -> None:
    stages = {state: view.standing(a_status(state), PROMISE, NOW).stage for state in State}
    assert {state for state, stage in stages.items() if stage is Stage.PREPARING} == {
        State.REQUESTED,
        State.PROVISIONING,
    }
    assert {state for state, stage in stages.items() if stage is Stage.LEFT} == {State.LEAVING, State.OFFBOARDED}
    assert {state for state, stage in stages.items() if stage is Stage.FAILED} == {State.FAILED}
    assert stages[State.ACTIVE] is stages[State.LOCKED] is stages[State.SUSPENDED] is Stage.ENABLED


def test_the_click_is_confirmed_and_six_steps_are_there_before_any_has_begun() -> None:
    standing = view.standing(a_status(State.REQUESTED), PROMISE, NOW)
    assert standing.title == "OpenKCM is being provisioned for ACME Corporation"
    assert standing.detail == "2.0 s since the click"
    assert (len(standing.steps), standing.done, standing.late) == (6, 0.0, "")


def test_progress_counts_what_is_done_and_names_what_is_tried_again() -> None:
    steps = {
        Step.OPEN_RECORDS: StepState.DONE,
        Step.CREATE_KEYS: StepState.RETRYING,
        Step.CREATE_AUTHORITY: StepState.FAILED,
    }
    standing = view.standing(a_status(State.PROVISIONING, steps=steps), PROMISE, NOW)
    assert standing.done == pytest.approx(1 / 6)
    assert [step.text for step in standing.steps[:4]] == [
        "1 · open the tenant's records and audit stream · 2.0 s",
        "2 · create the L2 tenant key and the payload key · being tried again after 1 failed try",
        "3 · create the certificate authority · failed",
        "4 · attack the boundaries",
    ]


@pytest.mark.parametrize("late", [a_status(State.PROVISIONING, 181), a_status(State.REQUESTED, promise_broken=True)])
def test_late_says_what_happens_now(late: dict) -> None:
    assert "nothing is lost" in view.standing(late, PROMISE, NOW).late


def test_ready_is_told_in_the_customers_words_with_the_way_to_the_dashboard() -> None:
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


def test_failed_and_left_say_so() -> None:
    failed = view.standing(a_status(State.FAILED), PROMISE, NOW)
    assert failed.title == "OpenKCM could not be prepared for ACME Corporation"
    assert "none of your data is affected" in failed.message
    assert view.standing(a_status(State.LEAVING), PROMISE, NOW).detail == "The account is leaving."
    gone = view.standing(a_status(State.OFFBOARDED), PROMISE, NOW)
    assert (gone.title, gone.detail) == (
        "ACME Corporation has left OpenKCM",
        "Its keys are gone and its id is never used again.",
    )


@pytest.mark.parametrize(
    ("tenant_id", "organization", "problem"),
    [
        ("gamma-corp-1", "Gamma Corp", ""),
        ("Gamma", "Gamma Corp", "“Gamma” cannot be an account id: use 3 to 40 lower-case letters"),
        ("openkcm-canary", "Gamma Corp", "“openkcm-canary” cannot be an account id"),
        ("", "Gamma Corp", "“” cannot be an account id"),
        ("gamma-corp-1", "", "Say the organization's name"),
        ("gamma-corp-1", "x" * 201, "The organization's name is longer than 200 characters"),
    ],
)
def test_a_typed_account_is_checked(tenant_id: str, organization: str, problem: str) -> None:
    found = view.account_problem(tenant_id, organization)
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


def test_the_accounts_are_the_customers_of_the_story() -> None:
    assert [account.label for account in view.ACCOUNTS] == [
        "ACME Corporation · acme-corp-12345",
        "Beta Corp · beta-corp-67890",
    ]
