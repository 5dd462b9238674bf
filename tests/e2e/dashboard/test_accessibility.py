"""axe-core finds no serious violation on any page of the dashboard, in light on a desktop and in dark on a phone."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from core.keys.root_keys import RootKeyMode
from dashboard import router as navigation
from tests.e2e.dashboard.harness.accessibility import assert_accessible
from tests.e2e.dashboard.harness.browser import SIGN_IN, drawn
from tests.e2e.dashboard.harness.dashboard_pages import ADA, OLGA, fill_connect
from tests.e2e.dashboard.harness.root_key_pages import LOCKED, ask_for, close, notice, open_change, submit
from tests.e2e.dashboard.harness.sign_ons import sign_in
from tests.e2e.root_keys.holders import Holders
from tests.e2e.stack import Stack
from tests.e2e.tenants import new_tenant

DARK_PHONE = {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}}
LOOKS = [pytest.param({"color_scheme": "light"}, id="light"), pytest.param(DARK_PHONE, id="dark phone")]


def show(page: Page, path: str) -> None:
    page.goto(path)
    drawn(page)
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0)


@pytest.mark.parametrize("look", LOOKS)
def test_pages_of_a_tenant_and_its_sign_in_are_accessible(acme, visitor, look):
    page = visitor(**look).open(f"/tenant/{acme}/")
    assert_accessible(page)
    page.get_by_role("button", name=SIGN_IN).click()
    expect(page.get_by_role("button", name=ADA)).to_be_visible()
    assert_accessible(page)
    page.get_by_role("button", name=ADA).click()
    page.wait_for_url(re.compile(f"/tenant/{acme}/"))
    for entry in navigation.TENANT:
        show(page, f"/tenant/{acme}/{entry.path}")
        assert_accessible(page)
    show(page, f"/tenant/{acme}/services")
    fill_connect(page, "never-connected")
    assert_accessible(page)
    show(page, f"/tenant/{acme}/services")
    page.get_by_role("button", name="Enrol an agent").click()
    expect(page.get_by_role("dialog").get_by_role("button", name="Create token")).to_be_visible()
    assert_accessible(page)
    page.goto("/operations/")
    expect(page.get_by_text("403 Forbidden")).to_be_visible()
    assert_accessible(page)


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize("look", LOOKS)
def test_pages_of_operators_and_the_development_marketplace_are_accessible(visitor, look):
    page = visitor(**look).open("/marketplace/")
    assert_accessible(page)
    page = visitor(**look).sign_in(OLGA)
    for entry in navigation.OPERATIONS:
        show(page, f"/operations/{entry.path}")
        assert_accessible(page)


def test_dialogs_of_the_root_key_and_the_pages_of_a_locked_tenant_are_accessible(
    stack: Stack, holders: Holders, visitor, tmp_path: Path
):
    tenant, held = new_tenant(stack, "accessible"), holders.hold("openbao")
    stack.command("root-key", "change", tenant, *held.words(tmp_path))
    page = sign_in(visitor(**DARK_PHONE), stack, tenant, page="keys")
    assert_accessible(page)
    for provider in RootKeyMode:
        dialog = open_change(page, provider)
        dialog.get_by_text("Prepare your provider").click()
        assert_accessible(page)
        close(dialog, "Cancel")
    dialog = open_change(page, RootKeyMode.OPENBAO)
    submit(dialog, "Check", held, "Check failed", key="missing")
    assert_accessible(page)
    close(dialog, "Cancel")
    for move in ("suspend", "lock"):
        dialog = ask_for(page, move)
        assert_accessible(page)
        close(dialog, "Cancel")
    with held.taken_away():
        for path in ("keys", ""):
            show(page, f"/tenant/{tenant}/{path}")
            expect(notice(page, LOCKED)).to_be_visible()
            assert_accessible(page)
    expect(notice(page, LOCKED)).to_have_count(0)
