"""Actions of users in dialogs and on the page Keys, by the names that the pages show."""

import re
from contextlib import suppress

from playwright.sync_api import Locator, Page, expect

from core.keys.root_keys import RootKeyMode
from dashboard.root_keys.guides import ENTRIES, NAMES
from tests.e2e.dashboard.harness import browser
from tests.e2e.dashboard.harness.browser import drawn
from tests.e2e.root_keys.holders import Holder

LOCKED, SUSPENDED = "Tenant locked", "Tenant suspended"
SOON_MS = 60_000
"""Time within which a page shows an external change: one check of the root key and one refresh of the page."""

# The state of a window: its document, the values of its fields, its address and its storages.
_STATE = """
() => JSON.stringify([
    document.documentElement.outerHTML,
    [...document.querySelectorAll("input, textarea")].map(field => field.value),
    location.href,
    history.state,
    {...localStorage},
    {...sessionStorage},
    document.cookie,
])
"""


def card(page: Page) -> Locator:
    """Return the root key's card."""
    return (
        page.get_by_test_id("stVerticalBlock").filter(has=page.get_by_role("heading", name="Root key", exact=True)).last
    )


def notice(page: Page, words: str, *, exact: bool = False) -> Locator:
    """Return the notice above the page that contains these words, or has exactly these as its title."""
    notices = page.get_by_test_id("stAlert")
    return notices.filter(has=page.get_by_text(words, exact=True)) if exact else notices.filter(has_text=words)


def open_change(page: Page, provider: RootKeyMode) -> Locator:
    """Open the dialog that changes the root key and choose its new key holder; return the dialog."""
    dialog = page.get_by_role("dialog")
    browser.press(page.get_by_role("button", name="Change root key"), dialog)
    dialog.locator(".st-key-root-key-provider").get_by_text(NAMES[provider], exact=True).click()
    drawn(page)
    return dialog


def fill_in(dialog: Locator, holder: Holder, **changed: str) -> list[str]:
    """Type the reference of the key and its credentials, with `changed` fields; return the typed secrets."""
    place = holder.place.model_dump(mode="json", exclude_none=True, exclude={"provider"}) | changed
    credentials = {name: secret.get_secret_value() for name, secret in holder.credentials if secret is not None}
    secrets = []
    for entry in ENTRIES[RootKeyMode(holder.place.provider)]:
        text = (credentials if entry.secret else place).get(entry.name)
        if text is not None:
            labelled(dialog, entry.label).fill(text)
            secrets += [text] if entry.secret else []
    return secrets


def submit(dialog: Locator, button: str, holder: Holder, says: str, **changed: str) -> list[str]:
    """Fill in, press a button and wait for the result in the dialog; return the typed secrets.

    Types everything again if the result does not appear, because Streamlit can drop input while it draws the page.
    """
    for _ in range(3):
        secrets = fill_in(dialog, holder, **changed)
        dialog.get_by_role("button", name=button, exact=True).click()
        with suppress(AssertionError):
            expect(dialog.get_by_text(says)).to_be_visible()
            return secrets
    raise AssertionError(f"{button} does not lead to: {says}")


def labelled(dialog: Locator, label: str) -> Locator:
    return dialog.get_by_label(label, exact=True)


def press(dialog: Locator, button: str, says: str) -> None:
    """Press a button of a dialog and wait for the result."""
    browser.press(dialog.get_by_role("button", name=button, exact=True), dialog.get_by_text(says))


def finish(dialog: Locator, button: str, says: str) -> None:
    """Press a button of a dialog, wait for the result, and close the dialog."""
    press(dialog, button, says)
    close(dialog)


def close(dialog: Locator, button: str = "Close") -> None:
    dialog.get_by_role("button", name=button, exact=True).last.click()
    expect(dialog).to_have_count(0)


def change(page: Page, provider: RootKeyMode, holder: Holder | None = None) -> list[str]:
    """Change the root key by the dialog; return the typed secrets."""
    dialog = open_change(page, provider)
    typed: list[str] = []
    if holder is None:
        press(dialog, "Change", "Root key changed")
    else:
        typed = submit(dialog, "Change", holder, "Root key changed")
    close(dialog)
    return typed


def button(page: Page, key: str) -> Locator:
    return page.locator(f".st-key-{key}").get_by_role("button")


def open_dialog(page: Page, key: str) -> Locator:
    """Press the button with the given key and return the dialog."""
    dialog = page.get_by_role("dialog")
    browser.press(button(page, key), dialog)
    return dialog


def select_service(page: Page, service: str) -> None:
    """Select a service on the page Keys in its list, by the keyboard alone; its actions appear."""
    chosen = page.get_by_role("combobox", name="Selected service")
    chosen.focus()
    page.keyboard.press("Control+A")  # a selected service is replaced
    page.keyboard.type(service)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(rf"[?&]service={service}(&|$)"))
    expect(page.get_by_role("button", name="Versions and history")).to_be_visible()


def ask_for(page: Page, move: str) -> Locator:
    """Open the dialog of one of the emergency controls at the top of the page; return the dialog."""
    return open_dialog(page, f"standing-{move}")


def confirm(dialog: Locator, name: str) -> None:
    dialog.get_by_label(f"Type {name} to confirm").fill(name)


def window_state(page: Page) -> str:
    """Return the state of the window."""
    state: str = page.evaluate(_STATE)
    return state
