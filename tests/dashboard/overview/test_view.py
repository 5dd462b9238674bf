"""The texts of the Overview from rows, without a database."""

from dataclasses import replace
from datetime import timedelta

import pytest

from core.isolation import CheckResult
from core.services import ServiceState
from core.tenants.lifecycle import State
from core.tenants.provisioning import NUMBERS, Step, StepState
from dashboard.components.tenant_status import UNDER_WAY, Severity, sentence, standing
from dashboard.isolation import view as isolation
from dashboard.overview import view as overview
from dashboard.overview.progress import progress, ready, stopped
from database.isolation import BoundaryRunRow
from database.keys import KeyRow
from database.provisioning import RouteRow, StepRow
from tests.dashboard.held import HOUR, NOW, a_service
from tests.dashboard.held import TENANT as ENABLED
from tests.database import builders

SECOND = timedelta(seconds=1)
TENANT = replace(ENABLED, requested_at=NOW - 60 * SECOND, ready_at=NOW - 50 * SECOND)
ROUTE = RouteRow("L2-acme-primary", "ab" * 32, "eu-west-1")
L2 = KeyRow("L2-acme-primary", "L2", 3, NOW, 3, NOW)
MADE = replace(TENANT, state=State.PROVISIONING, ready_at=None)


def a_result(clause: str = "M2", outcome: str = "held") -> CheckResult:
    return builders.a_result("read-foreign-row", clause=clause, outcome=outcome, evidence="none")


def a_check(*results: CheckResult) -> isolation.Check:
    found = isolation.check(BoundaryRunRow(NOW - 60 * SECOND, results))
    assert found is not None
    return found


def a_step(step: Step, state: StepState = StepState.DONE, **changed: object) -> StepRow:
    began, ended = (NOW - 50 * SECOND, NOW - 48 * SECOND) if state is StepState.DONE else (None, None)
    return replace(StepRow(NUMBERS[step], step, state, 0, began, ended, None), **changed)


def some_steps(done: int) -> list[StepRow]:
    return [a_step(step, StepState.DONE if number < done else StepState.PENDING) for number, step in enumerate(Step)]


@pytest.mark.parametrize("state", list(State))
def test_every_state_has_a_meaning_and_every_state_but_active_has_advice(state: State) -> None:
    status = standing(state)
    assert status.meaning.endswith(".")
    assert (status.tone is Severity.GOOD) == (state is State.ACTIVE) == (status.advice == "")


def test_a_text_becomes_a_sentence_once() -> None:
    assert [sentence(text) for text in ("", "one", "Two.", "why?")] == ["", "One.", "Two.", "Why?"]


def test_connected_services_are_counted_with_those_seen_recently() -> None:
    services = [
        a_service("a", last_seen_at=NOW - HOUR),
        a_service("b", last_seen_at=NOW - 25 * HOUR),
        a_service("c"),
        a_service("d", ServiceState.DISCONNECTED, last_seen_at=NOW),
    ]
    assert overview.services_using(TENANT, services, NOW) == ("1 of 3", "connected services seen in the last 24 hours")
    assert overview.services_using(TENANT, [], NOW) == ("0", "ready for integration")
    locked = replace(TENANT, state=State.LOCKED)
    assert overview.services_using(locked, [], NOW) == ("0", "none connected")


def test_an_active_tenant_has_three_good_lines() -> None:
    lines = overview.key_management(TENANT, a_check(a_result()), ROUTE, NOW)
    assert [(line.label, line.value) for line in lines] == [
        ("Root key", "Platform-Managed (default)"),
        ("Tenant isolation", "Active ✓"),
        ("Service integration", "Ready ✓"),
    ]
    assert {line.tone for line in lines} == {Severity.GOOD}


@pytest.mark.parametrize(
    ("state", "check", "value"),
    [
        (State.PROVISIONING, None, "Provisioning"),
        (State.PROVISIONING, a_check(a_result()), "Checked"),
        (State.FAILED, None, "Not checked"),
        (State.FAILED, a_check(a_result("U2", "breached")), "Check failed"),
        (State.ACTIVE, a_check(), "Check failed"),
        (State.LOCKED, a_check(a_result()), "Active ✓"),
    ],
)
def test_isolation_is_active_only_when_every_check_passed(state, check, value) -> None:
    _, line, _ = overview.key_management(replace(TENANT, state=state), check, ROUTE, NOW)
    assert line.value == value


