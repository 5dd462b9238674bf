"""The harness presses a button again only if the page is drawn without the result, and reports what it saw."""

import pytest
from playwright.sync_api import expect

from tests.e2e.dashboard.harness import browser
from tests.e2e.dashboard.harness.browser import drawn, press

PAGE = """
<div data-testid="stApp" data-test-script-state="notRunning">
    <h1>Page</h1><button>Enable</button><p hidden>Done</p>
</div>
<script>
    let clicks = 0;
    document.querySelector("button").onclick = () => {
        clicks += 1;
        document.title = `${clicks}`;
        if (clicks === DROPPED + 1) document.querySelector("p").hidden = false;
    };
</script>
"""


@pytest.mark.e2e
@pytest.mark.parametrize("dropped", [0, 1])
def test_dropped_click_is_repeated_once_with_a_warning(visitor, monkeypatch, recwarn, dropped):
    monkeypatch.setattr(browser, "_SOON_MS", 300)
    page = visitor().page
    page.set_content(PAGE.replace("DROPPED", str(dropped)))
    press(page.get_by_role("button", name="Enable"), page.get_by_text("Done"))
    assert page.title() == str(dropped + 1)
    assert len([one for one in recwarn if "a click was dropped" in str(one.message)]) == dropped


@pytest.mark.e2e
def test_page_that_is_never_drawn_is_reported_with_its_state(visitor, monkeypatch):
    monkeypatch.setattr(browser, "_DRAWN", "[data-testid=none]")
    page = visitor().page
    page.set_content(PAGE.replace("DROPPED", "0"))
    expect.set_options(timeout=100)
    try:
        with pytest.raises(AssertionError) as undrawn:
            drawn(page)
    finally:
        expect.set_options(timeout=browser.TIMEOUT_MS)
    [note] = undrawn.value.__notes__
    assert "notRunning" in note
