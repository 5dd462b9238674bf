"""`openkcmctl tenant approvals`: requests, decisions and their reasons."""

import pytest

from core.errors.tenants import TenantUnknown
from core.tenants.approvals import Action, VoteChoice
from core.tenants.roles import PersonRole
from dashboard.approvals import actions as approval_actions
from dashboard.tenants import actions as standing_actions
from openkcm.errors import OpenKcmError
from tests.dashboard.scene import ACME, Scene


def test_requests_and_decisions_are_listed_with_their_reasons(operator_cli) -> None:
    scene = Scene(operator_cli.field)
    assert operator_cli.run("tenant", "approvals", ACME) == {"tenant_id": ACME, "approvals": []}
    assert "no request for approval is recorded" in operator_cli.invoke("tenant", "approvals", ACME).stdout
    scene.wants_two_for(Action.LOCK)
    asked = standing_actions.ask_to_lock(scene.page_context(), "suspicious reads")
    [row] = operator_cli.run("tenant", "approvals", ACME)["approvals"]
    assert (row["action"], row["state"], row["request_reason"]) == ("lock", "pending", "suspicious reads")
    kai = scene.page_context(ACME, PersonRole.KEY_ADMINISTRATOR, name="Kai")
    approval_actions.decide(kai, asked.approval_id, VoteChoice.DECLINE, "a drill")
    [row] = operator_cli.run("tenant", "approvals", ACME)["approvals"]
    assert (row["state"], row["decided_by"], row["decision_reason"]) == ("refused", "kai@acme.example", "a drill")


def test_approvals_of_an_unknown_tenant_are_not_listed(operator_cli) -> None:
    with pytest.raises(OpenKcmError) as unknown:
        operator_cli.run("tenant", "approvals", "other-corp-1")
    assert unknown.value.code == TenantUnknown.code