@pytest.mark.parametrize(
    ("state", "route", "value"),
    [
        (State.REQUESTED, None, "Not ready"),
        (State.ACTIVE, None, "Blocked"),
        (State.LOCKED, ROUTE, "Blocked"),
        (State.SUSPENDED, ROUTE, "Read only"),
    ],
)
def test_service_integration_is_ready_only_when_services_can_connect(state, route, value) -> None:
    assert overview.key_management(replace(TENANT, state=state), None, route, NOW)[2].value == value


def test_a_customers_root_key_and_a_destroyed_one_are_named() -> None:
    own, gone = replace(TENANT, root_key_mode="aws-kms"), replace(TENANT, state=State.OFFBOARDED)
    assert "BYOK" in overview.key_management(own, None, ROUTE, NOW)[0].value
    assert overview.key_management(gone, None, None, NOW)[0].value == "Destroyed"


def test_before_the_first_stored_step_all_steps_are_waiting() -> None:
    made = progress(MADE, [], 180, NOW)
    assert (made.done, made.total, made.late) == (0, 6, False)
    assert made.elapsed == 60
    assert {line.note for line in made.lines} == {"waiting"}


def test_steps_show_their_duration_and_which_are_running() -> None:
    made = progress(MADE, some_steps(1), 180, NOW)
    assert [line.note for line in made.lines] == [
        "done in 2.0 s",
        "running · 48 s",
        "running · 48 s",
        "waiting",
        "waiting",
        "waiting",
    ]
    assert [line.note for line in progress(MADE, some_steps(3), 180, NOW).lines][3:5] == ["running · 48 s", "waiting"]


def test_of_two_parallel_steps_one_can_end_first() -> None:
    steps = [
        a_step(Step.OPEN_RECORDS),
        a_step(Step.CREATE_KEYS, StepState.RETRYING, attempts=2, problem="vault_unavailable"),
        a_step(Step.CREATE_AUTHORITY, StepState.RETRYING, attempts=1),
        a_step(Step.CHECK_BOUNDARIES, StepState.PENDING),
    ]
    notes = [line.note for line in progress(MADE, steps, 180, NOW).lines]
    assert notes[1] == "retrying after 2 failed attempts: vault_unavailable · 48 s"
    assert notes[2] == "retrying after 1 failed attempt · 48 s"
    assert notes[3] == "waiting"


def test_a_failed_step_shows_its_known_cause() -> None:
    failed = a_step(Step.CREATE_KEYS, StepState.FAILED, problem="vault_refused")
    unexplained = a_step(Step.CREATE_KEYS, StepState.FAILED)
    assert progress(MADE, [failed], 180, NOW).lines[0].note == "failed (vault_refused)"
    assert progress(MADE, [unexplained], 180, NOW).lines[0].note == "failed"
    assert stopped([a_step(Step.OPEN_RECORDS), failed]).endswith("(`vault_refused`).")
    assert stopped([unexplained]).endswith("key.")
    assert stopped([]) == ""


def test_provisioning_is_late_by_time_or_by_stored_state() -> None:
    assert progress(replace(MADE, promise_broken_at=NOW), [], 180, NOW).late
    assert progress(MADE, [], 59, NOW).late
    assert not progress(MADE, [], 61, NOW).late


def test_a_retry_counts_from_its_own_start() -> None:
    long_ago = replace(MADE, requested_at=NOW - timedelta(days=2))
    assert progress(long_ago, some_steps(1), 180, NOW).elapsed == 50


def test_the_time_to_ready_is_compared_with_the_target() -> None:
    assert progress(TENANT, some_steps(6), 180, NOW).elapsed == 10
    assert ready(TENANT, 180) == "Ready 10 s after the request, within the target of 3 min 0 s."
    assert "over the target" in ready(TENANT, 5)
    assert ready(MADE, 180) == ""
    assert State.ACTIVE not in UNDER_WAY
