"""While a server is away, the dashboard shows what is known, and says plainly what cannot be done and what to do."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.stories.browser import SIGN_IN, title
from tests.stories.dashboard_pages import ADA, fill_connect, go_to
from tests.stories.outages import down

_SECONDS = 1_000
_NO_TRACE = re.compile(r"Traceback|psycopg|grpc|hvac|Error:|exception", re.IGNORECASE)


def assert_plain(page: Page) -> None:
    """No page shows what only its programmers understand."""
    expect(page.get_by_text(_NO_TRACE)).to_have_count(0)


@pytest.mark.parametrize(
    ("component", "says"),
    [
        ("temporal", "The workflow service does not answer."),
        # The request is with the workflow, which waits for the key server; the page waits a minute for it.
        ("openbao", "The request is not done yet. It goes on by itself once what it waits for is back"),
    ],
)
def test_without_a_server_the_pages_show_what_is_known_and_connecting_says_why_not(
    stack, acme, visitor, component, says
):
    page = visitor().sign_in(ADA, f"/tenant/{acme}/")
    with down(stack, component):
        page.reload()
        expect(title(page)).to_have_text("ACME Corporation - Encryption Dashboard")
        expect(page.get_by_text("Active", exact=True).first).to_be_visible()
        for name in ("Keys", "Usage", "Audit", "Services"):
            go_to(page, name)
            assert_plain(page)
        dialog = fill_connect(page, f"without-{component}")
        dialog.get_by_role("button", name="Connect", exact=True).click()
        expect(dialog.get_by_text("Not connected", exact=True)).to_be_visible(timeout=150 * _SECONDS)
        expect(dialog.get_by_text(says)).to_be_visible()
        expect(dialog.get_by_text("What you entered is still here.")).to_be_visible()
        expect(dialog.get_by_label("Name", exact=True)).to_have_value(f"without-{component}")
        assert_plain(page)


def test_without_the_database_nobody_is_let_in_and_it_is_said(stack, acme, visitor):
    window = visitor()
    page = window.sign_in(ADA, f"/tenant/{acme}/")
    with down(stack, "postgres"):
        page.get_by_test_id("stSidebarNav").get_by_role("link", name="Keys").click()
        expect(title(page)).to_have_text("This page cannot be shown now")
        assert_plain(page)
        expect(page.get_by_text("ACME Corporation")).to_have_count(0)
        answer = window.page.goto(f"/tenant/{acme}/")
        assert answer.status == 503
        expect(title(page)).to_have_text("This page cannot be shown now")
        assert_plain(page)
    window.open(f"/tenant/{acme}/")
    expect(title(page)).to_have_text("ACME Corporation - Encryption Dashboard")


def test_whoever_comes_first_after_a_start_by_the_address_of_a_page_is_let_in(stack, acme, visitor):
    with down(stack, "dashboard"):
        pass
    page = visitor().open(f"/tenant/{acme}/keys")
    expect(page.get_by_role("button", name=SIGN_IN)).to_be_visible()
    expect(page.get_by_role("navigation")).to_have_count(0)  # no menu, of the pages' files least of all
