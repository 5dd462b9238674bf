"""The page Approvals on a real database: what waits, what it stops, who decides it and why."""

import pytest
from streamlit.testing.v1 import AppTest

from core.tenants.approvals import Action, Approval, ApprovalState, VoteChoice
from core.tenants.lifecycle import State
from core.tenants.roles import PersonRole
from dashboard.approvals import actions as approval_actions
from dashboard.approvals.page import number_waiting
from dashboard.tenants import actions as standing_actions
from openkcm.contract.services import ServiceKind
from tests.dashboard.scene import ACME, Scene, press, shown, text

KEYS = PersonRole.KEY_ADMINISTRATOR
REASON = "suspicious reads at 17:14"


@pytest.fixture
def two(scene: Scene) -> Scene:
    scene.tenant(State.ACTIVE)
    scene.wants_two_for(Action.LOCK)
    return scene


def asked(scene: Scene, reason: str = REASON) -> Approval:
    return standing_actions.ask_to_lock(scene.page_context(), reason)


def page(scene: Scene, name: str = "Kai", role: PersonRole = KEYS) -> AppTest:
    return shown("approvals", scene.page_context(ACME, role, name=name))


def button(one: Approval, choice: VoteChoice) -> str:
    return f"approvals.{choice}.{one.approval_id}"


def stored(scene: Scene, one: Approval) -> Approval:
    with scene.worker.tenant_tx(ACME) as tx:
        found = tx.approvals.get(one.approval_id)
    assert found is not None
    return found


def test_a_pending_request_shows_who_what_why_until_when_and_what_stops(two: Scene) -> None:
    two.service("orders", ServiceKind.MONGODB)
    one = asked(two)
    at = page(two)
    said = text(at)
    for words in (
        "**Lock tenant (kill switch)**",
        "Requested by Ada (ada@acme\\.example)",
        "**Reason:** suspicious reads at 17\\:14",
        "(in 1 day)",
        "**Stops immediately**",
        "**orders**, MongoDB cluster",
        "no service can read or write encrypted data",
    ):
        assert words in said
    # From the notice on any page: the link, the button, and the button of the dialog are three clicks.
    assert "[Review requests](approvals)" in text(shown("usage", two.page_context(ACME, KEYS, name="Kai")))
    said = press(at, button(one, VoteChoice.APPROVE))
    assert "Runs immediately; recorded as your approval." in said
    assert said.count("**orders**, MongoDB cluster") == 2
    assert two.standing()[0] is State.ACTIVE
    at.text_input(key="approvals.reason.approve").set_value("confirmed by phone").run()
    assert "Approved and completed" in press(at, "approvals.do")
    assert two.standing()[0] is State.LOCKED
    said = press(at, "approvals.close")
    assert "No pending requests." in said
    assert "approved and completed by Kai (kai@acme\\.example)" in said
    assert "Reason: suspicious reads at 17\\:14 Decision: confirmed by phone" in said
    reasons = [record["details"].get("reason") for record in two.records() if record["name"].endswith("submitted")]
    assert reasons == [REASON, None, "confirmed by phone", "confirmed by phone"]


def test_an_approval_needs_no_reason_and_a_decline_does(two: Scene) -> None:
    one = asked(two)
    at = page(two)
    press(at, button(one, VoteChoice.DECLINE))
    assert "A reason is required." in press(at, "approvals.do")
    assert stored(two, one).state is ApprovalState.PENDING
    at.text_input(key="approvals.reason.decline").set_value("a drill of last year").run()
    assert "Declined" in press(at, "approvals.do")
    assert (stored(two, one).state, stored(two, one).decision_reason) == (ApprovalState.REFUSED, "a drill of last year")
    assert two.standing()[0] is State.ACTIVE
    assert "Decision: a drill of last year" in press(at, "approvals.close")
    one = asked(two)
    at = page(two)
    press(at, button(one, VoteChoice.APPROVE))
    assert "Approved and completed" in press(at, "approvals.do")
    assert stored(two, one).decision_reason is None


def test_a_reason_is_shown_as_text_and_not_as_markup(two: Scene) -> None:
    asked(two, "![x](https://evil.example/x.png) :red[A] <b>")
    said = text(page(two))
    assert "![x](" not in said
    assert ":red[" not in said


