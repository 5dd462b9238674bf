"""The texts of the operations page, from rows alone."""

from datetime import UTC, datetime, timedelta

import pytest

from core.tenants.lifecycle import State
from core.tenants.locks import LockReason
from core.tenants.provisioning import Step, StepState
from dashboard.operations import view
from database.platform.operators import ListedTenant, Problem, ProvisioningTime, StuckTenant, TenantCount
from database.provisioning import OperationRow, StepRow
from database.tenants import TenantRow

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
PROMISE = 180.0


def a_tenant(state: State = State.ACTIVE, waited: float = 3600, **changed: object) -> TenantRow:
    asked = NOW - timedelta(seconds=waited)
    ready = None if state in {State.REQUESTED, State.PROVISIONING, State.FAILED} else asked + timedelta(seconds=1.94)
    row = TenantRow("acme-corp-12345", "ACME Corporation", "eu-west-1", state, "platform", asked, ready, None)
    return row._replace(**changed)


def a_stuck_one(**changed: object) -> StuckTenant:
    tenant, problem = a_tenant(State.FAILED, waited=480), (Step.CREATE_KEYS, StepState.FAILED, 3, "vault_unavailable")
    row = StuckTenant(tenant.tenant_id, tenant.organization, tenant.region, tenant.state, tenant.requested_at, *problem)
    return row._replace(**changed)


def took(*seconds: float) -> list[ProvisioningTime]:
    return [
        ProvisioningTime(NOW - timedelta(minutes=n), NOW - timedelta(minutes=n) + timedelta(seconds=one))
        for n, one in enumerate(seconds)
    ]


def test_the_totals_are_in_lifecycle_order() -> None:
    totals = view.totals(
        [
            TenantCount("us-east-1", State.ACTIVE, 7, 1),
            TenantCount("eu-west-1", State.FAILED, 2, 2),
            TenantCount("eu-west-1", State.ACTIVE, 1000, 0),
        ]
    )
    assert totals == view.Totals(1009, 3, ((State.FAILED, 2), (State.ACTIVE, 1007)), ("eu-west-1", "us-east-1"))
    assert view.totals([]) == view.Totals(0, 0, (), ())


def test_every_state_and_every_step_has_its_label() -> None:
    assert {view.badge(state).label for state in State} == set(State)
    for state in StepState:
        assert view.step_line(StepRow(1, Step.ACTIVATE, state, 0, None, None, None)).text


def test_a_percentile_is_a_measured_time() -> None:
    times = view.times(took(*[1.5] * 94, *[4.0] * 5, 200.0), PROMISE)
    assert times.percentiles == (("p50", "1.5 s"), ("p95", "4.0 s"), ("p99", "4.0 s"))
    assert times.summary == "newest 100 ready tenants: 1 tenant over the target of 3 min 0 s"
    one = view.times(took(2.5), PROMISE)
    assert one.percentiles == (("p50", "2.5 s"), ("p95", "2.5 s"), ("p99", "2.5 s"))
    assert one.summary == "newest 1 ready tenant: all within the target of 3 min 0 s"
    assert view.times([], PROMISE).percentiles == (("p50", "none"), ("p95", "none"), ("p99", "none"))


def test_the_chart_has_a_point_for_each_tenant_and_includes_the_target() -> None:
    chart: dict = view.times_chart(took(1.5, 0.0), PROMISE)
    (series,) = chart["series"]
    assert [seconds for _, seconds in series["data"]] == [0.01, 1.5]
    assert series["data"][1][0] == "2026-11-25T12:00:00+00:00"
    assert series["markLine"]["data"] == [{"yAxis": PROMISE}]
    assert chart["yAxis"]["max"] == 2 * PROMISE
    assert view.times_chart(took(1000.0), PROMISE)["yAxis"]["max"] == 2000


def test_a_stuck_tenant_shows_waiting_time_step_and_error() -> None:
    line = view.stuck_line(a_stuck_one(), NOW)
    assert line.facts == "eu-west-1 · waiting for 8 min 0 s, since 25 Nov 2026, 11:52 UTC"
    assert line.trouble == (
        "At step 2 of 6, create the L2 tenant key and the payload key, 3 failed attempts."
        " `vault_unavailable`: the key server does not answer;"
        " check that OpenBao or Vault is running and unsealed, its address, and that vault_ca_file has its CA"
    )
    assert line.badge == view.Badge("failed", "red", ":material/error:")


@pytest.mark.parametrize(
    ("changed", "trouble"),
    [
        (
            {"step": None, "step_state": None, "attempts": 0, "problem": None},
            "No step has started: the workflow has not started, or no worker polls its task queue",
        ),
        (
            {"step": Step.ANNOUNCE, "step_state": StepState.PENDING, "attempts": 0, "problem": None},
            "At step 6 of 6, notify the customer. Not started; no error is recorded",
        ),
        (
            {"step": Step.ANNOUNCE, "step_state": StepState.RETRYING, "attempts": 1, "problem": "no_such_code"},
            "At step 6 of 6, notify the customer, 1 failed attempt. `no_such_code`",
        ),
    ],
)
def test_a_waiting_step_need_not_have_an_error(changed: dict, trouble: str) -> None:
    line = view.stuck_line(a_stuck_one(state=State.PROVISIONING, **changed), NOW)
    assert line.trouble == trouble


