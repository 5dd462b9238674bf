"""Users of the dashboard: Debian's Chromium, with a separate context and cookies for each user."""

import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

MISSING = "chromium is missing; install it as root: apt-get install chromium"
SIGN_IN = "Sign in with your platform account"
TIMEOUT_MS = 60_000
_DRAWN = "[data-testid=stApp][data-test-script-state=notRunning]"
_SOON_MS = 10_000
# The last events of the pointer and messages to the server, for the warning of `press`.
_RECORD = """
(() => {
    window.recorded = [];
    const record = (...entry) => {
        window.recorded = [...window.recorded.slice(-30), [Math.round(performance.now()), ...entry]];
    };
    for (const kind of ["pointerdown", "pointerup", "click"])
        document.addEventListener(kind, event => record(kind, event.target.outerHTML.slice(0, 80)), true);
    const send = WebSocket.prototype.send;
    WebSocket.prototype.send = function (message) {
        record("sent", message.byteLength);
        return send.call(this, message);
    };
})()
"""
_OBSERVED = "() => [document.querySelector('[data-testid=stApp]')?.dataset.testScriptState, window.recorded]"
_ARGUMENTS = (
    "--no-sandbox",  # root has no sandbox in a container; only pages of this machine are opened
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a browser; raises RuntimeError without chromium."""
    path = shutil.which("chromium")
    if path is None:
        raise RuntimeError(MISSING)
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """The browser of one user. It may send requests only to `origins`: the dashboard, and a sign-on."""

    def __init__(self, browser: Browser, *origins: str, **options: Any) -> None:
        self.origins, self.requested_urls = origins, set[str]()
        self.context = browser.new_context(base_url=origins[0], **options)
        self.context.set_default_timeout(TIMEOUT_MS)
        self.context.add_init_script(_RECORD)
        self.context.on("request", lambda request: self.requested_urls.add(request.url))
        self.context.on("page", lambda page: page.on("websocket", lambda socket: self.requested_urls.add(socket.url)))
        self.context.set_default_navigation_timeout(TIMEOUT_MS)
        self.page = self.context.new_page()

    @property
    def foreign_urls(self) -> set[str]:
        """The requested URLs outside the dashboard and its sign-on."""
        allowed = {"", *(urlsplit(origin).netloc for origin in self.origins)}  # a URL without a host is inside the page
        return {url for url in self.requested_urls if urlsplit(url).netloc not in allowed}

    def add_cookies(self, cookies: Mapping[str, str]) -> None:
        """Add cookies to the browser, as an attacker with stolen or forged cookies would."""
        self.context.add_cookies([{"name": n, "value": v, "url": self.origins[0]} for n, v in cookies.items()])

    def open(self, path: str) -> Page:
        """Open a path and wait until the page is drawn."""
        self.page.goto(path)
        drawn(self.page)
        return self.page

    def sign_in(self, name: str, path: str = "/") -> Page:
        """Open a path, sign in through the development sign-on, and wait until the next page is drawn."""
        self.open(path)
        self.page.get_by_role("button", name=SIGN_IN).click()
        self.page.get_by_role("button", name=name).click()
        self.page.wait_for_url(re.compile(r"/(tenant|operations)/"))
        drawn(self.page)
        return self.page

    def close(self) -> None:
        """Close the window and assert that it sent no request elsewhere."""
        self.context.close()
        assert self.foreign_urls == set()


def drawn(page: Page) -> None:
    """Wait until Streamlit has drawn the page; an error has a note of what the browser saw and sent."""
    try:
        expect(page.locator(_DRAWN)).to_be_attached()
    except AssertionError as undrawn:
        undrawn.add_note(f"state of the script and last events: {page.evaluate(_OBSERVED)}")
        raise
    expect(page.get_by_role("heading", level=1).first).to_be_visible()


def press(button: Locator, result: Locator) -> None:
    """Press a button of a drawn page and wait for the result.

    Presses it again if the page is drawn without the result: in a few of hundreds of runs Streamlit dropped the click.
    The warning then says what the browser saw and sent, because the cause is unknown.
    """
    page = button.page
    drawn(page)
    button.click()
    with suppress(AssertionError):
        expect(result).to_be_visible(timeout=_SOON_MS)
        return
    drawn(page)
    if not result.is_visible() and button.is_visible():
        warnings.warn(f"a click was dropped: {page.evaluate('() => window.recorded')}", stacklevel=2)
        button.click()
    expect(result).to_be_visible()


def title(page: Page) -> Locator:
    """Return the main heading of the page; while Streamlit replaces a page, that of the new page."""
    return page.get_by_role("heading", level=1).first


def tab_to(page: Page, wanted: Locator, most: int = 80) -> None:
    """Press Tab until `wanted` has the focus, as a user without a mouse would."""
    expect(wanted).to_be_visible()
    for _ in range(most):
        if wanted.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{wanted} was not reached by Tab")
