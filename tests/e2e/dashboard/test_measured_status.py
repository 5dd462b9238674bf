"""A fault is on every open page within seconds, in the customer's words and with the component's name for operators."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.dashboard.harness.browser import drawn
from tests.e2e.dashboard.harness.dashboard_pages import OLGA
from tests.e2e.dashboard.harness.sign_ons import sign_in
from tests.e2e.outages import down, hanging
from tests.e2e.root_keys.holders import Holders
from tests.e2e.stack import Stack
from tests.e2e.tenants import new_tenant

SOON_SECONDS = 10.0
"""Within which each open page shows a fault: reports are one second apart, and pages refresh every two."""
RECOVERED_MS = 90_000
PAGES = ("", "keys", "services")


def strip(page: Page) -> Locator:
    return page.locator(".st-key-status-strip")


@contextmanager
def locked(stack: Stack, tenant: str) -> Iterator[None]:
    stack.command("tenant", "lock", tenant, "--confirm", tenant)
    try:
        yield
    finally:
        stack.command("tenant", "unlock", tenant)


def open_pages(stack: Stack, visitor: Callable, tenant: str) -> list[Page]:
    window = visitor(viewport={"width": 1280, "height": 900})
    pages = [sign_in(window, stack, tenant)]
    for path in PAGES[1:]:
        page = window.context.new_page()
        page.goto(f"/tenant/{tenant}/{path}")
        drawn(page)
        pages.append(page)
    return pages


def assert_shown_soon(pages: Sequence[Page], badge: str, notice: str, picture: Path) -> None:
    began = time.monotonic()
    for page in pages:
        left = max(SOON_SECONDS - (time.monotonic() - began), 0.5) * 1000
        expect(strip(page)).to_contain_text(badge, timeout=left)
        expect(page.get_by_text(notice).first).to_be_visible(timeout=left)
        expect(strip(page)).not_to_contain_text("Operational")
    pages[0].screenshot(path=picture)


def assert_recovered(pages: Sequence[Page]) -> None:
    for page in pages:
        expect(strip(page)).to_contain_text("Operational", timeout=RECOVERED_MS)


_SERVER = "Key server: Does not respond", "Services use keys in memory for a minute at most.", "Key server"
_WORKER = "Changes: Delayed", "Services continue to work.", "Workers"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        pytest.param(lambda stack: hanging(stack, "openbao"), _SERVER, id="key server suspended"),
        pytest.param(lambda stack: down(stack, "openbao"), _SERVER, id="key server stopped"),
        pytest.param(lambda stack: down(stack, "worker"), _WORKER, id="worker stopped"),
    ],
)
def test_each_open_page_shows_a_fault_within_seconds_and_its_end(stack, visitor, fault, said, request):
    badge, notice, component = said
    tenant = request.getfixturevalue("tenant")
    pages = open_pages(stack, visitor, tenant)
    operator = visitor().sign_in(OLGA)
    assert_recovered(pages)
    with fault(stack):
        picture = request.getfixturevalue("tmp_path") / "fault.png"
        assert_shown_soon(pages, badge, notice, picture)
        expect(operator.get_by_text(component).first).to_be_visible()
    assert_recovered(pages)


def test_a_disabled_root_key_and_a_lock_are_on_each_open_page(
    stack: Stack, holders: Holders, visitor: Callable, tmp_path: Path
) -> None:
    tenant, held = new_tenant(stack, "measured"), holders.hold("openbao")
    stack.command("root-key", "change", tenant, *held.words(tmp_path))
    pages = open_pages(stack, visitor, tenant)
    assert_recovered(pages)
    for fault, notice, name in (
        (held.taken_away(), "There is no fallback", "root-key"),
        (locked(stack, tenant), "Every process rejects requests", "locked"),
    ):
        with ExitStack() as until:
            until.enter_context(fault)
            assert_shown_soon(pages, "Stopped", notice, tmp_path / f"{name}.png")
            expect(strip(pages[1])).to_contain_text("Tenant: Locked")
            expect(pages[2].get_by_text("encrypting")).to_have_count(0)
        assert_recovered(pages)


def test_the_kill_switch_is_visible_without_scrolling_and_takes_three_clicks(
    stack: Stack, tenant: str, visitor: Callable
) -> None:
    page = sign_in(visitor(viewport={"width": 1280, "height": 900}), stack, tenant, page="keys")
    button = page.get_by_role("button", name="Lock all keys")
    expect(button).to_be_in_viewport(ratio=1)
    button.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label(f"Type {tenant} to confirm").fill(tenant)
    dialog.get_by_role("button", name="Lock", exact=True).click()
    expect(dialog.get_by_text("Tenant locked")).to_be_visible()
    expect(page.get_by_text("Every process rejects requests")).to_be_visible(timeout=10_000)
    expect(page.get_by_text("Locked by ada")).to_be_visible()
    dialog.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Unlock…").click()
    dialog.get_by_role("button", name="Unlock", exact=True).click()
    expect(dialog.get_by_text("Tenant unlocked")).to_be_visible()
    dialog.get_by_role("button", name="Close").click()
    expect(strip(page)).to_contain_text("Operational", timeout=30_000)
