"""A discovered service is connected with a token of the page Services, and the page works with the keyboard only."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from openkcm.contract.services import ServiceKind
from tests.e2e.dashboard.harness.accessibility import assert_accessible
from tests.e2e.dashboard.harness.browser import Visitor, drawn, tab_to, title
from tests.e2e.dashboard.harness.dashboard_pages import ADA, go_to, make_token, select_service, unpack
from tests.e2e.dashboard.harness.sign_ons import sign_in
from tests.e2e.services.enrolling import Agent
from tests.e2e.tenants import new_tenant

_HEIGHT = "document.querySelector('[data-testid=stMainBlockContainer]').scrollHeight"


def test_discovered_service_is_connected_with_a_token_of_the_page(stack, tenant, visitor, tmp_path):
    found = {"event": "service_discovered", "workload": "paged-db", "kind": "postgresql"}
    assert stack.click(customer=tenant, **found).status_code == 202
    page = sign_in(visitor(), stack, tenant)
    go_to(page, "Services")
    select_service(page, "paged-db")
    expect(page.get_by_role("button", name="Connect with an agent…")).to_be_visible()
    token, command = make_token(page, "paged-db")
    assert command.startswith(
        f"openkcm agent --url {stack.settings.enrolment_url} --service paged-db --kind postgresql "
    )
    agent = Agent(stack.settings.marketplace_url, tmp_path / "agent")
    assert agent.enrol("paged-db", "postgresql", join_token=token)["state"] == "issued"
    sealed = agent.post("/v1/encrypt", {"resource": "orders/1", "plaintext": "YSByZWNvcmQ="})
    assert sealed.status_code == 200, sealed.text
    select_service(page, "paged-db")
    expect(page.get_by_text("PostgreSQL instance: connected since")).to_be_visible()


def test_three_clicks_and_a_name_lead_to_a_client_that_encrypts(stack, tenant, visitor, tmp_path):
    page = sign_in(visitor(), stack, tenant, page="services")
    clicked: list[str] = []

    def click(within: Page | Locator, name: str) -> None:
        clicked.append(name)
        within.get_by_role("button", name=name, exact=True).click()

    click(page, "Connect service")
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name", exact=True).fill("clicked")
    click(dialog, "Connect")
    expect(dialog.get_by_text("clicked is connected")).to_be_visible()
    with page.expect_download() as download:
        click(dialog, "Download files (ZIP)")
    assert len(clicked) <= 4
    folder = unpack(Path(download.value.path()).read_bytes(), tmp_path, "clicked")
    result = stack.command("service", "smoke-test", str(folder), "--record", "Jane Roe", "--resource", "orders/1")
    assert result["decrypted"] == "Jane Roe"
    assert_accessible(page)


def test_a_service_is_connected_with_the_keyboard_only(stack, tenant, visitor, tmp_path):
    page = sign_in(visitor(), stack, tenant, page="services")
    tab_to(page, page.get_by_role("button", name="Connect service"))
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    tab_to(page, dialog.get_by_label("Name", exact=True))
    page.keyboard.type("typed")
    page.keyboard.press("Tab")
    expect(dialog.get_by_placeholder("/etc/openkcm/typed")).to_be_attached()
    tab_to(page, dialog.get_by_role("button", name="Connect", exact=True))
    page.keyboard.press("Enter")
    expect(dialog.get_by_text("typed is connected")).to_be_visible()
    tab_to(page, dialog.get_by_role("button", name="Download files (ZIP)"))
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert (unpack(Path(download.value.path()).read_bytes(), tmp_path, "typed") / "client.key").exists()
    tab_to(page, dialog.get_by_role("button", name="Close", exact=True))
    page.keyboard.press("Enter")
    expect(dialog).to_have_count(0)


@pytest.mark.parametrize(("width", "height", "screens"), [(1280, 900, 2), (390, 844, 6)], ids=["desktop", "phone"])
def test_fifty_services_fit_on_few_screens(stack, visitor, width, height, screens):
    tenant = new_tenant(stack, f"fifty-{width}")
    with stack.database().tenant_tx(tenant) as tx:
        for number in range(50):
            tx.services.connect(f"service-{number:02}", list(ServiceKind)[number % len(ServiceKind)])
    page = sign_in(visitor(viewport={"width": width, "height": height}), stack, tenant, page="services")
    expect(page.get_by_text("50 of 50 shown")).to_be_visible()
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0)
    assert page.evaluate(_HEIGHT) <= screens * height
    select_service(page, "service-07")
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0)
    assert page.evaluate(_HEIGHT) <= screens * height


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
