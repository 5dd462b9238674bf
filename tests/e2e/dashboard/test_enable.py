"""A customer enables OpenKCM in the marketplace, connects a service and signs out, in a browser.

Only this test may enable Beta Corp, because the development marketplace lists it as not enabled.
"""

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.connected import rejection_code
from tests.e2e.dashboard.harness.browser import SIGN_IN, drawn, press, title
from tests.e2e.dashboard.harness.dashboard_pages import BEA, connect, disconnect, go_to, unpack

BETA, ORGANIZATION = "beta-corp-67890", "Beta Corp"
AT_ONCE_MS = 20_000


@pytest.mark.e2e
def test_one_click_leads_to_a_service_that_encrypts_and_sign_out_ends_every_tab(stack, visitor, tmp_path):
    assert stack.status(BETA).status_code == 404
    window = visitor()
    page = window.open("/marketplace/")
    page.get_by_text(f"{ORGANIZATION} · {BETA}").click()
    expect(page.get_by_text(f"For account {BETA}")).to_be_visible()
    press(page.get_by_role("button", name="Enable OpenKCM"), page.get_by_text(f"OpenKCM is ready for {ORGANIZATION}!"))
    assert stack.status(BETA).json()["state"] == "active"

    with window.context.expect_page() as popup:
        page.get_by_role("link", name="Open the CMK dashboard").click()
    page = popup.value
    page.get_by_role("button", name=SIGN_IN).click()
    page.get_by_role("button", name=BEA).click()
    page.wait_for_url(re.compile(f"/tenant/{BETA}/"))
    drawn(page)
    expect(title(page)).to_have_text(f"{ORGANIZATION} - Encryption Dashboard")
    expect(page.get_by_text("Tenant Status: Active")).to_be_visible()

    go_to(page, "Services")
    folder = unpack(connect(page, "orders"), tmp_path, "orders")
    expect(page.get_by_text("1 of 1 shown")).to_be_visible()
    result = stack.command("service", "smoke-test", str(folder), "--record", "Jane Roe", "--resource", "orders/1")
    assert (result["decrypted"], result["opens_elsewhere"]) == ("Jane Roe", False)
    assert result["ciphertext"].startswith("okcm:v1:")
    assert rejection_code(stack, "service", "smoke-test", str(tmp_path)) == "certificate_unusable"
    disconnect(page, "orders")
    assert rejection_code(stack, "service", "smoke-test", str(folder)) == "client_not_authorized"

    other = window.context.new_page()
    other.goto(f"/tenant/{BETA}/")
    expect(other.get_by_role("button", name="Sign out")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(title(other)).to_have_text("Your session has ended", timeout=AT_ONCE_MS)
    expect(other.get_by_text(ORGANIZATION)).to_have_count(0)
