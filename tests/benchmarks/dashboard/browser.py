"""A real browser for the dashboard, and its response times.

A first paint lasts from the request for an address until the page's main content is visible; an interaction from the
click or key, when the browser receives it, until its result is visible. The browser looks for both at every frame:
Playwright's own waits for an element look for it every half second after the first 270 ms.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from playwright.sync_api import (
    Browser,
    BrowserContext,
    Page,
    StorageState,
    ViewportSize,
    expect,
    sync_playwright,
)
from playwright.sync_api import TimeoutError as PageTimeout

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
_PATIENCE_MS, _REPEAT_MS = 60_000, 5_000
_VIEW: ViewportSize = {"width": 1280, "height": 900}
_WINDOW_MS = 2_000
"""A new window loads the browser's own pages: a second of processor time, which is no time of the visited page."""
_SHOWS = """([selector, text]) => [...document.querySelectorAll(selector)].some(
    one => one.textContent.includes(text) && one.checkVisibility({visibilityProperty: true}))"""
_NOTE_INPUT = """() => {
    for (const kind of ['pointerdown', 'keydown'])
        addEventListener(kind, () => { window.firstInput ??= Date.now(); }, {capture: true});
}"""
"""Before a click, Playwright waits until its target has the same place in two frames, which is no time of the page."""

PREPARING_VISITS = 3
"""Chromium stores the compiled scripts of a page at the second visit at the earliest; later visits use them."""

FIRST_ROW = """() => {
    const table = [...document.querySelectorAll('[data-testid=stDataFrame]')].at(-1)?.querySelector('canvas');
    if (!table?.width || !table.clientWidth) return '';
    const scale = table.width / table.clientWidth;
    const [top, height] = [38 * scale, 28 * scale];
    const pixels = new Uint32Array(table.getContext('2d').getImageData(0, top, table.width, height).data.buffer);
    if (pixels.every(pixel => pixel === pixels[0])) return '';
    return String(pixels.reduce((hash, pixel) => (Math.imul(hash, 31) + pixel) | 0, 7));
}"""
"""A fingerprint of the painted first row of Streamlit's table, from its canvas; empty while it is blank.

The text of the table for screen readers is updated a third of a second after the canvas.
"""


@dataclass(frozen=True)
class Place:
    """A page: its name, its path below the dashboard's address, and a wait for its content."""

    name: str
    path: str
    shown: Callable[[Page], None]


@dataclass(frozen=True)
class Interaction:
    """`before` prepares the page for `act`; `act` returns when its result is visible."""

    name: str
    path: str
    shown: Callable[[Page], None]
    act: Callable[[Page], None]
    before: Callable[[Page], None] | None = None


class Visitor:
    """A user of the pages below an address, signed in where it has the cookies of a session."""

    def __init__(self, browser: Browser, profile: BrowserContext, address: str, cookies: StorageState | None) -> None:
        """`profile` is a browser with its data on disk, as a person uses it; `browser` opens ones without any data."""
        self._browser, self._profile, self._address, self._cookies = browser, profile, address, cookies
        self._visited: set[str] = set()

    def first_paints(self, place: Place, runs: int) -> list[float]:
        """Return the seconds of each visit, in a profile that has visited the page before."""
        self._prepare(place.path, place.shown)
        return [self._first_paint(self._profile, place) for _ in range(runs)]

    def first_paints_in_new_profile(self, place: Place, runs: int) -> list[float]:
        """Return the seconds of each visit, in a new profile each time."""
        seconds = []
        for _ in range(runs):
            with self._browser.new_context(storage_state=self._cookies, viewport=_VIEW) as context:
                seconds.append(self._first_paint(context, place))
        return seconds

    def _first_paint(self, context: BrowserContext, place: Place) -> float:
        with closing(context.new_page()) as page:
            page.wait_for_timeout(_WINDOW_MS)
            began = time.perf_counter()
            self._request(page, place.path)
            place.shown(page)
            seconds = time.perf_counter() - began
            settle(page)
        return seconds

    def _prepare(self, path: str, shown: Callable[[Page], None]) -> None:
        if path in self._visited:
            return
        self._visited.add(path)
        for _ in range(PREPARING_VISITS):
            with closing(self._profile.new_page()) as page:
                self._request(page, path)
                shown(page)
                settle(page)

    def _request(self, page: Page, path: str) -> None:
        page.goto(f"{self._address}/{path}", wait_until="commit")

    @contextmanager
    def tabs(self, path: str, number: int) -> Iterator[None]:
        """Show a page in several tabs during the block."""
        with self._browser.new_context(storage_state=self._cookies, viewport=_VIEW) as context:
            for _ in range(number):
                page = context.new_page()
                self._request(page, path)
                settle(page)
            yield

    def interactions(self, interaction: Interaction, runs: int) -> list[float]:
        """Return the seconds of one interaction, each from a page that was just opened, in the profile."""
        self._prepare(interaction.path, interaction.shown)
        seconds: list[float] = []
        for _ in range(runs):
            with closing(self._profile.new_page()) as page:
                self._request(page, interaction.path)
                seconds.append(_seconds(page, interaction))
        return seconds


