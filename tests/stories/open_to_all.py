"""What axe-core says of a page: nobody is shut out by how it is made."""

from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

_GRAVE = frozenset({"serious", "critical"})


def assert_open_to_all(page: Page) -> None:
    expect(page.locator("[data-stale=true]")).to_have_count(0)  # what is being drawn anew is pale meanwhile
    found: dict[str, Any] = Axe().run(page).response
    assert found["passes"] or found["violations"], "axe-core looked at nothing"
    faults = [
        f"{page.url} {fault['id']} ({fault['impact']}): {node['html'][:160]}: {node['failureSummary']}"
        for fault in found["violations"]
        for node in fault["nodes"]
        if fault["impact"] in _GRAVE
    ]
    assert faults == []
