"""`openkcmctl isolation check`, and the unlock of a tenant that a breach locked."""

from datetime import UTC, datetime

import pytest

from core.errors.compliance import AssessmentFailed, BreachNotCleared, NothingToExamine
from core.tenants.lifecycle import Transition
from core.tenants.locks import LockReason
from tests.cli.root_key_stand import refused
from tests.dashboard.scene import ACME
from tests.database.builders import a_provisioned_tenant, a_result, an_examination
from workflows.client.updates import UpdateRejected

HELD = a_result("by-canary/read", evidence="0 rows")
NOT_CHECKED = a_result("crypto-api/decrypt", clause="A2", outcome="not-checked", evidence="the tenant is locked")
BREACHED = a_result("by-canary/use-key", clause="U2", outcome="breached", evidence="answered 200")


@pytest.fixture
def beta(operator_cli) -> str:
    a_provisioned_tenant(operator_cli.worker, "beta-corp")
    with operator_cli.worker.tenant_tx("beta-corp") as tx:
        tx.tenants.move(Transition.ACTIVATE)
    return "beta-corp"


def test_a_passed_assessment_returns_the_documented_fields_and_status_0(operator_cli) -> None:
    operator_cli.gateway.attacks[ACME] = (HELD, NOT_CHECKED)
    document = operator_cli.run("isolation", "check", ACME)
    assert document["passed"] is True
    assert document["checks"] == [
        {"clause": "M2", "name": "by-canary/read", "outcome": "held", "seconds": 0.001},
        {
            "clause": "A2",
            "name": "crypto-api/decrypt",
            "outcome": "not-checked",
            "seconds": 0.001,
            "why": "the tenant is locked",
        },
    ]
    assert operator_cli.gateway.asked == [f"check {ACME} in eu-west-1 repeat"]
    shown = operator_cli.invoke("isolation", "check", ACME).stdout
    assert "not checked: the tenant is locked" in shown
    assert "Another tenant's transaction can neither read nor write your rows" in shown


def test_a_breach_returns_document_and_error_with_status_1(operator_cli) -> None:
    operator_cli.gateway.attacks[ACME] = (HELD, BREACHED)
    document = operator_cli.run("isolation", "check", ACME, status=1)
    assert document["passed"] is False
    assert document["error"]["code"] == "isolation_breached"
    assert [check["outcome"] for check in document["checks"]] == ["held", "breached"]
    assert "breached U2 by-canary/use-key" in operator_cli.invoke("isolation", "check", ACME).stdout


def test_an_assessment_without_executed_checks_does_not_pass(operator_cli) -> None:
    operator_cli.gateway.attacks[ACME] = (NOT_CHECKED,)
    assert operator_cli.run("isolation", "check", ACME, status=3)["error"]["code"] == "boundary_not_checked"


def test_all_checks_customer_tenants_only_and_returns_totals(operator_cli, beta) -> None:
    a_provisioned_tenant(operator_cli.worker, "openkcm-canary")
    operator_cli.gateway.attacks[beta] = (HELD, NOT_CHECKED)
    document = operator_cli.run("isolation", "check", "--all")
    assert document["passed"] is True
    assert {one["tenant_id"]: (one["held"], one["breached"], one["not_checked"]) for one in document["tenants"]} == {
        ACME: (1, 0, 0),
        beta: (1, 0, 1),
    }
    assert {check["tenant_id"] for check in document["checks"]} == {ACME, beta}


def test_a_failed_assessment_fails_the_command_but_not_the_checks_of_other_tenants(operator_cli, beta) -> None:
    operator_cli.gateway.unexamined = {ACME}
    document = operator_cli.run("isolation", "check", "--all", status=3)
    assert document["error"]["code"] == "assessment_failed"
    assert ACME in document["error"]["message"]
    assert {one["tenant_id"]: one["passed"] for one in document["tenants"]} == {ACME: False, beta: True}
    with pytest.raises(AssessmentFailed):
        operator_cli.run("isolation", "check", ACME)


