"""Nobody is shut out by how a page is made: axe-core finds no serious fault, light or dark, wide or on a phone."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from dashboard import navigation
from tenancy.root_keys import RootKeyMode
from tests.stories.browser import SIGN_IN, drawn
from tests.stories.dashboard_pages import ADA, OLGA, fill_connect
from tests.stories.holders import Holder, Holders
from tests.stories.open_to_all import assert_open_to_all
from tests.stories.root_key_pages import LOCKED, ask_for, close, labelled, notice, open_change, press
from tests.stories.stack import ACME, Stack

LOOKS = [
    pytest.param({"color_scheme": "light"}, id="light"),
    pytest.param({"color_scheme": "dark"}, id="dark"),
    pytest.param({"color_scheme": "light", "viewport": {"width": 390, "height": 844}}, id="phone"),
]


def show(page: Page, path: str) -> None:
    page.goto(path)
    drawn(page)
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0)


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_of_a_tenant_and_the_doors_before_it_are_open_to_all(acme, visitor, look):
    page = visitor(**look).open(f"/tenant/{acme}/")
    assert_open_to_all(page)
    page.get_by_role("button", name=SIGN_IN).click()
    expect(page.get_by_role("button", name=ADA)).to_be_visible()
    assert_open_to_all(page)
    page.get_by_role("button", name=ADA).click()
    page.wait_for_url(re.compile(f"/tenant/{acme}/"))
    for entry in navigation.TENANT:
        show(page, f"/tenant/{acme}/{entry.path}")
        assert_open_to_all(page)
    show(page, f"/tenant/{acme}/services")
    fill_connect(page, "of-nobody")
    assert_open_to_all(page)
    show(page, f"/tenant/{acme}/services")
    page.get_by_role("button", name="Let an agent enrol").click()
    expect(page.get_by_role("dialog").get_by_role("button", name="Make the token")).to_be_visible()
    assert_open_to_all(page)
    page.goto("/operations/")
    expect(page.get_by_text("403 Forbidden")).to_be_visible()
    assert_open_to_all(page)


@pytest.mark.parametrize("look", LOOKS)
def test_the_marketplace_of_development_is_open_to_all(visitor, look):
    page = visitor(**look).open("/marketplace/")
    assert_open_to_all(page)


@pytest.mark.parametrize("look", LOOKS)
def test_the_operators_desk_is_open_to_all(acme, visitor, look):
    assert acme == ACME
    page = visitor(**look).sign_in(OLGA)
    for entry in navigation.OPERATIONS:
        show(page, f"/operations/{entry.path}")
        assert_open_to_all(page)


@pytest.fixture
def held(stack: Stack, acme: str, holders: Holders, tmp_path: Path) -> Iterator[Holder]:
    """A root key of ACME's own; at the end the platform holds it again."""
    holder = holders.hold("openbao")
    stack.command("root-key", "change", acme, *holder.words(tmp_path))
    yield holder
    stack.command("root-key", "change", acme, "--provider", "platform")


@pytest.mark.parametrize("look", LOOKS)
def test_changing_the_root_key_and_stopping_a_tenant_are_open_to_all(acme, visitor, held, look):
    page = visitor(**look).sign_in(ADA, f"/tenant/{acme}/")
    show(page, f"/tenant/{acme}/keys")
    assert_open_to_all(page)
    for provider in RootKeyMode:
        dialog = open_change(page, provider)
        dialog.get_by_text("What to do first, where the key is held").click()
        assert_open_to_all(page)
        close(dialog, "Cancel")
    dialog = open_change(page, RootKeyMode.OPENBAO)
    labelled(dialog, "Address").fill(held.place.model_dump()["address"])
    labelled(dialog, "Key name").fill("there-is-none")
    labelled(dialog, "Token (only without an AppRole)").fill("of-nobody")
    press(dialog, "Check", "This root key would not do")
    assert_open_to_all(page)
    close(dialog, "Cancel")
    for move in ("suspend", "lock"):
        dialog = ask_for(page, move)
        assert_open_to_all(page)
        close(dialog, "Cancel")
    with held.taken_away():
        for path in ("keys", ""):
            show(page, f"/tenant/{acme}/{path}")
            expect(notice(page, LOCKED)).to_be_visible()
            assert_open_to_all(page)
    expect(notice(page, LOCKED)).to_have_count(0)
