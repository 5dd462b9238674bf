"""The texts of the Overview from rows, without a database."""

from dataclasses import replace
from datetime import timedelta

import pytest

from core.services import ServiceState
from core.tenants.approvals import Action, Approval, ApprovalState
from core.tenants.lifecycle import State
from core.tenants.provisioning import NUMBERS, Step, StepState
from core.tenants.status import (
    CoverageFacts,
    IsolationFacts,
    RootKeyFacts,
    Status,
    verdict,
)
from core.usage import Latency
from dashboard.components.attention import AttentionItem
from dashboard.components.tenant_status import UNDER_WAY, Severity, sentence, standing
from dashboard.overview import view as overview
from dashboard.overview.progress import progress, ready, stopped
from database.keys import KeyRow
from database.provisioning import RouteRow, StepRow
from database.usage import HourSum
from tests.dashboard.held import HOUR, NOW, PROCESSES, WELL, a_service
from tests.dashboard.held import TENANT as ENABLED

SECOND = timedelta(seconds=1)
TENANT = ENABLED._replace(requested_at=NOW - 60 * SECOND, ready_at=NOW - 50 * SECOND)
ROUTE = RouteRow("L2-acme-primary", "ab" * 32, "eu-west-1")
L2 = KeyRow("L2-acme-primary", "L2", 3, NOW, 3, NOW)
MADE = TENANT._replace(state=State.PROVISIONING, ready_at=None)


SILENT_SERVER = tuple(replace(one, key_server=one.key_server and "vault_unavailable") for one in PROCESSES)


def a_step(step: Step, state: StepState = StepState.DONE, **changed: object) -> StepRow:
    began, ended = (NOW - 50 * SECOND, NOW - 48 * SECOND) if state is StepState.DONE else (None, None)
    return StepRow(NUMBERS[step], step, state, 0, began, ended, None)._replace(**changed)


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
    locked = TENANT._replace(state=State.LOCKED)
    assert overview.services_using(locked, [], NOW) == ("0", "none connected")


def test_a_measured_tenant_has_three_operational_lines() -> None:
    lines = overview.key_management(TENANT, verdict(WELL))
    assert [(line.label, line.value, line.status) for line in lines] == [
        ("Root key", "Platform-Managed (default)", Status.OPERATIONAL),
        ("Tenant isolation", "Active ✓", Status.OPERATIONAL),
        ("Service integration", "Ready ✓", Status.OPERATIONAL),
    ]


@pytest.mark.parametrize(
    ("changed", "line", "value", "status"),
    [
        ({"processes": SILENT_SERVER}, 2, "Impaired", Status.STOPPED),
        ({"refused": 2}, 2, "Impaired", Status.DEGRADED),
        ({"processes": None}, 2, "Not measured", Status.UNKNOWN),
        ({"isolation": None}, 1, "Not confirmed", Status.UNKNOWN),
        ({"isolation": IsolationFacts(NOW, passed=False)}, 1, "Check failed", Status.STOPPED),
        ({"root_key": RootKeyFacts("root_key_disabled", "")}, 0, "Platform-Managed (default)", Status.STOPPED),
    ],
)
def test_no_line_is_operational_without_a_measurement_that_says_so(changed, line, value, status) -> None:
    found = overview.key_management(TENANT, verdict(replace(WELL, **changed)))[line]
    assert (found.value, found.status) == (value, status)


@pytest.mark.parametrize(
    ("state", "value"),
    [
        (State.REQUESTED, "Not ready"),
        (State.LOCKED, "Blocked"),
        (State.OFFBOARDED, "Blocked"),
        (State.SUSPENDED, "Read only"),
    ],
)
def test_service_integration_is_ready_only_when_services_can_connect(state: State, value: str) -> None:
    tenant = TENANT._replace(state=state)
    assert overview.key_management(tenant, verdict(replace(WELL, state=state)))[2].value == value


def test_metrics_have_a_course_of_a_day_and_say_what_was_rejected() -> None:
    latency = Latency((0,) * 10 + (100,) + (0,) * 29, 50_000)
    hour = overview.first_hour(NOW)
    course = [HourSum(hour, 90, 10, latency), HourSum(hour + 5 * HOUR, 100, 0, latency)]
    requests, rejected, p95, coverage = overview.metrics(course, CoverageFacts(7, 8, is_complete=False), NOW)
    assert (requests.value, rejected.value, rejected.note) == ("200", "10", "5.00 %")
    assert len(requests.course) == overview.HOURS
    assert (requests.course[0], requests.course[1], rejected.course[0]) == (100.0, 0.0, 10.0)
    assert p95.value == "512 µs"
    assert requests.summary == "Requests by hour: lowest 0, highest 100, newest 0"
    assert p95.summary == "p95 latency by hour: lowest 512 µs, highest 512 µs, newest 512 µs"
    assert coverage.value == "7 of 8"
    empty = overview.metrics([], None, NOW)
    assert [one.value for one in empty] == ["0", "0", "not timed", "0"]
    assert empty[1].note == "no requests"


def test_attention_names_pending_approvals_and_gaps_the_most_urgent_first() -> None:
    certificate = AttentionItem("Certificate", "has expired", "services", Severity.BAD, "ledger")
    asked = Approval(
        approval_id="a",
        action=Action.LOCK,
        argument={},
        requested_by="kai",
        requested_name="Kai",
        state=ApprovalState.PENDING,
        requested_at=NOW,
        expires_at=NOW + HOUR,
    )
    waiting = [asked]
    items = overview.attention(WELL, waiting, CoverageFacts(1, 3, is_complete=False), [certificate])
    assert [one.subject for one in items] == ["Certificate", "Approval", "Coverage"]
    assert items[2].words == "2 services have gaps"
    assert overview.attention(WELL, [], CoverageFacts(0, 0, is_complete=False), []) == ()


@pytest.mark.parametrize(
    ("coverage", "words"),
    [
        (CoverageFacts(2, 4, is_complete=False, unlisted=2), "2 services have no listed fields"),
        (CoverageFacts(1, 3, is_complete=False, unlisted=1), "1 service has gaps and 1 service has no listed fields"),
        (CoverageFacts(3, 3, is_complete=False), "encryption is rejected in the tenant's state"),
    ],
)
def test_a_service_without_listed_fields_has_no_known_gap(coverage: CoverageFacts, words: str) -> None:
    assert [one.words for one in overview.attention(WELL, [], coverage, [])] == [words]


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
    assert progress(MADE._replace(promise_broken_at=NOW), [], 180, NOW).late
    assert progress(MADE, [], 59, NOW).late
    assert not progress(MADE, [], 61, NOW).late


def test_a_retry_counts_from_its_own_start() -> None:
    long_ago = MADE._replace(requested_at=NOW - timedelta(days=2))
    assert progress(long_ago, some_steps(1), 180, NOW).elapsed == 50


def test_the_time_to_ready_is_compared_with_the_target() -> None:
    assert progress(TENANT, some_steps(6), 180, NOW).elapsed == 10
    assert ready(TENANT, 180) == "Ready 10 s after the request, within the target of 3 min 0 s."
    assert "over the target" in ready(TENANT, 5)
    assert ready(MADE, 180) == ""
    assert State.ACTIVE not in UNDER_WAY