def _seconds(page: Page, interaction: Interaction) -> float:
    interaction.shown(page)
    settle(page)
    if interaction.before is not None:
        interaction.before(page)
        settle(page)
    page.evaluate(_NOTE_INPUT)
    interaction.act(page)
    ended = time.time()
    began_ms: float = page.evaluate("() => window.firstInput")
    return ended - began_ms / 1000


class Chromium:
    """`with Chromium() as browser:` runs Debian's Chromium headless."""

    def __enter__(self) -> Self:
        path = shutil.which("chromium")
        if path is None:
            raise FileNotFoundError("chromium is not installed")
        with ExitStack() as ends:
            self._folder = Path(ends.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            self._chromium = ends.enter_context(sync_playwright()).chromium
            self._options: dict[str, Any] = {"executable_path": path, "args": list(_FLAGS)}
            self._browser = ends.enter_context(self._chromium.launch(**self._options))
            self._ends = ends.pop_all()
        expect.set_options(timeout=_PATIENCE_MS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def visit(self, address: str) -> Visitor:
        """Return a user of pages without a sign-on."""
        return Visitor(self._browser, self._profile(), address, None)

    def sign_in(self, dashboard: str, root: str, name: str) -> Visitor:
        """Sign a user in with the development sign-on."""
        profile = self._profile()
        page = profile.new_page()
        page.goto(f"{dashboard}{root}/")
        page.get_by_role("button", name="Sign in with your platform account").click(timeout=_PATIENCE_MS)
        page.get_by_role("button", name=name).click(timeout=_PATIENCE_MS)
        page.get_by_test_id("stSidebar").get_by_role("button", name="Sign out").wait_for(timeout=_PATIENCE_MS)
        page.close()
        return Visitor(self._browser, profile, f"{dashboard}{root}", profile.storage_state())

    def _profile(self) -> BrowserContext:
        """Return a new profile, which has its own process and its data on disk."""
        folder = tempfile.mkdtemp(dir=self._folder)
        return self._ends.enter_context(
            self._chromium.launch_persistent_context(folder, viewport=_VIEW, **self._options)
        )


def at_rest(page: Page) -> None:
    """Wait until the script has finished and all its output is drawn."""
    page.wait_for_function(
        "() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"
        " && !document.querySelector('[data-stale=true]')",
        timeout=_PATIENCE_MS,
    )


def settle(page: Page) -> None:
    """Wait until the page is idle, so that pending work does not disturb the next measurement."""
    at_rest(page)
    page.wait_for_timeout(300)


def wait_for_animations(page: Page) -> None:
    page.wait_for_function("() => !document.getAnimations().length", timeout=_PATIENCE_MS)


def changes(page: Page, read: str, act: Callable[[], None]) -> None:
    """Call `act` and wait until the browser function `read` returns another text that is not empty."""
    before = page.evaluate(read)
    act()
    page.wait_for_function(f"before => {{ const now = ({read})(); return now && now !== before; }}", arg=before)


def row_changes(page: Page, act: Callable[[], None]) -> None:
    """Call `act` and wait until the table's first row changes."""
    changes(page, FIRST_ROW, act)


def wait_for(selector: str, text: str = "") -> Callable[[Page], None]:
    """Return a function that waits for a visible element that matches a CSS selector and contains a text."""
    return lambda page: _wait(page, selector, text, _PATIENCE_MS)


def _wait(page: Page, selector: str, text: str, milliseconds: float) -> None:
    page.wait_for_function(_SHOWS, arg=[selector, text], timeout=milliseconds)


def wait_for_text(text: str) -> Callable[[Page], None]:
    """Return a function that waits for a visible paragraph that contains a text."""
    return wait_for("p", text)


def wait_for_heading(name: str) -> Callable[[Page], None]:
    """Return a function that waits for a visible heading that contains a text."""
    return wait_for("h1, h2, h3", name)


def select_row(page: Page, selector: str, text: str = "") -> None:
    """Select the first row of the first visible table by its box, and wait for what `wait_for` describes.

    A click that the page ignores is repeated after `_REPEAT_MS`, as a user would; it then counts in the time.
    """
    table = page.locator("[data-testid=stDataFrame]:visible").first
    for _ in range(_PATIENCE_MS // _REPEAT_MS):
        table.scroll_into_view_if_needed()
        box = table.bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + 15, box["y"] + 55)
        with suppress(PageTimeout):
            return _wait(page, selector, text, _REPEAT_MS)
    raise TimeoutError(f"no row was selected: {page.url}")


def wait_for_table(page: Page) -> None:
    page.wait_for_function(f"() => ({FIRST_ROW})() !== ''", timeout=_PATIENCE_MS)
