"""While a server is down, the dashboard shows the known data and states which actions are unavailable."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.concurrency import wait_until
from tests.e2e.dashboard.harness.browser import SIGN_IN, title
from tests.e2e.dashboard.harness.dashboard_pages import fill_connect, go_to
from tests.e2e.dashboard.harness.sign_ons import sign_in
from tests.e2e.outages import down
from tests.e2e.stack import Stack
from tests.e2e.tenants import ORGANIZATION

_SECONDS = 1_000
_NO_TRACE = re.compile(r"Traceback|psycopg|grpc|hvac|Error:|exception", re.IGNORECASE)


def assert_plain(page: Page) -> None:
    """Assert that the page shows no stack trace and no internal name."""
    expect(page.get_by_text(_NO_TRACE)).to_have_count(0)


def _has_certificate(stack: Stack, tenant: str, service: str) -> bool:
    return stack.services(tenant).get(service, {}).get("certificate_not_after") is not None


@pytest.mark.parametrize(
    ("component", "state"),
    [
        ("temporal", "Request queued"),
        # The request is with the workflow, which waits for the key server; the page waits a minute for it.
        ("openbao", "In progress"),
    ],
)
def test_pages_show_known_data_and_a_service_is_connected_after_the_outage(stack, tenant, visitor, component, state):
    page = sign_in(visitor(), stack, tenant)
    with down(stack, component):
        page.reload()
        expect(title(page)).to_have_text(f"{ORGANIZATION} - Encryption Dashboard")
        expect(page.get_by_text("Tenant Status: Active")).to_be_visible()
        for name in ("Keys", "Usage", "Audit", "Services"):
            go_to(page, name)
            assert_plain(page)
        dialog = fill_connect(page, f"without-{component}")
        dialog.get_by_role("button", name="Connect", exact=True).click()
        expect(dialog.get_by_text(state, exact=True)).to_be_visible(timeout=150 * _SECONDS)
        expect(dialog.get_by_text("the private key exists only here")).to_be_visible()
        expect(dialog.get_by_label("Name", exact=True)).to_have_value(f"without-{component}")
        assert_plain(page)
    wait_until(lambda: _has_certificate(stack, tenant, f"without-{component}"), lambda: "the service is not connected")
    dialog.get_by_role("button", name="Connect", exact=True).click()
    expect(dialog.get_by_role("button", name="Download files (ZIP)")).to_be_visible(timeout=90 * _SECONDS)


def test_without_the_database_every_page_is_unavailable(stack, tenant, visitor):
    window = visitor()
    page = sign_in(window, stack, tenant)
    with down(stack, "postgres"):
        page.get_by_test_id("stSidebarNav").get_by_role("link", name="Keys").click()
        expect(title(page)).to_have_text("Page unavailable")
        assert_plain(page)
        expect(page.get_by_text(ORGANIZATION)).to_have_count(0)
        answer = page.goto(f"/tenant/{tenant}/")
        assert answer.status == 503
        expect(title(page)).to_have_text("Page unavailable")
        assert_plain(page)
    window.open(f"/tenant/{tenant}/")
    expect(title(page)).to_have_text(f"{ORGANIZATION} - Encryption Dashboard")


def test_first_visit_after_a_restart_may_be_to_any_page(stack, tenant, visitor):
    with down(stack, "dashboard"):
        pass
    page = visitor().open(f"/tenant/{tenant}/keys")
    expect(page.get_by_role("button", name=SIGN_IN)).to_be_visible()
    expect(page.get_by_role("navigation")).to_have_count(0)  # no menu that lists the application's files
