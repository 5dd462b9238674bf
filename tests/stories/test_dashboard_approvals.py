"""Locking a tenant takes two people where its policy says so: one asks, another approves in another window."""

from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect

from tests.stories.browser import Visitor
from tests.stories.connected import refused
from tests.stories.dashboard_pages import ADA, KAI, UMA, go_to
from tests.stories.root_key_pages import LOCKED, SOON_MS, ask_for, confirm, finish, notice
from tests.stories.sign_ons import sign_in, subject
from tests.stories.stack import Stack
from tests.stories.tenants import new_tenant

LOCK = "Lock the tenant (kill switch)"
DECIDE = "Something waits for your decision"


def waiting(page: Page) -> Locator:
    """Return the card of the request that waits on the page Settings."""
    return (
        page.get_by_test_id("stVerticalBlock")
        .filter(has=page.get_by_text(LOCK, exact=True))
        .filter(has=page.get_by_role("button", name="Approve"))
        .last
    )


def test_person_who_asks_cannot_approve_and_another_does(stack: Stack, visitor: Callable[..., Visitor]) -> None:
    tenant = new_tenant(stack, "approvals")

    # A key administrator changes the policy; then the command alone is refused.
    kai = sign_in(visitor(), stack, tenant, KAI)
    go_to(kai, "Settings")
    kai.get_by_text(LOCK, exact=True).click()
    expect(kai.get_by_text(f"{LOCK}: takes two people from then on")).to_be_visible()
    kai.get_by_role("button", name="Change the policy").click()
    expect(kai.get_by_text("The policy is changed")).to_be_visible()
    assert refused(stack, "tenant", "lock", tenant, "--confirm", tenant) == "approval_required"

    # He asks; those who may decide see it at once, an auditor does not.
    ada, uma = sign_in(visitor(), stack, tenant, ADA), sign_in(visitor(), stack, tenant, UMA)
    go_to(kai, "Keys")
    dialog = ask_for(kai, "lock")
    expect(dialog.get_by_text("Somebody else of your organization must approve within 24 hours")).to_be_visible()
    confirm(dialog, tenant)
    finish(dialog, "Ask for approval", "Somebody else has to approve")
    assert stack.state(tenant) == "active"
    expect(notice(ada, DECIDE)).to_be_visible(timeout=SOON_MS)
    expect(notice(ada, f"Kai Keys ({subject(tenant, KAI)}) asked for: “{LOCK}”")).to_be_visible()
    expect(notice(uma, DECIDE)).to_have_count(0)

    # He cannot approve it himself; an administrator does.
    go_to(kai, "Settings")
    expect(waiting(kai).get_by_role("button", name="Approve")).to_be_disabled()
    expect(waiting(kai).get_by_text("You asked for this, so somebody else has to approve it.")).to_be_visible()
    go_to(ada, "Settings")
    waiting(ada).get_by_role("button", name="Approve").click()
    dialog = ada.get_by_role("dialog")
    expect(dialog.get_by_text("No service key opens any more")).to_be_visible()
    finish(dialog, "Approve", "Approved and done")
    expect(notice(ada, LOCKED)).to_be_visible()
    assert stack.state(tenant) == "locked"
    expect(notice(kai, LOCKED)).to_be_visible(timeout=SOON_MS)  # without a reload
    go_to(uma, "Audit")
    expect(uma.get_by_text("Approved by a second person").first).to_be_attached()  # a cell, drawn on a canvas
    assert stack.mailbox.about(tenant, "A second person is asked for")
