"""A policy can require an approval for a lock: one user requests it, another approves it in another window."""

from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect

from tests.e2e.connected import rejection_code
from tests.e2e.dashboard.harness.browser import Visitor, drawn, tab_to, title
from tests.e2e.dashboard.harness.dashboard_pages import ADA, KAI, UMA, go_to
from tests.e2e.dashboard.harness.root_key_pages import (
    LOCKED,
    SOON_MS,
    ask_for,
    button,
    confirm,
    finish,
    labelled,
    notice,
)
from tests.e2e.dashboard.harness.sign_ons import sign_in, subject
from tests.e2e.stack import Stack
from tests.e2e.tenants import new_tenant

LOCK = "Lock tenant (kill switch)"
DECIDE = "Approval needed"
REASON = "suspicious reads at 17:14"


def require_approval_of_locks(page: Page) -> None:
    go_to(page, "Settings")
    page.get_by_text(LOCK, exact=True).click()
    expect(page.get_by_text("2 unsaved changes:")).to_be_visible()
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("Policy changed")).to_be_visible()
    # The field follows the stored policy without a reload.
    implied = page.get_by_role("checkbox", name="Change policy")
    expect(implied).to_be_checked()
    expect(implied).to_be_disabled()


def request_lock(page: Page, tenant: str) -> None:
    go_to(page, "Keys")
    dialog = ask_for(page, "lock")
    expect(dialog.get_by_text("Another person of your organization must approve within 24 hours")).to_be_visible()
    labelled(dialog, "Reason").fill(REASON)
    confirm(dialog, tenant)
    finish(dialog, "Request approval", "Approval requested")


def navigation(page: Page, name: str) -> Locator:
    """Return the link of a page; the name of its icon comes before its title."""
    return page.get_by_test_id("stSidebarNav").get_by_role("link", name=name)


def test_the_requesting_user_cannot_approve_but_another_user_can(stack: Stack, visitor: Callable[..., Visitor]) -> None:
    tenant = new_tenant(stack, "approvals")

    # A key administrator changes the policy; then the command without an approval is rejected.
    kai = sign_in(visitor(), stack, tenant, KAI)
    require_approval_of_locks(kai)
    assert rejection_code(stack, "tenant", "lock", tenant, "--confirm", tenant) == "approval_required"

    # He requests the lock; users with the right to approve see it at once, an auditor does not.
    ada, uma = sign_in(visitor(), stack, tenant, ADA), sign_in(visitor(), stack, tenant, UMA)
    request_lock(kai, tenant)
    assert stack.state(tenant) == "active"
    expect(notice(ada, DECIDE)).to_be_visible(timeout=SOON_MS)
    expect(notice(ada, f"Requested by Kai Keys ({subject(tenant, KAI)}): “{LOCK}”")).to_be_visible()
    expect(notice(uma, DECIDE)).to_have_count(0)

    # He cannot approve it himself; an administrator does, with three clicks from any page.
    go_to(kai, "Approvals")
    expect(kai.get_by_role("button", name="Approve lock")).to_be_disabled()
    expect(kai.get_by_text("You requested this. Another person must approve it.")).to_be_visible()
    go_to(ada, "Usage")
    expect(navigation(ada, "Approvals (1)")).to_be_visible()
    ada.get_by_role("link", name="Review requests").click()
    expect(title(ada)).to_have_text("Approvals")
    drawn(ada)
    ada.get_by_role("button", name="Approve lock").click()
    dialog = ada.get_by_role("dialog")
    expect(dialog.get_by_text(REASON)).to_be_visible()
    expect(dialog.get_by_text("Stops immediately")).to_be_visible()
    expect(dialog.get_by_text("All requests for keys are rejected")).to_be_visible()
    finish(dialog, "Approve", "Approved and completed")
    expect(notice(ada, LOCKED)).to_be_visible()
    assert stack.state(tenant) == "locked"
    expect(navigation(ada, "Approvals (1)")).to_have_count(0)
    expect(notice(kai, LOCKED)).to_be_visible(timeout=SOON_MS)  # without a reload
    expect(kai.get_by_text(f"Reason: {REASON}")).to_be_visible(timeout=SOON_MS)
    go_to(uma, "Audit")
    expect(uma.get_by_text("Approved by a second person").first).to_be_attached()  # a cell, drawn on a canvas
    assert stack.mailbox.about(tenant, "Approval required")


