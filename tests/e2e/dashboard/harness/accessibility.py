"""Check of a page with axe-core: the page must be accessible."""

from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

_SEVERE = frozenset({"serious", "critical"})


def assert_accessible(page: Page) -> None:
    expect(page.locator("[data-stale=true]")).to_have_count(0)  # Streamlit greys out elements while it draws again
    found: dict[str, Any] = Axe().run(page).response
    assert found["passes"] or found["violations"], "axe-core checked nothing"
    faults = [
        f"{page.url} {fault['id']} ({fault['impact']}): {node['html'][:160]}: {node['failureSummary']}"
        for fault in found["violations"]
        for node in fault["nodes"]
        if fault["impact"] in _SEVERE
    ]
    assert faults == []