def test_the_requester_cannot_approve_and_can_withdraw(two: Scene) -> None:
    one = asked(two)
    at = page(two, "Ada", PersonRole.ADMINISTRATOR)
    assert at.button(key=button(one, VoteChoice.APPROVE)).disabled
    assert at.button(key=button(one, VoteChoice.DECLINE)).disabled
    assert "You requested this. Another person must approve it." in text(at)
    press(at, button(one, VoteChoice.WITHDRAW))
    assert "can no longer be approved" in press(at, "approvals.do")
    assert "Expires" not in press(at, "approvals.close")


def test_a_role_without_the_permission_sees_requests_and_decides_none(two: Scene) -> None:
    one = asked(two)
    at = page(two, "Uma", PersonRole.AUDITOR)
    assert "Your role does not manage keys." in text(at)
    assert "suspicious reads" in text(at)
    assert [button.key for button in at.button if not button.disabled] == []
    assert button(one, VoteChoice.WITHDRAW) not in {button.key for button in at.button}


def expire(scene: Scene) -> None:
    with scene.field.administrator() as administrator:
        administrator.execute("update okcm.approval set expires_at = clock_timestamp() where state = 'pending'")


def test_an_expired_request_is_not_pending(two: Scene) -> None:
    asked(two)
    expire(two)
    assert "No pending requests." in text(page(two))


def test_a_request_that_expires_while_its_dialog_is_open_is_not_executed(two: Scene) -> None:
    one = asked(two)
    at = page(two)
    press(at, button(one, VoteChoice.APPROVE))
    expire(two)
    said = press(at, "approvals.do")
    assert "The request expired before your decision, so nothing was done." in said
    assert two.standing()[0] is State.ACTIVE


def test_of_two_approvers_the_second_learns_that_the_first_decided(two: Scene) -> None:
    one = asked(two)
    at = page(two)
    press(at, button(one, VoteChoice.APPROVE))
    ben = two.page_context(ACME, KEYS, name="Ben")
    approval_actions.decide(ben, one.approval_id, VoteChoice.DECLINE, "it is a drill")
    said = press(at, "approvals.do")
    assert "Already decided" in said
    assert "Declined by Ben (ben@acme\\.example)" in said
    assert "Your decision changed nothing." in said
    assert "Decision: it is a drill" in said
    assert two.standing()[0] is State.ACTIVE
    kai = two.page_context(ACME, KEYS, name="Kai")
    assert approval_actions.decide(kai, one.approval_id, VoteChoice.APPROVE).state is ApprovalState.REFUSED
    with two.worker.tenant_tx(ACME) as tx:
        assert [vote.subject for vote in tx.approvals.votes(one.approval_id)] == ["ben@acme.example"]


def test_a_request_of_a_former_release_has_no_reason(two: Scene) -> None:
    one = asked(two)
    with two.field.administrator() as administrator:
        administrator.execute("update okcm.approval set request_reason = null")
    at = page(two)
    assert "**Reason:** not given" in text(at)
    press(at, button(one, VoteChoice.APPROVE))
    assert "Approved and completed" in press(at, "approvals.do")


def test_the_navigation_counts_the_requests_that_wait_for_this_person(two: Scene) -> None:
    kai, uma = two.page_context(ACME, KEYS, name="Kai"), two.page_context(ACME, PersonRole.AUDITOR, name="Uma")
    assert number_waiting(kai) == 0
    asked(two)
    assert number_waiting(kai) == 1
    assert number_waiting(two.page_context()) == 0
    assert number_waiting(uma) == 0
    expire(two)
    assert number_waiting(kai) == 0


def test_requests_of_one_kind_have_buttons_with_different_names(two: Scene) -> None:
    context = two.page_context()
    for days in (30, 60):
        policy = {"tenant_key_days": 365, "service_key_days": days, "four_eyes": [], "revoked_keys_readable": False}
        approval_actions.ask_for(context, Action.CHANGE_POLICY, policy, "shorter")
    labels = [one.label for one in page(two).button]
    assert len(labels) == len(set(labels))
    assert {"Approve policy change", "Approve policy change (2)"} <= set(labels)


def test_without_a_rule_the_page_says_that_one_person_can_do_all(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    said = text(page(scene))
    assert "No action requires approval: one person alone can execute each." in said
    assert "[Select actions that require approval](settings)" in said