@pytest.mark.parametrize(
    ("tenant", "trouble"),
    [
        (a_tenant(), ""),
        (a_tenant(promise_broken_at=NOW), "Was delayed: target 3 min 0 s"),
        (a_tenant(State.FAILED), "Provisioning failed: requires attention"),
        (a_tenant(State.PROVISIONING, waited=600), "Delayed: not ready after 10 min 0 s"),
        (a_tenant(State.REQUESTED, waited=30), ""),
    ],
)
def test_a_delayed_tenant_is_marked(tenant: TenantRow, trouble: str) -> None:
    assert view.line(tenant, PROMISE, NOW).trouble == trouble


def test_a_line_shows_age_and_provisioning_time() -> None:
    line = view.line(a_tenant(), PROMISE, NOW)
    assert line.facts == "eu-west-1 · enabled 25 Nov 2026, 11:00 UTC (1 hour ago) · ready after 1.9 s"
    assert view.line(a_tenant(State.FAILED), PROMISE, NOW).facts.endswith("not ready yet")


def test_a_line_as_markdown_is_complete_and_escapes_customer_input() -> None:
    line = view.line(a_tenant(State.FAILED, organization="*A* [b](c)"), PROMISE, NOW)
    assert line.text == (
        r"**acme-corp-12345** :red-badge[:material/error: failed] \*A\* \[b\]\(c\)"
        "  \nProvisioning failed: requires attention"
        "  \n:small[:gray[eu-west-1 · enabled 25 Nov 2026, 11:00 UTC (1 hour ago) · not ready yet]]"
    )
    assert len(view.line(a_tenant(), PROMISE, NOW).text.splitlines()) == 2


def test_a_step_shows_its_result() -> None:
    done = StepRow(1, Step.OPEN_RECORDS, StepState.DONE, 1, NOW, NOW + timedelta(seconds=0.42), None)
    assert (
        view.step_line(done).text == "1 · create the tenant's records and audit stream: done in 0.4 s, 1 failed attempt"
    )
    assert not view.step_line(done).trouble
    failed = StepRow(4, Step.CHECK_BOUNDARIES, StepState.FAILED, 1, None, NOW, "isolation_breached")
    shown = view.step_line(failed)
    assert shown.icon == ":material/error:"
    assert shown.text == "4 · run the isolation checks: failed, 1 failed attempt"
    assert shown.trouble.startswith("`isolation_breached`: stop enabling tenants")


@pytest.mark.parametrize(
    ("tenant", "label", "said"),
    [
        (None, None, "No canary tenant yet"),
        (a_tenant(), "active", "Ready"),
        (a_tenant(State.FAILED), "failed", "Not ready"),
    ],
)
def test_the_canary_shows_its_effect_on_other_tenants(tenant: TenantRow | None, label: str | None, said: str) -> None:
    badge, text = view.canary(tenant)
    assert (badge.label if badge else None) == label
    assert text.startswith(said)


def test_links_lead_to_the_workflows_of_a_tenant_and_keep_the_slash_of_an_id() -> None:
    base = "http://127.0.0.1:18233/namespaces/default/workflows"
    assert view.workflow_links("http://127.0.0.1:18233", "acme-corp-12345") == (
        ("Open in Temporal UI", f"{base}/tenant%2Facme-corp-12345"),
        ("Isolation checks in Temporal UI", f"{base}/tenant%2Facme-corp-12345%2Fisolation"),
        ("All workflows in Temporal UI", f"{base}?query=TenantId%3D%22acme-corp-12345%22"),
    )


def test_every_problem_has_a_title_and_every_counted_one_a_counter() -> None:
    assert len({view.problem_title(problem) for problem in Problem}) == len(Problem)
    counters = view.problem_counters({Problem.ROOT_KEY: 2})
    assert {counter.problem for counter in counters} == set(Problem) - {Problem.ANY, Problem.LATE}
    assert [(one.label, one.tenants) for one in counters if one.tenants] == [("Root key out of reach", 2)]


def test_a_row_states_locks_times_and_problems() -> None:
    locked = a_tenant(State.LOCKED, locks=(LockReason.MANUAL, LockReason.BREACH))
    row = view.row(ListedTenant(locked, (Problem.ISOLATION, Problem.REQUESTS)), PROMISE, NOW)
    assert row["Locks"] == "by a user, isolation check failed"
    assert row["Problem"] == "Isolation check failed. Requests rejected in 5 minutes"
    assert row["Ready after, s"] == pytest.approx(1.94)
    failed = view.row(ListedTenant(a_tenant(State.FAILED), (Problem.PROVISIONING,)), PROMISE, NOW)
    assert (failed["Problem"], failed["Ready after, s"]) == ("Provisioning failed: requires attention", None)
    assert [lock.title for lock in view.lock_lines(locked)] == ["Locked: by a user", "Locked: isolation check failed"]


def test_an_operation_is_done_failed_or_running() -> None:
    done, failed = (
        OperationRow("provision/1", NOW, 6, 6, failed=False, problem=None),
        OperationRow("p/2", NOW, 6, 3, failed=True, problem="code"),
    )
    running = failed._replace(failed=False)
    assert [view.operation_row(one)["State"] for one in (done, failed, running)] == ["done", "failed", "running"]
