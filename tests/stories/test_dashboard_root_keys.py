"""A key administrator changes the root key and uses the kill switch on the page Keys, which names what is wrong."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from core.keys.root_keys import RootKeyMode
from dashboard.root_keys.view import NO_FALLBACK
from tests.concurrency import wait_until
from tests.stories.browser import Visitor
from tests.stories.clients import OK, SERVICE, Program
from tests.stories.dashboard_pages import UMA, go_to
from tests.stories.holders import Holders
from tests.stories.root_key_pages import (
    LOCKED,
    SOON_MS,
    SUSPENDED,
    ask_for,
    card,
    change,
    close,
    confirm,
    finish,
    kept_by,
    labelled,
    notice,
    open_change,
    press,
    submit,
)
from tests.stories.sign_ons import sign_in
from tests.stories.stack import Stack
from tests.stories.test_traces import found_in, payloads_of
from worker import wiring

OPENBAO, AWS_KMS, PLATFORM = RootKeyMode.OPENBAO, RootKeyMode.AWS_KMS, RootKeyMode.PLATFORM
NOTHING_BUT_READS = {"encrypt": False, "decrypt": True, "data key": False}
WORKS = "It answers and opens what it wrapped."


@pytest.fixture
def page(stack: Stack, visitor: Callable[..., Visitor], program: Program) -> Page:
    """Return the page Keys as the administrator of the program's tenant sees it."""
    page = sign_in(visitor(), stack, program.service.tenant_id)
    go_to(page, "Keys")
    page.evaluate("window.neverReloaded = true")
    return page


def answers(program: Program) -> dict[str, bool]:
    asked = program.probe("encrypt", "decrypt", "data key")
    return {name: answer == OK for name, answer in asked.items()}


def test_root_key_is_changed_locks_when_it_is_disabled_and_leaves_no_typed_secret(
    stack: Stack, holders: Holders, program: Program, page: Page
) -> None:
    # The guide names what the key needs; a check names the missing line of the policy, and nothing is stored.
    holder = holders.hold("openbao")
    name = holder.place.model_dump()["key"]
    dialog = open_change(page, OPENBAO)
    dialog.get_by_text("What to do first, where the key is held").click()
    guide = dialog.locator(".st-key-root-key-guide")
    expect(guide.get_by_text("Make a key in Transit that cannot be exported.")).to_be_visible()
    typed = submit(dialog, "Check", holder, "Address: an address such as https://", address="bao.acme.example")
    expect(guide.get_by_text(f'path "transit/encrypt/{name}"')).to_be_visible()
    expect(dialog.get_by_text("Nothing was stored.")).to_be_visible()
    holders.bao.allow(("decrypt", "keys"))
    try:
        submit(dialog, "Check", holder, "This root key would not do")
    finally:
        holders.bao.allow()
    expect(dialog.get_by_text(f"The policy does not allow transit/encrypt/{name}.")).to_be_visible()
    missing = dialog.locator("code").get_by_text(f'path "transit/encrypt/{name}" {{ capabilities = ["update"] }}')
    expect(missing.last).to_be_visible()
    expect(labelled(dialog, "Token (only without an AppRole)")).to_have_value("")

    # Once the policy allows it, the key is changed to.
    press(dialog, "Check", "This root key does what is needed")
    press(dialog, "Change", "The root key is changed")
    expect(dialog.get_by_text(NO_FALLBACK)).to_be_visible()
    close(dialog)
    expect(card(page).get_by_text("Your own key in your key server (HYOK)", exact=True)).to_be_visible()
    expect(card(page).get_by_text(WORKS)).to_be_visible()
    expect(card(page).get_by_text("wrapped anew")).to_be_visible()
    assert program.works()

    # A key that is disabled where it is held locks the tenant; enabled again it unlocks it, without a reload.
    with holder.taken_away():
        expect(notice(page, LOCKED)).to_be_visible(timeout=SOON_MS)
        expect(notice(page, "the root key does not do its part where you hold it")).to_be_visible()
        expect(
            notice(page, "Your tenant opens by itself, within seconds, when the root key works again")
        ).to_be_visible()
        expect(card(page).get_by_text("The tenant is locked until it works again.")).to_be_visible()
        expect(page.locator(".st-key-standing-unlock")).to_have_count(0)
        wait_until(program.refuses_all, lambda: "the locked tenant is served")
    expect(notice(page, LOCKED)).to_have_count(0, timeout=SOON_MS)
    expect(card(page).get_by_text(WORKS)).to_be_visible()
    wait_until(program.works, lambda: "what was encrypted before does not decrypt")

    # After a change to another key the former one decides nothing, and the platform's key can be taken back.
    typed += change(page, AWS_KMS, holders.hold("aws-kms"))
    expect(card(page).get_by_text("BYOK").first).to_be_visible()
    holder.take_away()
    assert program.works()
    change(page, PLATFORM)
    expect(card(page).get_by_text("Platform-managed").first).to_be_visible()
    assert program.works()
    assert page.evaluate("window.neverReloaded")

    # No secret that was typed is in the window, nor in a row, history, log or file of the installation.
    assert len(typed) >= 2
    assert [secret for secret in typed if secret in kept_by(page)] == []
    hidden = [secret.encode() for secret in typed]
    assert_stored_nowhere(stack, program.service.tenant_id, holders.bao_proxy.url, hidden)


