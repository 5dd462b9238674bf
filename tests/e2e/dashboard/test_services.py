"""A discovered service is connected with a token of the page Services, and the page works with the keyboard only."""

import re

from playwright.sync_api import expect

from tests.e2e.dashboard.harness.browser import Visitor, drawn, tab_to, title
from tests.e2e.dashboard.harness.dashboard_pages import ADA, go_to, make_token
from tests.e2e.dashboard.harness.sign_ons import sign_in
from tests.e2e.services.enrolling import Agent


def test_discovered_service_is_connected_with_a_token_of_the_page(stack, tenant, visitor, tmp_path):
    found = {"event": "service_discovered", "workload": "paged-db", "kind": "postgresql"}
    assert stack.click(customer=tenant, **found).status_code == 202
    page = sign_in(visitor(), stack, tenant)
    go_to(page, "Services")
    expect(page.get_by_role("button", name="Connect with an agent")).not_to_have_count(0)
    expect(page.get_by_text("paged-db", exact=True).last).to_be_visible()  # above it is listed as missing
    token, command = make_token(page, "paged-db")
    assert command.startswith(
        f"openkcm agent --url {stack.settings.enrolment_url} --service paged-db --kind postgresql "
    )
    agent = Agent(stack.settings.marketplace_url, tmp_path / "agent")
    assert agent.enrol("paged-db", "postgresql", join_token=token)["state"] == "issued"
    sealed = agent.post("/v1/encrypt", {"resource": "orders/1", "plaintext": "YSByZWNvcmQ="})
    assert sealed.status_code == 200, sealed.text
    go_to(page, "Keys")
    go_to(page, "Services")
    expect(page.get_by_text("paged-db:", exact=True)).to_be_visible()


def test_sign_in_navigation_and_dialog_work_with_the_keyboard_only(acme, visitor):
    window: Visitor = visitor()
    page = window.open(f"/tenant/{acme}/")
    for button in ("Sign in with your platform account", ADA):
        tab_to(page, page.get_by_role("button", name=button))
        page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/tenant/"))
    drawn(page)
    tab_to(page, page.get_by_test_id("stSidebarNav").get_by_role("link", name="Services"))
    page.keyboard.press("Enter")
    expect(title(page)).to_have_text("Services")
    tab_to(page, page.get_by_role("button", name="Connect service"))
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    tab_to(page, dialog.get_by_label("Name", exact=True))
    page.keyboard.type("typed")
    tab_to(page, dialog.get_by_role("button", name="Cancel"))
    page.keyboard.press("Enter")
    expect(dialog).to_have_count(0)
