"""Addresses of pages: they survive a sign-in, Back shows what was left, and an unknown one is explained."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from core.tenants.lifecycle import State
from openkcm.contract.services import ServiceKind
from tests.dashboard.scene import ACME
from tests.database.fixtures import Server, clone
from tests.e2e.dashboard.harness.accessibility import assert_accessible
from tests.e2e.dashboard.harness.browser import SIGN_IN, TIMEOUT_MS, Visitor, drawn, title
from tests.e2e.dashboard.harness.dashboard_pages import ADA, OLGA, UMA, go_to
from tests.e2e.dashboard.harness.late_messages import LateMessages
from tests.e2e.dashboard.harness.served import ServedDashboard, serve

ORGANIZATION = "ACME Corporation"
HOME = f"/tenant/{ACME}/"
AT_ONCE_MS = 20_000
OUTAGE_SECONDS = 10.0
_POLL_MS = 100
_REFRESHES = 4
"""Requests of fragments that refresh in an open page; at least one is of the strip, which every page has."""
DOCUMENTATION = "https://docs.example/dashboard/"


@pytest.fixture(scope="module")
def served(server: Server, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDashboard]:
    """The dashboard with ACME, its service and a use of its key."""
    folder = tmp_path_factory.mktemp("dashboard")
    with (
        clone(server, template) as field,
        serve(field, folder, OPENKCM_DOCUMENTATION_URL=DOCUMENTATION) as running,
    ):
        running.scene.tenant(State.ACTIVE)
        running.scene.service("orders", ServiceKind.MICROSERVICE, uses=20)
        yield running


@pytest.fixture
def visitor(served: ServedDashboard, chromium: Browser) -> Iterator[Callable[..., Visitor]]:
    """A function that opens a separate window of this dashboard."""
    with ExitStack() as windows:

        def open_window(**options: Any) -> Visitor:
            return windows.enter_context(closing(Visitor(chromium, served.url, **options)))

        yield open_window


def sign_in_as(page: Page, name: str, button: str = SIGN_IN) -> None:
    """Sign in on the page that is shown, by the development sign-on."""
    page.get_by_role("button", name=button).click()
    page.get_by_role("button", name=name).click()


def assert_at(page: Page, path: str, heading: str) -> None:
    """Assert that the page has this path and query, and is drawn."""
    expect(title(page)).to_have_text(heading)
    drawn(page)
    shown = urlsplit(page.url)
    assert f"{shown.path}{'?' if shown.query else ''}{shown.query}" == path


def test_the_address_of_a_page_survives_every_sign_in(visitor):
    path = f"/tenant/{ACME}/compliance?period=2026&note=a+b"
    window = visitor()
    page = window.open(path)
    expect(page).to_have_title("Sign in · OpenKCM")
    sign_in_as(page, ADA)
    assert_at(page, path, "Compliance")

    other = window.context.new_page()
    other.goto(f"/tenant/{ACME}/keys")
    other.get_by_role("button", name="Sign out").click()
    expect(other.get_by_role("button", name=SIGN_IN)).to_be_visible()
    assert urlsplit(other.url).path == f"/tenant/{ACME}/keys"
    expect(title(page)).to_have_text("Your session has ended", timeout=AT_ONCE_MS)
    expect(page).to_have_title("Your session has ended · OpenKCM")
    sign_in_as(page, ADA, "Sign in again")
    assert_at(page, path, "Compliance")
    other.reload()
    assert_at(other, f"/tenant/{ACME}/keys", "Keys")


def test_a_refused_address_survives_the_sign_in_with_another_account(visitor):
    path = f"/tenant/{ACME}/compliance?period=2026"
    page = visitor().sign_in(OLGA)
    answer = page.goto(path)
    assert answer.status == 403
    expect(page).to_have_title("Access denied · OpenKCM")
    page.get_by_role("link", name="Sign in with another account").click()
    sign_in_as(page, ADA)
    assert_at(page, path, "Compliance")


def test_an_address_survives_the_document_of_an_ended_session(visitor):
    window = visitor()
    page = window.sign_in(ADA, f"{HOME}keys")
    cookies = window.context.cookies()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name=SIGN_IN)).to_be_visible()
    window.context.add_cookies(cookies)
    path = f"/tenant/{ACME}/audit?outcome=refused"
    assert page.goto(path).status == 403
    expect(page).to_have_title("Your session has ended · OpenKCM")
    page.get_by_role("link", name="Sign in again").click()
    expect(page.get_by_role("button", name=SIGN_IN)).to_be_visible()
    sign_in_as(page, UMA)
    assert_at(page, path, "Audit")


def test_back_shows_a_page_as_it_was_left(visitor):
    page = visitor().sign_in(ADA, f"{HOME}usage")
    by_service = page.get_by_role("radio", name="Service", exact=True)
    page.get_by_test_id("stRadio").get_by_text("Service", exact=True).click()
    page.wait_for_url("**/usage?bars=Service")
    drawn(page)
    go_to(page, "Keys")
    assert urlsplit(page.url).query == ""
    page.go_back()
    page.wait_for_url("**/usage?bars=Service")
    expect(title(page)).to_have_text("Usage")
    expect(by_service).to_be_checked()
    page.reload()
    drawn(page)
    expect(by_service).to_be_checked()


def test_back_and_forward_cross_a_selected_row(visitor):
    page = visitor().sign_in(ADA, f"{HOME}usage?bars=Service")
    expect(page.get_by_role("radio", name="Service", exact=True)).to_be_checked()
    table = page.locator(".st-key-usage-refusals").get_by_test_id("stDataFrameResizable")
    table.scroll_into_view_if_needed()
    table.click(position={"x": 15, "y": 50})  # the mark of the first row
    expect(title(page)).to_have_text("Audit")
    drawn(page)
    records = urlsplit(page.url).query
    assert "outcome=refused" in records
    page.go_back()
    expect(title(page)).to_have_text("Usage")
    expect(page).to_have_url(re.compile(r"/usage\?bars=Service$"))
    expect(page.get_by_role("radio", name="Service", exact=True)).to_be_checked()
    page.go_forward()
    expect(title(page)).to_have_text("Audit")
    assert_at(page, f"{HOME}audit?{records}", "Audit")


def test_an_operators_tenant_has_an_address(visitor):
    page = visitor().sign_in(OLGA)
    expect(page).to_have_title("Operations · OpenKCM")
    page.get_by_label("Find").fill(ACME)
    page.get_by_label("Find").press("Enter")
    expect(page).to_have_url(re.compile(f"[?]find={ACME}$"))
    drawn(page)
    page.get_by_role("button", name=f"Open {ACME}").press("Enter")
    expect(title(page)).to_have_text(ACME)
    drawn(page)
    assert_at(page, f"/operations/?id={ACME}", ACME)
    for _ in range(2):  # before and after a reload
        page.go_back()
        assert_at(page, f"/operations/?find={ACME}", "Operations")
        expect(page.get_by_label("Find")).to_have_value(ACME)
        page.go_forward()
        assert_at(page, f"/operations/?id={ACME}", ACME)
        page.reload()
        expect(title(page)).to_have_text(ACME)
    shared = visitor().open(f"/operations/?id={ACME}")
    sign_in_as(shared, OLGA)
    assert_at(shared, f"/operations/?id={ACME}", ACME)


def test_a_page_connects_at_the_first_attempt_and_knows_the_session(visitor):
    """Also in a browser that has kept the session only: Streamlit ends its XSRF cookie with the browser."""
    page = visitor().sign_in(ADA, HOME)
    asked = []
    page.on("response", lambda found: asked.append((urlsplit(found.url).path, found.status)))
    page.context.clear_cookies(name="_streamlit_xsrf")
    page.goto(f"{HOME}keys")
    assert_at(page, f"{HOME}keys", "Keys")
    ours = {found for found in asked if "/_stcore/" in found[0]}
    assert ours == {(f"{HOME}_stcore/health", 200), (f"{HOME}_stcore/host-config", 200)}
    assert page.evaluate("async () => (await (await fetch('_stcore/host-config')).json()).allowedOrigins") == [
        page.evaluate("() => location.origin")
    ]


def test_every_page_names_itself_and_its_tenant(visitor):
    page = visitor().sign_in(ADA, HOME)
    side = page.get_by_test_id("stSidebar")
    for name in ("Keys", "Services", "Usage", "Compliance", "Audit", "Settings"):
        go_to(page, name)
        expect(page).to_have_title(f"{name} · {ORGANIZATION} · OpenKCM")
        expect(side.get_by_text(ORGANIZATION, exact=True)).to_be_visible()
        expect(side.get_by_text(re.compile(f"{ACME} · eu-"))).to_be_visible()
        expect(side.get_by_text(f"{ADA} · administrator")).to_be_visible()
        side.get_by_role("button", name=f"Help: {name}").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text(f"The page {name}")
        more = dialog.get_by_role("link", name="Open the documentation")
        expect(more).to_have_attribute("href", f"{DOCUMENTATION}#{name.lower()}")
        assert_accessible(page)
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_unknown_pages_are_explained_with_status_404(visitor, scheme):
    window = visitor(color_scheme=scheme)
    for path in ("/nothing/", "/tenant/X/", f"/tenant/{ACME}/nothing", f"/tenant/{ACME}/keys/nothing"):
        assert window.page.goto(path).status == 404
        expect(title(window.page)).to_have_text("Page not found")
        expect(window.page).to_have_title("Page not found · OpenKCM")
        assert_accessible(window.page)
    page = window.sign_in(ADA, HOME)
    assert page.goto(f"/tenant/{ACME}/nothing").status == 404
    page.get_by_role("link", name="Go to your page").click()
    page.wait_for_url(f"**/tenant/{ACME}/")


def test_a_hung_database_is_explained_within_ten_seconds_and_recovers(served, visitor):
    window = visitor()
    page = window.sign_in(ADA, f"{HOME}keys")
    idle = window.context.new_page()
    idle.goto(f"/tenant/{ACME}/")
    expect(idle.get_by_text("Tenant Status: Active")).to_be_visible()
    drawn(idle)
    reloaded = window.context.new_page()
    with served.hanging_database():
        began = time.monotonic()
        page.get_by_test_id("stSidebarNav").get_by_role("link", name="Services").click()
        reloaded.goto(f"/tenant/{ACME}/audit?outcome=refused", wait_until="commit")
        for one in (page, reloaded, idle):
            expect(title(one)).to_have_text("Page unavailable")
        assert time.monotonic() - began < OUTAGE_SECONDS
        for one in (page, reloaded, idle):
            expect(one.get_by_text("PostgreSQL")).to_have_count(0)
            expect(one.get_by_text("openkcmctl")).to_have_count(0)
            expect(one.get_by_text("Tenant Status: Active")).to_have_count(0)
            expect(one).to_have_title("Page unavailable · OpenKCM")
        expect(page.get_by_role("button", name="Retry")).to_be_visible()
        expect(reloaded.get_by_role("link", name="Retry")).to_be_visible()
        assert_accessible(reloaded)
    for one, heading in (
        (page, "Services"),
        (reloaded, "Audit"),
        (idle, f"{ORGANIZATION} - Encryption Dashboard"),
    ):
        expect(title(one)).to_have_text(heading)
    assert urlsplit(page.url).path == f"/tenant/{ACME}/services"
    assert reloaded.url.endswith("/audit?outcome=refused")


def until(page: Page, happened: Callable[[], bool]) -> None:
    """Wait until something has happened on the page's connection."""
    for _ in range(TIMEOUT_MS // _POLL_MS):
        if happened():
            return
        page.wait_for_timeout(_POLL_MS)
    pytest.fail("nothing happened on the connection of the page")


def test_late_refresh_of_the_page_before_leaves_a_page_as_it_is(visitor):
    window = visitor()
    late = LateMessages(window.page)
    page = window.sign_in(ADA, f"{HOME}usage")
    late.hold()
    until(page, lambda: len(late.held) >= _REFRESHES)
    table = page.locator(".st-key-usage-refusals").get_by_test_id("stDataFrameResizable")
    table.scroll_into_view_if_needed()
    table.click(position={"x": 15, "y": 50})  # the mark of the first row
    expect(title(page)).to_have_text("Audit")
    drawn(page)
    shown, number = page.url, late.refreshes
    late.release()
    until(page, lambda: late.refreshes >= number + _REFRESHES)
    drawn(page)
    expect(title(page)).to_have_text("Audit")
    assert page.url == shown
