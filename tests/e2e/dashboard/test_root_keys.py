"""A key administrator changes the root key and locks the tenant on the page Keys, which reports each problem."""

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
from tests.e2e.clients import OK, SERVICE, Program
from tests.e2e.dashboard.harness.browser import Visitor
from tests.e2e.dashboard.harness.dashboard_pages import UMA, go_to
from tests.e2e.dashboard.harness.root_key_pages import (
    LOCKED,
    SOON_MS,
    SUSPENDED,
    ask_for,
    card,
    change,
    close,
    confirm,
    finish,
    labelled,
    notice,
    open_change,
    press,
    submit,
    window_state,
)
from tests.e2e.dashboard.harness.sign_ons import sign_in
from tests.e2e.isolation.test_traces import found_in, payloads_of
from tests.e2e.root_keys.holders import Holders
from tests.e2e.stack import Stack
from worker import wiring

OPENBAO, AWS_KMS, PLATFORM = RootKeyMode.OPENBAO, RootKeyMode.AWS_KMS, RootKeyMode.PLATFORM
ONLY_DECRYPTION = {"encrypt": False, "decrypt": True, "data key": False}
WORKS = "Healthy, checked continuously."


@pytest.fixture
def page(stack: Stack, visitor: Callable[..., Visitor], program: Program) -> Page:
    """Return the page Keys of the program's tenant for its administrator."""
    page = sign_in(visitor(), stack, program.service.tenant_id)
    go_to(page, "Keys")
    page.evaluate("window.neverReloaded = true")
    return page


def works_by_request(program: Program) -> dict[str, bool]:
    results = program.probe("encrypt", "decrypt", "data key")
    return {name: result == OK for name, result in results.items()}


def test_the_root_key_is_changed_and_locks_the_tenant_when_disabled_and_typed_secrets_are_not_stored(
    stack: Stack, holders: Holders, program: Program, page: Page
) -> None:
    # The guide lists the needed properties; a check names the missing line of the policy and stores nothing.
    holder = holders.hold("openbao")
    name = holder.place.model_dump()["key"]
    dialog = open_change(page, OPENBAO)
    dialog.get_by_text("Prepare your provider").click()
    guide = dialog.locator(".st-key-root-key-guide")
    expect(guide.get_by_text("Create a key in Transit that cannot be exported.")).to_be_visible()
    typed = submit(dialog, "Check", holder, "Address: an address such as https://", address="bao.acme.example")
    expect(guide.get_by_text(f'path "transit/encrypt/{name}"')).to_be_visible()
    expect(dialog.get_by_text("Nothing was stored.")).to_be_visible()
    holders.bao.allow(("decrypt", "keys"))
    try:
        submit(dialog, "Check", holder, "Check failed")
    finally:
        holders.bao.allow()
    expect(dialog.get_by_text(f"The policy does not allow transit/encrypt/{name}.")).to_be_visible()
    missing = dialog.locator("code").get_by_text(f'path "transit/encrypt/{name}" {{ capabilities = ["update"] }}')
    expect(missing.last).to_be_visible()
    expect(labelled(dialog, "Token (only without an AppRole)")).to_have_value("")

    # Once the policy allows it, the key is changed to.
    press(dialog, "Check", "Check passed")
    press(dialog, "Change", "Root key changed")
    expect(dialog.get_by_text(NO_FALLBACK)).to_be_visible()
    close(dialog)
    expect(card(page).get_by_text("Your own key in your key server (HYOK)", exact=True)).to_be_visible()
    expect(card(page).get_by_text(WORKS)).to_be_visible()
    expect(card(page).get_by_text("re-wrapped")).to_be_visible()
    assert program.works()

    # A key that the customer disables locks the tenant; enabling it unlocks the tenant, without a reload of the page.
    with holder.taken_away():
        expect(notice(page, LOCKED)).to_be_visible(timeout=SOON_MS)
        expect(notice(page, "your root key is disabled or unreachable")).to_be_visible()
        expect(
            notice(page, "The tenant unlocks automatically within seconds when the root key works again")
        ).to_be_visible()
        expect(card(page).get_by_text("The tenant is locked until the root key works again.")).to_be_visible()
        expect(page.locator(".st-key-standing-unlock")).to_have_count(0)
        wait_until(program.refuses_all, lambda: "the locked tenant is served")
    expect(notice(page, LOCKED)).to_have_count(0, timeout=SOON_MS)
    expect(card(page).get_by_text(WORKS)).to_be_visible()
    wait_until(program.works, lambda: "what was encrypted before does not decrypt")

    # After a change to another key the former one has no effect, and a change to the platform's key is possible.
    typed += change(page, AWS_KMS, holders.hold("aws-kms"))
    expect(card(page).get_by_text("BYOK").first).to_be_visible()
    holder.take_away()
    assert program.works()
    change(page, PLATFORM)
    expect(card(page).get_by_text("Platform-Managed (default)").first).to_be_visible()
    assert program.works()
    assert page.evaluate("window.neverReloaded")

    # No typed secret is in the window, or in a row, history, log or file of the installation.
    assert len(typed) >= 2
    assert [secret for secret in typed if secret in window_state(page)] == []
    hidden = [secret.encode() for secret in typed]
    assert_stored_nowhere(stack, program.service.tenant_id, holders.bao_proxy.url, hidden)


