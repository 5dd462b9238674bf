"""A policy can require an approval for a lock: one user requests it, another approves it in another window."""

from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect

from tests.e2e.connected import rejection_code
from tests.e2e.dashboard.harness.browser import Visitor
from tests.e2e.dashboard.harness.dashboard_pages import ADA, KAI, UMA, go_to
from tests.e2e.dashboard.harness.root_key_pages import LOCKED, SOON_MS, ask_for, confirm, finish, notice
from tests.e2e.dashboard.harness.sign_ons import sign_in, subject
from tests.e2e.stack import Stack
from tests.e2e.tenants import new_tenant

LOCK = "Lock tenant (kill switch)"
DECIDE = "Approval needed"


def pending(page: Page) -> Locator:
    """Return the card of the pending request on the page Settings."""
    return (
        page.get_by_test_id("stVerticalBlock")
        .filter(has=page.get_by_text(LOCK, exact=True))
        .filter(has=page.get_by_role("button", name="Approve"))
        .last
    )


def test_the_requesting_user_cannot_approve_but_another_user_can(stack: Stack, visitor: Callable[..., Visitor]) -> None:
    tenant = new_tenant(stack, "approvals")

    # A key administrator changes the policy; then the command without an approval is rejected.
    kai = sign_in(visitor(), stack, tenant, KAI)
    go_to(kai, "Settings")
    kai.get_by_text(LOCK, exact=True).click()
    expect(kai.get_by_text(f"{LOCK}: approval required")).to_be_visible()
    kai.get_by_role("button", name="Change policy").click()
    expect(kai.get_by_text("Policy changed")).to_be_visible()
    assert rejection_code(stack, "tenant", "lock", tenant, "--confirm", tenant) == "approval_required"

    # He requests the lock; users with the right to approve see it at once, an auditor does not.
    ada, uma = sign_in(visitor(), stack, tenant, ADA), sign_in(visitor(), stack, tenant, UMA)
    go_to(kai, "Keys")
    dialog = ask_for(kai, "lock")
    expect(dialog.get_by_text("Another person of your organization must approve within 24 hours")).to_be_visible()
    confirm(dialog, tenant)
    finish(dialog, "Request approval", "Approval requested")
    assert stack.state(tenant) == "active"
    expect(notice(ada, DECIDE)).to_be_visible(timeout=SOON_MS)
    expect(notice(ada, f"Requested by Kai Keys ({subject(tenant, KAI)}): “{LOCK}”")).to_be_visible()
    expect(notice(uma, DECIDE)).to_have_count(0)

    # He cannot approve it himself; an administrator does.
    go_to(kai, "Settings")
    expect(pending(kai).get_by_role("button", name="Approve")).to_be_disabled()
    expect(pending(kai).get_by_text("You requested this. Another person must approve it.")).to_be_visible()
    go_to(ada, "Settings")
    pending(ada).get_by_role("button", name="Approve").click()
    dialog = ada.get_by_role("dialog")
    expect(dialog.get_by_text("All requests for keys are rejected")).to_be_visible()
    finish(dialog, "Approve", "Approved and completed")
    expect(notice(ada, LOCKED)).to_be_visible()
    assert stack.state(tenant) == "locked"
    expect(notice(kai, LOCKED)).to_be_visible(timeout=SOON_MS)  # without a reload
    go_to(uma, "Audit")
    expect(uma.get_by_text("Approved by a second person").first).to_be_attached()  # a cell, drawn on a canvas
    assert stack.mailbox.about(tenant, "Approval required")
