"""People in front of the dashboard: Debian's Chromium, and for each of them a context with cookies of its own."""

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

MISSING = "there is no chromium, so the dashboard cannot be shown in a browser (as root: apt-get install chromium)"
SIGN_IN = "Sign in with your platform account"
PATIENCE_MS = 60_000
_DRAWN = "[data-testid=stApp][data-test-script-state=notRunning]"
_ARGUMENTS = (
    "--no-sandbox",  # root has none in a container; it opens pages of this machine only
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a browser; fails where there is none."""
    path = shutil.which("chromium")
    if path is None:
        raise RuntimeError(MISSING)
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """One person's browser. `origins` are those that it may ask for anything: the dashboard's, and a sign-on's."""

    def __init__(self, browser: Browser, *origins: str, **options: Any) -> None:
        self.origins, self.asked = origins, set[str]()
        self.context = browser.new_context(base_url=origins[0], **options)
        self.context.set_default_timeout(PATIENCE_MS)
        self.context.on("request", lambda request: self.asked.add(request.url))
        self.context.on("page", lambda page: page.on("websocket", lambda socket: self.asked.add(socket.url)))
        self.context.set_default_navigation_timeout(PATIENCE_MS)
        self.page = self.context.new_page()

    @property
    def asked_elsewhere(self) -> set[str]:
        """What was asked of anybody but the dashboard and its sign-on."""
        allowed = {"", *(urlsplit(origin).netloc for origin in self.origins)}  # what has no host is in the page itself
        return {url for url in self.asked if urlsplit(url).netloc not in allowed}

    def carry(self, cookies: Mapping[str, str]) -> None:
        """Put cookies into the browser, as whoever took or made them would."""
        self.context.add_cookies([{"name": n, "value": v, "url": self.origins[0]} for n, v in cookies.items()])

    def open(self, path: str) -> Page:
        """Open a path and wait until the page is drawn."""
        self.page.goto(path)
        drawn(self.page)
        return self.page

    def sign_in(self, name: str, path: str = "/") -> Page:
        """Go to a path, sign in through the development sign-on, and wait until what it leads to is drawn."""
        self.open(path)
        self.page.get_by_role("button", name=SIGN_IN).click()
        self.page.get_by_role("button", name=name).click()
        self.page.wait_for_url(re.compile(r"/(tenant|operations)/"))
        drawn(self.page)
        return self.page

    def close(self) -> None:
        """Close the browser's window; it must have asked nobody else for anything."""
        self.context.close()
        assert self.asked_elsewhere == set()


def drawn(page: Page) -> None:
    """Wait until Streamlit has drawn what it was asked for."""
    expect(page.locator(_DRAWN)).to_be_attached()
    expect(page.get_by_role("heading", level=1).first).to_be_visible()


def title(page: Page) -> Locator:
    """Return the page's one heading; while Streamlit replaces a page, the new one."""
    return page.get_by_role("heading", level=1).first


def tab_to(page: Page, wanted: Locator, most: int = 80) -> None:
    """Press Tab until `wanted` has the focus, as somebody without a mouse would."""
    expect(wanted).to_be_visible()
    for _ in range(most):
        if wanted.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{wanted} was not reached by Tab")
