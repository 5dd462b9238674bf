"""`openkcmctl isolation check`, and what opens a tenant again that a breach locked."""

from datetime import UTC, datetime

import pytest

from core.errors.compliance import AssessmentFailed, BreachNotCleared, NothingToExamine
from core.tenants.lifecycle import Transition
from core.tenants.locks import LockReason
from tests.cli.root_key_stand import refused
from tests.dashboard.scene import ACME
from tests.database.builders import a_provisioned_tenant, a_result, an_examination
from workflows.client.workflow_client import UpdateRejected

HELD = a_result("by-canary/read", evidence="0 rows")
UNSEEN = a_result("fronts/decrypt", clause="A2", outcome="not-checked", evidence="the tenant is locked")
BREACHED = a_result("by-canary/use-key", clause="U2", outcome="breached", evidence="answered 200")


@pytest.fixture
def beta(desk) -> str:
    a_provisioned_tenant(desk.worker, "beta-corp")
    with desk.worker.tenant_tx("beta-corp") as tx:
        tx.tenants.move(Transition.ACTIVATE)
    return "beta-corp"


def test_an_examination_that_held_answers_by_the_contract_and_exits_0(desk) -> None:
    desk.gateway.attacks[ACME] = (HELD, UNSEEN)
    document = desk.run("isolation", "check", ACME)
    assert document["passed"] is True
    assert document["checks"] == [
        {"clause": "M2", "name": "by-canary/read", "outcome": "held", "seconds": 0.001},
        {
            "clause": "A2",
            "name": "fronts/decrypt",
            "outcome": "not-checked",
            "seconds": 0.001,
            "why": "the tenant is locked",
        },
    ]
    assert desk.gateway.asked == [f"check {ACME} in eu-west-1 anew"]
    shown = desk.invoke("isolation", "check", ACME).stdout
    assert "not checked: the tenant is locked" in shown
    assert "Another tenant's transaction can neither read nor write your rows" in shown


def test_a_breach_exits_1_with_document_and_error(desk) -> None:
    desk.gateway.attacks[ACME] = (HELD, BREACHED)
    document = desk.run("isolation", "check", ACME, status=1)
    assert document["passed"] is False
    assert document["error"]["code"] == "boundary_breached"
    assert [check["outcome"] for check in document["checks"]] == ["held", "breached"]
    assert "breached U2 by-canary/use-key" in desk.invoke("isolation", "check", ACME).stdout


def test_an_examination_without_anything_that_could_be_attacked_is_no_pass(desk) -> None:
    desk.gateway.attacks[ACME] = (UNSEEN,)
    assert desk.run("isolation", "check", ACME, status=3)["error"]["code"] == "boundary_not_checked"


def test_all_tenants_are_examined_with_totals_and_the_platforms_own_are_left_out(desk, beta) -> None:
    a_provisioned_tenant(desk.worker, "openkcm-canary")
    desk.gateway.attacks[beta] = (HELD, UNSEEN)
    document = desk.run("isolation", "check", "--all")
    assert document["passed"] is True
    assert {one["tenant_id"]: (one["held"], one["breached"], one["not_checked"]) for one in document["tenants"]} == {
        ACME: (1, 0, 0),
        beta: (1, 0, 1),
    }
    assert {check["tenant_id"] for check in document["checks"]} == {ACME, beta}


def test_one_that_came_to_no_result_fails_all_and_keeps_nobody_else_from_being_examined(desk, beta) -> None:
    desk.gateway.unexamined = {ACME}
    document = desk.run("isolation", "check", "--all", status=3)
    assert document["error"]["code"] == "examination_failed"
    assert ACME in document["error"]["message"]
    assert {one["tenant_id"]: one["passed"] for one in document["tenants"]} == {ACME: False, beta: True}
    with pytest.raises(AssessmentFailed):
        desk.run("isolation", "check", ACME)


def test_a_tenant_that_is_not_open_and_one_that_is_not_there_are_refused_before_anything_is_asked(desk, beta) -> None:
    with desk.field.administrator() as administrator:
        administrator.execute("update okcm.tenant set state = 'leaving' where tenant_id = %s", [beta])
    with pytest.raises(NothingToExamine):
        desk.run("isolation", "check", beta)
    assert [one["tenant_id"] for one in desk.run("isolation", "check", "--all")["tenants"]] == [ACME]
    assert desk.invoke("isolation", "check").exit_code == 2
    assert desk.invoke("isolation", "check", ACME, "--all").exit_code == 2


def test_what_is_on_record_is_not_believed_unless_its_signatures_fit(desk) -> None:
    desk.gateway.attacks[ACME] = (HELD, BREACHED)
    examine = desk.gateway.check_boundaries

    def forged(tenant_id: str, region: str, *, anew: bool) -> str:
        run = examine(tenant_id, region, anew=anew)
        with desk.field.administrator() as administrator:
            administrator.execute("update okcm.boundary_result set outcome = 'held'")
            administrator.execute("update okcm.boundary_clause set held = held + breached, breached = 0")
        return run

    desk.gateway.check_boundaries = forged
    document = desk.run("isolation", "check", ACME, status=1)
    assert document["passed"] is False
    assert document["error"]["code"] == "examination_altered"


def test_a_lock_of_a_breach_opens_by_an_act_of_its_own_after_an_examination_without_one(desk) -> None:
    with desk.worker.tenant_tx(ACME) as tx:
        an_examination(tx, BREACHED, run="examination-9", at=datetime.now(UTC))
        tx.tenants.hold(LockReason.BREACH)
        tx.tenants.hold(LockReason.SWITCH)
    assert "locked by breach" in desk.invoke("tenant", "show", ACME).stdout
    document = desk.run("tenant", "unlock", ACME, status=1)
    assert document["locks"] == ["breach"]
    assert "--isolation-breach" in document["error"]["hint"]
    with pytest.raises(UpdateRejected) as early:
        desk.run("tenant", "unlock", ACME, "--isolation-breach", "--confirm", ACME)
    assert early.value.code == refused(BreachNotCleared()).code
    assert desk.invoke("tenant", "unlock", ACME, "--isolation-breach").exit_code == 2

    desk.gateway.attacks[ACME] = (HELD, UNSEEN)
    desk.run("isolation", "check", ACME)
    assert desk.run("tenant", "unlock", ACME, "--isolation-breach", "--confirm", ACME)["state"] == "active"


def test_a_tenant_says_when_it_was_last_examined_and_what_was_not_checked(desk) -> None:
    desk.gateway.attacks[ACME] = (HELD, UNSEEN)
    desk.run("isolation", "check", ACME)
    examination = desk.run("tenant", "show", ACME)["examination"]
    assert examination["passed"] is True
    assert [(line["clause"], line["not_checked"]) for line in examination["clauses"]] == [("A2", 1), ("M2", 0)]
    assert "not checked: A2 (1)" in desk.invoke("tenant", "show", ACME).stdout
