"""An administrator adds a webhook, tests it, sees a broken receiver and delivers the message after its repair."""

from collections.abc import Callable
from contextlib import closing

from playwright.sync_api import expect
from standardwebhooks import Webhook

from tests.concurrency import wait_until
from tests.e2e.dashboard.harness.browser import Visitor
from tests.e2e.dashboard.harness.dashboard_pages import ADA, go_to
from tests.e2e.dashboard.harness.root_key_pages import SOON_MS, close
from tests.e2e.dashboard.harness.sign_ons import sign_in
from tests.e2e.receivers import CallbackReceiver
from tests.e2e.stack import Stack
from tests.e2e.tenants import new_tenant


def test_webhook_is_tested_retried_and_gets_real_events(stack: Stack, visitor: Callable[..., Visitor]) -> None:
    tenant = new_tenant(stack, "notifications")
    with closing(CallbackReceiver()) as receiver:
        ada = sign_in(visitor(), stack, tenant, ADA)
        go_to(ada, "Settings")
        ada.get_by_role("button", name="Add target").click()
        dialog = ada.get_by_role("dialog")
        dialog.get_by_label("Label", exact=True).fill("Security team")
        dialog.get_by_label("URL", exact=True).fill(receiver.url)
        dialog.get_by_role("button", name="Add target").click()
        expect(dialog.get_by_text("it is shown only once")).to_be_visible(timeout=SOON_MS)
        secret = dialog.get_by_test_id("stCode").locator("code").inner_text().strip()
        close(dialog)
        expect(ada.get_by_text(secret)).to_have_count(0)

        # The result of a test appears within seconds, with the status of the receiver.
        ada.get_by_role("button", name="Send test").click()
        expect(ada.get_by_text("Delivered (204)").first).to_be_visible(timeout=SOON_MS)
        Webhook(secret).verify(receiver.taken[0].body, receiver.taken[0].headers)

        # A broken receiver is named with its status; after its repair a retry sends the same message.
        receiver.status = 503
        ada.get_by_role("button", name="Send test").click()
        expect(ada.get_by_text("The receiver responded with 503").first).to_be_visible(timeout=SOON_MS)
        receiver.status = 200
        ada.get_by_role("button", name="Retry now").click()
        # In a message: the log has the text too, in a canvas, whose text for screen readers is not visible.
        expect(ada.get_by_test_id("stAlert").get_by_text("Delivered (200)")).to_be_visible(timeout=SOON_MS)
        broken, repaired = receiver.taken[1:3]
        assert broken.headers["webhook-id"] == repaired.headers["webhook-id"]

        # A real event arrives automatically, and replaces the mail of the platform.
        stack.command("tenant", "lock", tenant, "--confirm", tenant)
        wait_until(lambda: receiver.about(tenant, "locked"), seconds=120)
        assert not stack.mailbox.about(tenant, "is locked")
