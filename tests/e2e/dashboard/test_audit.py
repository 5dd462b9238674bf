"""An auditor finds who read a customer's data in one minute, in at most three clicks."""

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from core.tenants.lifecycle import State
from dashboard.audit.address import minute
from dashboard.components.fragments import REFRESH_SECONDS
from openkcm.contract.audit_events import AuditName
from tests.dashboard.scene import ACME
from tests.database.builders import an_audit_event
from tests.database.fixtures import Server, clone
from tests.e2e.dashboard.harness.browser import Visitor, drawn
from tests.e2e.dashboard.harness.dashboard_pages import UMA, go_to
from tests.e2e.dashboard.harness.served import ServedDashboard, serve

RESOURCE = "customer/4711"
_COUNT = "window.clicks = 0; document.addEventListener('click', () => { window.clicks += 1; }, true)"
_SLOW_NETWORK = """
const add = WebSocket.prototype.addEventListener;
WebSocket.prototype.addEventListener = function (kind, listener, ...options) {
    const later = event => setTimeout(listener, 3000, event);
    add.call(this, kind, kind === "message" ? later : listener, ...options);
};
"""
"""For 3 s the page does not know that its request was answered, and its refreshes send the selection again."""
_USES = (("orders", "encrypt", RESOURCE), ("billing", "decrypt", RESOURCE), ("billing", "decrypt", "customer/12"))


@pytest.fixture
def served(server: Server, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDashboard]:
    """The dashboard with ACME and the records that a crypto process ships."""
    folder = tmp_path_factory.mktemp("dashboard")
    with clone(server, template) as field, serve(field, folder) as running:
        running.scene.tenant(State.ACTIVE)
        events = [
            an_audit_event(
                f"use {service} {operation} {resource}",
                name=AuditName.CRYPTO_USED,
                actor_kind="service",
                actor=service,
                subject=resource,
                details={"operation": operation, "count": "1"},
            )
            for service, operation, resource in _USES
        ]
        with running.scene.worker.tenant_tx(ACME) as tx:
            tx.audit.append_all(events)
        yield running


def cells(page: Page, text: str) -> Locator:
    """Return the cells of a table with exactly this text: the table is a canvas, which contains them as elements."""
    return page.locator("canvas td").filter(has_text=re.compile(f"^{re.escape(text)}$"))


def test_an_auditor_finds_who_read_a_customer_in_one_minute(served: ServedDashboard, chromium: Browser) -> None:
    [at] = [
        datetime.fromisoformat(one["time"])
        for one in served.scene.records()
        if one["subject"] == RESOURCE and one["details"]["operation"] == "decrypt"
    ]
    with closing(Visitor(chromium, served.url)) as window:
        page = window.sign_in(UMA, f"/tenant/{ACME}/")
        page.evaluate(_COUNT)
        go_to(page, "Audit")
        page.get_by_label("Search records").click()
        page.keyboard.type(RESOURCE)
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile(r"[?&]search=customer"))
        expect(cells(page, "customer/12")).to_have_count(0)
        for text in (f"{at:%Y-%m-%d %H:%M:%S}", "decrypt", "billing", RESOURCE):
            expect(cells(page, text).first).to_be_attached()
        assert 1 <= page.evaluate("window.clicks") <= 3

        # The same record by a link with the minute and the operation, also after a reload.
        query = {"from": minute(at), "to": minute(at + timedelta(minutes=1)), "operation": "decrypt", "search": "4711"}
        page.goto(page.url.split("?")[0] + "?" + "&".join(f"{name}={value}" for name, value in query.items()))
        for _ in range(2):
            drawn(page)
            expect(cells(page, "billing")).to_have_count(1)
            expect(cells(page, "encrypt")).to_have_count(0)
            page.reload()


@pytest.mark.parametrize(
    ("query", "script"),
    [("", ""), ("?live=1", ""), ("", _SLOW_NETWORK), ("?live=1", _SLOW_NETWORK)],
    ids=["list", "live list", "list over a slow network", "live list over a slow network"],
)
def test_a_selected_record_stays_open_until_it_is_closed_and_opens_again(
    served: ServedDashboard, chromium: Browser, query: str, script: str
) -> None:
    with closing(Visitor(chromium, served.url)) as window:
        window.context.add_init_script(script)
        page = window.sign_in(UMA, f"/tenant/{ACME}/audit{query}")
        expect(cells(page, "billing").first).to_be_attached()
        table, dialog = page.get_by_test_id("stDataFrame").last, page.get_by_role("dialog")
        for _ in range(2):
            table.click(position={"x": 15, "y": 55})
            expect(dialog.get_by_text("Chain verified")).to_be_visible()
            page.wait_for_timeout(2_000 * REFRESH_SECONDS)  # while the live list draws again
            expect(dialog.get_by_text('"actor":')).to_be_visible()
            page.keyboard.press("Escape")
            expect(dialog).to_have_count(0)
            page.wait_for_timeout(2_000 * REFRESH_SECONDS)
            expect(dialog).to_have_count(0)
            expect(page).not_to_have_url(re.compile("seq="))  # written by the server, later on a busy machine
