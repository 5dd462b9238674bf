"""Checks of a page with axe-core: no serious violation in any look, and a name for each button and link."""

import re
from collections import defaultdict
from typing import Any, Literal

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, ViewportSize, expect

from tests.e2e.dashboard.harness.browser import drawn

DESKTOP, PHONE = ViewportSize(width=1280, height=900), ViewportSize(width=390, height=844)
_SEVERE = frozenset({"serious", "critical"})
_DIALOG = "[role=dialog]"
_LIGATURE = re.compile(r"\b[a-z]+_[a-z_]+\b|\bicon\b")
"""The name of an icon of Material Symbols, as Streamlit writes it: `check_circle icon`."""
# Parts of one widget, which Streamlit names inside a labelled group, and the tools of a table are no actions of a page.
_NAMES = """
() => {
    const inputs = ["TextInput", "NumberInput", "MultiSelect", "Selectbox", "DateInput", "DateTimeInput"];
    const parts = ["ElementToolbar", "Toolbar", ...inputs];
    const ignored = [...parts.map(part => `[data-testid=st${part}]`), "[data-testid=stHeadingWithActionElements] a"];
    axe.setup(document);
    const shown = [...(document.querySelector("[role=dialog]") ?? document).querySelectorAll("button, a[href]")].filter(
        element => !element.closest(ignored.join())
            && !element.disabled
            && axe.commons.dom.isVisibleToScreenReaders(element)
    );
    const found = shown.map(element => [axe.commons.text.accessibleText(element), element.href ?? ""]);
    axe.teardown();
    return found;
}
"""


_IMAGES = """
() => [...(document.querySelector("[role=dialog]") ?? document).querySelectorAll("[role=img]")]
    .map(element => element.getAttribute("aria-label") ?? "")
"""


def assert_accessible(page: Page) -> None:
    """Assert that the page, or its open dialog, has no violation in the present look."""
    assert violations(page) == []


def violations(page: Page, *rules: str) -> list[str]:
    """Return the serious and critical violations of the page or its open dialog; `rules` selects some of axe-core."""
    # Streamlit greys out elements while it draws again.
    expect(page.locator("[data-stale=true]")).to_have_count(0)
    # A dialog stops the page from scrolling, and axe-core then regards text in a root element without height as hidden.
    page.evaluate("document.documentElement.style.minHeight = '100%'")
    options = {"runOnly": {"type": "rule", "values": list(rules)}} if rules else None
    scope = _DIALOG if page.locator(_DIALOG).count() else None
    found: dict[str, Any] = Axe().run(page, scope, options).response
    checked = {rule["id"] for rule in (*found["passes"], *found["violations"])}
    assert "color-contrast" in checked, f"axe-core checked no text: {checked}"
    return [
        f"{page.url} {fault['id']} ({fault['impact']}): {node['html'][:160]}: {node['failureSummary']}"
        for fault in found["violations"]
        for node in fault["nodes"]
        if fault["impact"] in _SEVERE
    ]


def faults(page: Page, *, streamlit: bool = True) -> list[str]:
    """Return the faults of a page or its open dialog: light and dark on a desktop, dark on a phone, names."""
    return [
        *_with(page, "light", DESKTOP, streamlit=streamlit),
        *name_faults(page),
        *_with(page, "dark", DESKTOP, streamlit=streamlit),
        *_with(page, "dark", PHONE, streamlit=streamlit),
    ]


def _with(page: Page, scheme: Literal["light", "dark"], screen: ViewportSize, *, streamlit: bool) -> list[str]:
    """Return the faults in a look; in the dark on the same screen only the colours differ from the light one."""
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(screen)
    if streamlit:
        drawn(page)
    found = violations(page, *(["color-contrast"] if (scheme, screen) == ("dark", DESKTOP) else []))
    return [f"{scheme}, {screen['width']} pixels: {fault}" for fault in found]


def name_faults(page: Page) -> list[str]:
    """Return buttons and links without a name, with the name of an icon, or with the name of another action.

    Also icons in texts whose name is no word: Streamlit reads out the name of their symbol, such as `check icon`.
    """
    targets = defaultdict(list)
    for name, target in page.evaluate(_NAMES):
        targets[name.strip()].append(target)
    unnamed = [f"{page.url}: {name!r} names no action" for name in targets if not name or _LIGATURE.search(name)]
    twice = [
        f"{page.url}: {len(found)} actions have the name {name!r}"
        for name, found in targets.items()
        if len(found) > 1 and (len(set(found)) > 1 or "" in found)
    ]
    unread = [
        f"{page.url}: the icon {name!r} in a text"
        for name in sorted(set(page.evaluate(_IMAGES)))
        if re.search(r"_\w* icon$", name)
    ]
    return [*unnamed, *twice, *unread]