def test_a_tenant_in_a_wrong_state_is_rejected_before_any_request(operator_cli, beta) -> None:
    with operator_cli.field.administrator() as administrator:
        administrator.execute("update okcm.tenant set state = 'offboarding' where tenant_id = %s", [beta])
    with pytest.raises(NothingToExamine):
        operator_cli.run("isolation", "check", beta)
    assert [one["tenant_id"] for one in operator_cli.run("isolation", "check", "--all")["tenants"]] == [ACME]
    assert operator_cli.invoke("isolation", "check").exit_code == 2
    assert operator_cli.invoke("isolation", "check", ACME, "--all").exit_code == 2


def test_check_that_joined_a_daily_assessment_requests_a_complete_one(operator_cli) -> None:
    operator_cli.gateway.attacks[ACME] = (HELD, NOT_CHECKED)
    examine, joined = operator_cli.gateway.check_boundaries, []

    def join(tenant_id: str, region: str, *, repeat: bool) -> str:
        if joined:
            return examine(tenant_id, region, repeat=repeat)
        joined.append(tenant_id)
        with operator_cli.worker.tenant_tx(tenant_id) as tx:
            [line] = an_examination(tx, HELD, run="examination-joined", at=datetime.now(UTC))
            tx.boundaries.record_daily(line.model_copy(update={"run": "examination-daily"}))
        return "examination-daily"

    operator_cli.gateway.check_boundaries = join
    document = operator_cli.run("isolation", "check", "--all")
    assert joined == [ACME]
    assert [(one["held"], one["not_checked"]) for one in document["tenants"]] == [(1, 1)]


def test_results_with_invalid_signatures_are_rejected(operator_cli) -> None:
    operator_cli.gateway.attacks[ACME] = (HELD, BREACHED)
    examine = operator_cli.gateway.check_boundaries

    def forged(tenant_id: str, region: str, *, repeat: bool) -> str:
        run = examine(tenant_id, region, repeat=repeat)
        with operator_cli.field.administrator() as administrator:
            administrator.execute("update okcm.boundary_result set outcome = 'held'")
            administrator.execute("update okcm.boundary_clause set held = held + breached, breached = 0")
        return run

    operator_cli.gateway.check_boundaries = forged
    document = operator_cli.run("isolation", "check", ACME, status=1)
    assert document["passed"] is False
    assert document["error"]["code"] == "assessment_tampered"


def test_the_lock_of_a_breach_needs_a_separate_unlock_after_an_assessment_without_a_breach(operator_cli) -> None:
    with operator_cli.worker.tenant_tx(ACME) as tx:
        an_examination(tx, BREACHED, run="examination-9", at=datetime.now(UTC))
        tx.tenants.hold(LockReason.BREACH)
        tx.tenants.hold(LockReason.MANUAL)
    assert "locked (isolation-breach, manual)" in operator_cli.invoke("tenant", "show", ACME).stdout
    document = operator_cli.run("tenant", "unlock", ACME, status=1)
    assert document["locks"] == ["isolation-breach"]
    assert "--isolation-breach" in document["error"]["hint"]
    with pytest.raises(UpdateRejected) as early:
        operator_cli.run("tenant", "unlock", ACME, "--isolation-breach", "--confirm", ACME)
    assert early.value.code == refused(BreachNotCleared()).code
    assert operator_cli.invoke("tenant", "unlock", ACME, "--isolation-breach").exit_code == 2

    operator_cli.gateway.attacks[ACME] = (HELD, NOT_CHECKED)
    operator_cli.run("isolation", "check", ACME)
    assert operator_cli.run("tenant", "unlock", ACME, "--isolation-breach", "--confirm", ACME)["state"] == "active"


def test_show_contains_the_last_assessment_and_its_missing_checks(operator_cli) -> None:
    operator_cli.gateway.attacks[ACME] = (HELD, NOT_CHECKED)
    operator_cli.run("isolation", "check", ACME)
    examination = operator_cli.run("tenant", "show", ACME)["examination"]
    assert examination["passed"] is True
    assert [(line["clause"], line["not_checked"]) for line in examination["clauses"]] == [("A2", 1), ("M2", 0)]
    assert "not checked: A2 (1)" in operator_cli.invoke("tenant", "show", ACME).stdout