def test_a_request_is_declined_with_the_keyboard_alone(stack: Stack, visitor: Callable[..., Visitor]) -> None:
    tenant = new_tenant(stack, "keyboard")
    kai = sign_in(visitor(), stack, tenant, KAI)
    require_approval_of_locks(kai)
    ada = sign_in(visitor(), stack, tenant, ADA)
    request_lock(kai, tenant)
    expect(notice(ada, DECIDE)).to_be_visible(timeout=SOON_MS)

    press_by_keyboard(ada, ada.get_by_role("link", name="Review requests"))
    expect(title(ada)).to_have_text("Approvals")
    drawn(ada)
    press_by_keyboard(ada, ada.get_by_role("button", name="Decline lock"))
    dialog = ada.get_by_role("dialog")
    expect(dialog.get_by_text(REASON)).to_be_visible()
    drawn(ada)
    type_by_keyboard(ada, labelled(dialog, "Reason"), "a drill")
    finish_by_keyboard(ada, "Decline", "Declined")
    expect(ada.get_by_text("Decision: a drill")).to_be_visible()
    assert stack.state(tenant) == "active"


def test_a_lock_is_requested_approved_and_ended_with_the_keyboard_alone(
    stack: Stack, visitor: Callable[..., Visitor]
) -> None:
    tenant = new_tenant(stack, "keyboard-lock")
    kai = sign_in(visitor(), stack, tenant, KAI)
    require_approval_of_locks(kai)
    ada = sign_in(visitor(), stack, tenant, ADA)

    press_by_keyboard(kai, button(kai, "standing-lock"))
    dialog = kai.get_by_role("dialog")
    type_by_keyboard(kai, labelled(dialog, "Reason"), REASON)
    type_by_keyboard(kai, labelled(dialog, f"Type {tenant} to confirm"), tenant)
    finish_by_keyboard(kai, "Request approval", "Approval requested")

    expect(notice(ada, DECIDE)).to_be_visible(timeout=SOON_MS)
    press_by_keyboard(ada, ada.get_by_role("link", name="Review requests"))
    expect(title(ada)).to_have_text("Approvals")
    drawn(ada)
    press_by_keyboard(ada, ada.get_by_role("button", name="Approve lock"))
    finish_by_keyboard(ada, "Approve", "Approved and completed")
    assert stack.state(tenant) == "locked"

    press_by_keyboard(ada, button(ada, "standing-unlock"))
    finish_by_keyboard(ada, "Unlock", "Tenant unlocked")
    assert stack.state(tenant) == "active"


def press_by_keyboard(page: Page, wanted: Locator) -> None:
    tab_to(page, wanted)
    page.keyboard.press("Enter")


def type_by_keyboard(page: Page, field: Locator, text: str) -> None:
    tab_to(page, field)
    page.keyboard.type(text)
    page.keyboard.press("Tab")  # the field sends its text when it loses the focus
    drawn(page)


def finish_by_keyboard(page: Page, name: str, says: str) -> None:
    """Press a button of the open dialog, wait for the result, and close the dialog."""
    dialog = page.get_by_role("dialog")
    press_by_keyboard(page, dialog.get_by_role("button", name=name, exact=True))
    expect(dialog.get_by_text(says)).to_be_visible()
    drawn(page)
    press_by_keyboard(page, dialog.get_by_role("button", name="Close", exact=True).last)
    expect(dialog).to_have_count(0)
