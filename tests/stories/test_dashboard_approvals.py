"""It takes two of us to stop everything: one asks, another approves in a window of their own, and nobody does it alone.

An installation of its own, where a request waits for a little more than a minute instead of a day.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.stories.browser import Visitor
from tests.stories.dashboard_pages import ADA, KAI, UMA, go_to
from tests.stories.root_key_pages import LOCKED, SOON_MS, ask_for, close, notice, press
from tests.stories.stack import ACME, Stack

WAITS_HOURS = 0.02
OVER_MS = 90_000
LOCK = "Lock the tenant (kill switch)"
DECIDE = "Something waits for your decision"

Windows = Callable[[str], Page]


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("approvals"), approval_hours=WAITS_HOURS)
    stack.command("up")
    stack.enable(ACME, "ACME Corporation")
    stack.wait_announced(ACME)
    yield stack
    stack.command("down")
    stack.close()


@pytest.fixture
def windows(installation: Stack, chromium: Browser) -> Iterator[Windows]:
    """Return what gives each person a window of their own, signed in at the tenant's first page."""
    with ExitStack() as opened:

        def window(name: str) -> Page:
            visitor = opened.enter_context(closing(Visitor(chromium, installation.settings.dashboard_url)))
            return visitor.sign_in(name, f"/tenant/{ACME}/")

        yield window


@pytest.fixture(autouse=True)
def as_before(installation: Stack) -> Iterator[None]:
    """Leave the tenant open, whatever a story ended with."""
    yield
    if state_of(installation) == "locked":
        installation.command("tenant", "unlock", ACME)


def waiting(page: Page) -> Locator:
    """Return the card of what waits on the page Settings."""
    return (
        page.get_by_test_id("stVerticalBlock")
        .filter(has=page.get_by_text(f"{LOCK}", exact=True))
        .filter(has=page.get_by_role("button", name="Approve"))
        .last
    )


def ask_to_lock(page: Page) -> None:
    go_to(page, "Keys")
    dialog = ask_for(page, "lock")
    expect(dialog.get_by_text("Somebody else of your organization must approve within 1 minute")).to_be_visible()
    dialog.get_by_label(f"Type {ACME} to confirm").fill(ACME)
    press(dialog, "Ask for approval", "Somebody else has to approve")
    close(dialog)


def state_of(installation: Stack) -> str:
    return str(installation.command("tenant", "show", ACME)["state"])


def test_the_one_who_asks_cannot_approve_and_another_does(installation: Stack, windows: Windows) -> None:
    kai = windows(KAI)
    go_to(kai, "Settings")
    kai.get_by_text(LOCK, exact=True).click()
    expect(kai.get_by_text(f"{LOCK}: takes two people from then on")).to_be_visible()
    kai.get_by_role("button", name="Change the policy").click()
    expect(kai.get_by_text("The policy is changed")).to_be_visible()
    refused = installation.run("tenant", "lock", ACME, "--confirm", ACME)
    assert refused.returncode == 1
    assert "approval_required" in refused.stderr

    ada, uma = windows(ADA), windows(UMA)
    ask_to_lock(kai)
    assert state_of(installation) == "active"
    expect(notice(ada, DECIDE)).to_be_visible(timeout=SOON_MS)
    expect(notice(ada, f"Kai Keys (kai@acme.example) asked for: “{LOCK}”")).to_be_visible()
    expect(notice(uma, DECIDE)).to_have_count(0)

    go_to(kai, "Settings")
    expect(waiting(kai).get_by_role("button", name="Approve")).to_be_disabled()
    expect(waiting(kai).get_by_text("You asked for this, so somebody else has to approve it.")).to_be_visible()
    go_to(ada, "Settings")
    waiting(ada).get_by_role("button", name="Approve").click()
    dialog = ada.get_by_role("dialog")
    expect(dialog.get_by_text("No service key opens any more")).to_be_visible()
    press(dialog, "Approve", "Approved and done")
    close(dialog)
    expect(notice(ada, LOCKED)).to_be_visible()
    assert state_of(installation) == "locked"
    expect(notice(kai, LOCKED)).to_be_visible(timeout=SOON_MS)  # by itself
    go_to(uma, "Audit")
    expect(uma.get_by_text("Approved by a second person").first).to_be_attached()  # a cell, drawn on a canvas
    assert installation.mailbox.about(ACME, "A second person is asked for")


def test_what_nobody_approves_in_time_is_over_and_nothing_happens(installation: Stack, windows: Windows) -> None:
    kai, ada = windows(KAI), windows(ADA)
    ask_to_lock(kai)
    go_to(ada, "Settings")
    expect(waiting(ada).get_by_role("button", name="Approve")).to_be_enabled()
    expect(ada.get_by_text("Nothing waits.")).to_be_visible(timeout=OVER_MS)
    ada.get_by_text("What became of the last ones").click()
    expect(ada.get_by_text("over: nobody approved it in time")).to_be_visible(timeout=SOON_MS)
    expect(notice(ada, DECIDE)).to_have_count(0)
    assert state_of(installation) == "active"