def assert_stored_nowhere(stack: Stack, tenant: str, place: str, hidden: list[bytes]) -> None:
    """Search all storage of the installation for `hidden`; `place` must be found, as the control of the search."""
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
            # The files of a database are binary; their rows were searched above.
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


def test_lock_requires_the_tenants_id_and_is_undone_on_the_page(program: Program, page: Page) -> None:
    tenant = program.service.tenant_id
    dialog = ask_for(page, "lock")
    expect(dialog.get_by_text(f"{SERVICE}, microservice: last used")).to_be_visible()
    dialog.get_by_role("button", name="Lock", exact=True).click()
    expect(dialog.get_by_text("Nothing was done.")).to_be_visible()
    assert program.works()
    confirm(dialog, tenant)
    press(dialog, "Lock", "Tenant locked")
    wait_until(program.refuses_all, lambda: "the locked tenant is served")
    close(dialog)
    expect(notice(page, LOCKED)).to_be_visible()
    expect(notice(page, "Locked by an administrator")).to_be_visible()
    expect(notice(page, "Only a key administrator can unlock the tenant, at the top of any page")).to_be_visible()
    expect(card(page).get_by_role("button", name="Change root key")).to_have_count(0)

    dialog = ask_for(page, "unlock")
    finish(dialog, "Unlock", "Tenant unlocked")
    expect(notice(page, LOCKED)).to_have_count(0)
    wait_until(program.works, lambda: "the unlocked tenant is not served")

    dialog = ask_for(page, "suspend")
    finish(dialog, "Suspend", "Tenant suspended")
    # Exactly, because another notice explains rejections with "Tenant suspended or locked".
    expect(notice(page, SUSPENDED, exact=True)).to_be_visible()
    wait_until(lambda: works_by_request(program) == ONLY_DECRYPTION, lambda: f"{works_by_request(program)}")

    dialog = ask_for(page, "resume")
    finish(dialog, "Resume", "Tenant resumed")
    expect(notice(page, SUSPENDED, exact=True)).to_have_count(0)
    wait_until(program.works, lambda: "the resumed tenant does not encrypt")


def test_an_auditor_sees_the_root_key_but_no_actions(
    stack: Stack, tenant: str, holders: Holders, visitor: Callable[..., Visitor], tmp_path: Path
) -> None:
    holder = holders.hold("openbao")
    stack.command("root-key", "change", tenant, *holder.words(tmp_path))
    page = sign_in(visitor(), stack, tenant, UMA, "keys")
    expect(card(page).get_by_text(WORKS)).to_be_visible()
    with holder.taken_away():
        expect(notice(page, LOCKED)).to_be_visible(timeout=SOON_MS)
        for name in ("Change root key", "Suspend…", "Resume…", "Lock all keys…", "Unlock…"):
            expect(page.get_by_role("button", name=name)).to_have_count(0)
        expect(card(page).get_by_text("A key administrator of your organization can change")).to_be_visible()
    expect(notice(page, LOCKED)).to_have_count(0, timeout=SOON_MS)