def assert_stored_nowhere(stack: Stack, tenant: str, place: str, hidden: list[bytes]) -> None:
    """Search for `hidden` wherever the installation stores anything; that `place` is found shows that it would be."""
    rows = stack.rows()
    assert {"audit_event", "root_key", "root_key_request"} <= rows.keys()
    assert place in rows["root_key_request"]
    for name, text in rows.items():
        assert found_in(text.encode(), hidden) == [], name

    with ThreadPoolExecutor(1) as thread:  # the browser's driver has this thread's event loop
        stored, decoded = thread.submit(lambda: asyncio.run(histories(stack, tenant))).result()
    for content in (*stored, b"\n".join(decoded)):
        assert found_in(content, hidden) == []

    seen = set()
    for file in stack.settings.state_dir.rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError):  # servers remove some during the search
            raw = file.read_bytes()
            # A database's file is no text: what it holds decoded was searched above, by its rows.
            found = found_in(raw, hidden) if file.suffix == ".log" else [one for one in hidden if one in raw]
            assert found == [], file
            seen |= {file.name} | ({"a row's file"} if place.encode() in raw else set())
    assert {"worker.log", "dashboard.log", "crypto.log", "a row's file"} <= seen


async def histories(stack: Stack, tenant: str) -> tuple[list[bytes], list[bytes]]:
    """Return the tenant's histories as Temporal stores them, and their payloads decrypted."""
    client = await stack.temporal()
    found = [(one.workflow_id, one) async for one in client.list_workflows(f'TenantId = "{tenant}"').map_histories()]
    assert any("root-key" in workflow_id for workflow_id, _ in found)
    parts = wiring.build(stack.settings)
    try:
        parts.keyring.open_platform_key()
        assert parts.converter.payload_codec is not None
        decoded = await parts.converter.payload_codec.decode(payloads_of(found))
    finally:
        parts.database.close()
    return [history.to_json().encode() for _, history in found], [payload.data for payload in decoded]


def test_kill_switch_takes_the_tenants_id_and_is_undone_on_the_page(program: Program, page: Page) -> None:
    tenant = program.service.tenant_id
    dialog = ask_for(page, "lock")
    expect(dialog.get_by_text(f"{SERVICE}, microservice: last used")).to_be_visible()
    dialog.get_by_role("button", name="Lock (kill switch)").click()
    expect(dialog.get_by_text("Nothing was done.")).to_be_visible()
    assert program.works()
    confirm(dialog, tenant)
    press(dialog, "Lock (kill switch)", "The tenant is locked")
    wait_until(program.refuses_all, lambda: "the locked tenant is served")
    close(dialog)
    expect(notice(page, LOCKED)).to_be_visible()
    expect(notice(page, "somebody pulled the kill switch here")).to_be_visible()
    expect(notice(page, "Your tenant opens when a key administrator unlocks it on the page Keys")).to_be_visible()
    expect(card(page).get_by_role("button", name="Change the root key")).to_have_count(0)

    dialog = ask_for(page, "unlock")
    finish(dialog, "Unlock", "The tenant is unlocked")
    expect(notice(page, LOCKED)).to_have_count(0)
    wait_until(program.works, lambda: "the unlocked tenant is not served")

    dialog = ask_for(page, "suspend")
    finish(dialog, "Suspend", "The tenant is suspended")
    expect(notice(page, SUSPENDED)).to_be_visible()
    wait_until(lambda: answers(program) == NOTHING_BUT_READS, lambda: f"{answers(program)}")

    dialog = ask_for(page, "resume")
    finish(dialog, "Resume", "The tenant is resumed")
    expect(notice(page, SUSPENDED)).to_have_count(0)
    wait_until(program.works, lambda: "the resumed tenant does not encrypt")


def test_auditor_sees_the_root_key_and_is_offered_no_change(
    stack: Stack, tenant: str, holders: Holders, visitor: Callable[..., Visitor], tmp_path: Path
) -> None:
    holder = holders.hold("openbao")
    stack.command("root-key", "change", tenant, *holder.words(tmp_path))
    page = sign_in(visitor(), stack, tenant, UMA, "keys")
    expect(card(page).get_by_text(WORKS)).to_be_visible()
    expect(page.get_by_role("heading", name="Stop and start")).to_be_visible()
    with holder.taken_away():
        expect(notice(page, LOCKED)).to_be_visible(timeout=SOON_MS)
        for name in ("Change the root key", "Suspend", "Resume", "Lock (kill switch)", "Unlock"):
            expect(page.get_by_role("button", name=name)).to_have_count(0)
        expect(card(page).get_by_text("A key administrator of your organization changes the root key.")).to_be_visible()
    expect(notice(page, LOCKED)).to_have_count(0, timeout=SOON_MS)
