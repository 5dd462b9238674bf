"""Every page and dialog has no serious violation in light, dark and on a phone, and a name for each action."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from core.keys.root_keys import RootKeyMode
from dashboard import router
from tests.database.fixtures import Server, clone
from tests.e2e.dashboard.harness import varied_tenants as tenants
from tests.e2e.dashboard.harness.accessibility import DESKTOP, faults
from tests.e2e.dashboard.harness.browser import SIGN_IN, Visitor, drawn, press
from tests.e2e.dashboard.harness.dashboard_pages import ADA, KAI, OLGA, fill_connect
from tests.e2e.dashboard.harness.root_key_pages import close, open_change, open_dialog
from tests.e2e.dashboard.harness.served import ServedDashboard, serve
from tests.e2e.dashboard.harness.sign_ons import sign_in_alone
from tests.e2e.dashboard.harness.varied_tenants import BUSY, CLOSED, LEAVING, LOCKED, WAITING

EVERY = tuple(entry.path for entry in router.TENANT)
SELECTED = {"keys": "keys?service=ledger", "services": "services?service=ledger", "audit": "audit?from=2026-01-01"}
PAGES = [
    *((BUSY, SELECTED.get(path, path)) for path in EVERY),
    *((LOCKED, path) for path in ("", "keys", "services", "settings")),
    *((WAITING, path) for path in ("", "approvals", "settings")),
    *((tenants.HELD, path) for path in ("", "keys")),
    *((tenant, "") for tenant in (tenants.EMPTY, tenants.SUSPENDED, LEAVING, tenants.STARTING, tenants.FAILED)),
    *((CLOSED, entry.path) for entry in router.LEFT),
]
# Page and button of each dialog of a tenant that needs no workflow to open.
DIALOGS = [
    (BUSY, "", "standing-suspend"),
    (BUSY, "", "standing-lock"),
    (LOCKED, "", "standing-unlock"),
    (tenants.SUSPENDED, "", "standing-resume"),
    (BUSY, "keys", "help"),
    (BUSY, SELECTED["keys"], "keys-versions"),
    (BUSY, SELECTED["keys"], "rotation-one"),
    (BUSY, SELECTED["keys"], "rotation-retire"),
    (BUSY, SELECTED["keys"], "rotation-compromised-one"),
    (BUSY, SELECTED["keys"], "rotation-tenant-key"),
    (BUSY, SELECTED["keys"], "rotation-everything"),
    (BUSY, SELECTED["keys"], "rotation-compromised"),
    (BUSY, SELECTED["services"], "services-join"),
    (BUSY, SELECTED["services"], "services-renew"),
    (BUSY, SELECTED["services"], "services-disconnect"),
    (BUSY, SELECTED["services"], "services-fields"),
    (BUSY, "services?service=orders", "services-guide"),
    (BUSY, SELECTED["services"], "services-guide"),
    (BUSY, "services?service=shop-db", "services-guide"),
    (BUSY, "settings", "notifications-add"),
    (BUSY, "settings", "notifications-events"),
    (BUSY, "settings", "notifications-rotate"),
    (BUSY, "settings", "notifications-remove"),
    (BUSY, "settings", "leaving-leave"),
    (LEAVING, "", "leaving-restore"),
    (WAITING, "", "standing-lock"),
]


@pytest.fixture(scope="module")
def served(server: Server, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDashboard]:
    """The dashboard with a tenant in each state; running processes are measured."""
    with clone(server, template) as field, serve(field, tmp_path_factory.mktemp("dashboard")) as running:
        tenants.add_tenants(running.scene)
        with tenants.measured(running.scene):
            yield running


@pytest.fixture
def visitor(served: ServedDashboard, chromium: Browser) -> Iterator[Callable[..., Visitor]]:
    """A function that opens a separate window of this dashboard, signed in at a tenant if one is given."""
    with ExitStack() as windows:

        def open_window(tenant: str | None = None, name: str = ADA, **options: Any) -> Visitor:
            options = {"color_scheme": "light", "viewport": DESKTOP, **options}
            window = windows.enter_context(closing(Visitor(chromium, served.url, **options)))
            if tenant is not None:
                sign_in_alone(window, served, tenant, name)
            return window

        yield open_window


def show(window: Visitor, path: str) -> Page:
    page = window.open(path)
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0)
    return page


@pytest.mark.parametrize(("tenant", "path"), PAGES)
def test_pages_of_a_tenant_are_accessible(visitor, tenant: str, path: str) -> None:
    assert faults(show(visitor(tenant), f"/tenant/{tenant}/{path}")) == []


@pytest.mark.parametrize(("tenant", "path", "key"), DIALOGS)
def test_dialogs_of_a_tenant_are_accessible(visitor, tenant: str, path: str, key: str) -> None:
    page = show(visitor(tenant), f"/tenant/{tenant}/{path}")
    open_dialog(page, key)
    drawn(page)
    assert faults(page) == []


@pytest.mark.parametrize("kind", ["Microservice", "MongoDB cluster", "PostgreSQL instance"])
def test_the_dialog_that_connects_a_service_is_accessible(visitor, kind: str) -> None:
    page = show(visitor(BUSY), f"/tenant/{BUSY}/services")
    fill_connect(page, "new-service", kind).get_by_text("Advanced").click()
    assert faults(page) == []


@pytest.mark.parametrize("provider", list(RootKeyMode))
def test_the_dialog_of_each_root_key_provider_is_accessible(visitor, provider: RootKeyMode) -> None:
    # Only a tenant that holds its root key can return to the platform's.
    tenant = tenants.HELD if provider is RootKeyMode.PLATFORM else BUSY
    page = show(visitor(tenant), f"/tenant/{tenant}/keys")
    dialog = open_change(page, provider)
    dialog.get_by_text("Prepare your provider").click()
    assert faults(page) == []
    close(dialog, "Cancel")


@pytest.mark.parametrize(("name", "choice"), [(ADA, "Approve"), (ADA, "Decline"), (KAI, "Withdraw")])
def test_the_dialogs_of_a_request_are_accessible(visitor, name: str, choice: str) -> None:
    page = show(visitor(WAITING, name), f"/tenant/{WAITING}/approvals")
    press(page.get_by_role("button", name=f"{choice} lock"), page.get_by_role("dialog"))
    drawn(page)
    assert faults(page) == []


def test_an_audit_record_is_accessible(visitor) -> None:
    page = show(visitor(BUSY), f"/tenant/{BUSY}/audit?seq=3")
    expect(page.get_by_role("dialog").get_by_text("Chain verified")).to_be_visible()
    assert faults(page) == []


def test_sign_in_and_error_documents_are_accessible(visitor) -> None:
    window = visitor()
    page = window.open(f"/tenant/{BUSY}/")
    found = faults(page)
    page.get_by_role("button", name=SIGN_IN).click()
    expect(page.get_by_role("button", name=ADA)).to_be_visible()
    found += faults_of_document(page)
    window = visitor(BUSY)
    for path, status in (("/operations/", 403), ("/nothing/", 404)):
        answer = window.page.goto(path)
        assert answer is not None
        assert answer.status == status
        found += faults_of_document(window.page)
    assert found == []


def faults_of_document(page: Page) -> list[str]:
    """Return the faults of a document that Streamlit does not draw."""
    return faults(page, streamlit=False)


def test_pages_of_operators_and_the_development_marketplace_are_accessible(visitor) -> None:
    found = faults(show(visitor(), "/marketplace/"))
    window = visitor()
    window.sign_in(OLGA)
    help_text = open_dialog(show(window, "/operations/"), "help")
    expect(help_text).to_contain_text("Fleet health")
    expect(help_text.get_by_role("link")).to_have_count(0)  # The platform publishes no documentation.
    found += faults(window.page)
    for query in ("", f"?id={tenants.FAILED}", f"?id={BUSY}"):
        found += faults(show(window, f"/operations/{query}"))
    open_dialog(show(window, f"/operations/?id={tenants.FAILED}"), f"operations-retry-{tenants.FAILED}")
    found += faults(window.page)
    assert found == []
