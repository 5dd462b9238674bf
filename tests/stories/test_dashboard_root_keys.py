"""I hold my own root key and have a kill switch, on the page Keys alone: it says what is missing, what is and why."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from psycopg import sql

from dashboard.views.root_key import NO_FALLBACK
from dashboard.views.root_key_guides import NAMES
from tenancy.lifecycle import State
from tenancy.root_keys import RootKeyMode
from tests.stories.browser import Visitor, tab_to
from tests.stories.clients import OK, Program
from tests.stories.connected import connect
from tests.stories.dashboard_pages import ADA, UMA, go_to
from tests.stories.holders import Holder, Holders
from tests.stories.root_key_pages import (
    LOCKED,
    SOON_MS,
    SUSPENDED,
    ask_for,
    card,
    change,
    close,
    fill_in,
    kept_by,
    labelled,
    notice,
    open_change,
    press,
)
from tests.stories.stack import Stack, wait_until
from tests.stories.test_traces import found_in, payloads_of
from worker import wiring

SERVICE = "vouchers"
OPENBAO, AWS_KMS, PLATFORM = RootKeyMode.OPENBAO, RootKeyMode.AWS_KMS, RootKeyMode.PLATFORM
NOTHING_BUT_READS = {"encrypt": False, "decrypt": True, "data key": False}


@pytest.fixture(scope="module")
def program(stack: Stack, acme: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A service of ACME, with data of before all of this; at the end everything is as it was."""
    folder = tmp_path_factory.mktemp("vouchers")
    program = Program(connect(stack, acme, "microservice", SERVICE, folder / SERVICE))
    program.settle()
    yield program
    program.hang_up()
    program.service.disconnect()


@pytest.fixture(scope="module")
def typed() -> list[str]:
    """Every secret that was typed into a field so far."""
    return []


@pytest.fixture(autouse=True)
def as_before(stack: Stack, holders: Holders, acme: str) -> Iterator[None]:
    """Leave ACME with the platform's key and open, whatever a story ended with."""
    yield
    holders.bao.allow()
    if stack.command("tenant", "show", acme)["state"] == State.SUSPENDED:
        stack.command("tenant", "resume", acme)
    if "switch" in stack.command("tenant", "show", acme)["locks"]:
        stack.command("tenant", "unlock", acme)
    if stack.command("root-key", "show", acme)["root_key_mode"] != PLATFORM:
        stack.command("root-key", "change", acme, "--provider", "platform")


@pytest.fixture
def page(visitor: Any, acme: str) -> Page:
    """ACME's administrator on the page Keys."""
    window: Visitor = visitor()
    page = window.sign_in(ADA, f"/tenant/{acme}/")
    go_to(page, "Keys")
    page.evaluate("window.neverReloaded = true")
    return page


def answers(program: Program) -> dict[str, bool]:
    asked = program.probe("encrypt", "decrypt", "data key")
    return {name: answer == OK for name, answer in asked.items()}


def works(program: Program) -> bool:
    return all(answers(program).values())


def refuses_all(program: Program) -> bool:
    try:
        return not any(answers(program).values())
    except (ConnectionError, EOFError, OSError):
        return False


def test_what_is_missing_is_said_and_mended_and_then_the_key_is_changed_to(
    holders: Holders, program: Program, page: Page, typed: list[str]
) -> None:
    holder = holders.hold("openbao")
    holders.bao.allow(("decrypt", "keys"))
    dialog = open_change(page, OPENBAO)
    dialog.get_by_text("What to do first, where the key is held").click()
    guide = dialog.locator(".st-key-root-key-guide")
    expect(guide.get_by_text("Make a key in Transit that cannot be exported.")).to_be_visible()
    expect(guide.get_by_text('path "transit/encrypt/KEY" { capabilities = ["update"] }')).to_be_visible()

    typed += fill_in(dialog, holder)
    name = holder.place.model_dump()["key"]
    labelled(dialog, "Address").fill("bao.acme.example")
    expect(guide.get_by_text(f'path "transit/encrypt/{name}"')).to_be_visible()
    press(dialog, "Check", "Address: an address such as https://vault.example.com:8200")
    expect(dialog.get_by_text("Nothing was stored.")).to_be_visible()

    labelled(dialog, "Address").fill(holders.bao_proxy.url)
    press(dialog, "Check", "This root key would not do")
    # What was refused, and the very line that the policy lacks, which can be copied from there.
    expect(dialog.get_by_text(f"The policy does not allow transit/encrypt/{name}.")).to_be_visible()
    missing = dialog.locator("code").get_by_text(f'path "transit/encrypt/{name}" {{ capabilities = ["update"] }}')
    expect(missing.last).to_be_visible()
    expect(labelled(dialog, "Token (only without an AppRole)")).to_have_value("")
    assert [secret for secret in typed if secret in kept_by(page)] == []

    holders.bao.allow()
    press(dialog, "Check", "This root key does what is needed")
    press(dialog, "Change", "The root key is changed")
    expect(dialog.get_by_text(NO_FALLBACK)).to_be_visible()
    close(dialog)
    expect(card(page).get_by_text("Your own key in your key server (HYOK)", exact=True)).to_be_visible()
    expect(card(page).get_by_text("It answers and opens what it wrapped.")).to_be_visible()
    expect(card(page).get_by_text("wrapped anew")).to_be_visible()
    assert works(program)
    assert [secret for secret in typed if secret in kept_by(page)] == []


def test_what_i_take_away_locks_and_what_i_give_back_opens_and_the_page_says_so_by_itself(
    holders: Holders, program: Program, page: Page, typed: list[str]
) -> None:
    holder = holders.hold("openbao")
    typed += change(page, OPENBAO, holder)

    with holder.taken_away():
        expect(notice(page, LOCKED)).to_be_visible(timeout=SOON_MS)
        expect(notice(page, "the root key does not do its part where you hold it")).to_be_visible()
        expect(
            notice(page, "Your tenant opens by itself, within seconds, when the root key works again")
        ).to_be_visible()
        expect(card(page).get_by_text("The tenant is locked until it works again.")).to_be_visible()
        expect(page.locator(".st-key-standing-unlock")).to_have_count(0)  # nobody here can
        wait_until(lambda: refuses_all(program), lambda: "what was open stays open", SOON_MS / 1000)

    expect(notice(page, LOCKED)).to_have_count(0, timeout=SOON_MS)
    expect(card(page).get_by_text("It answers and opens what it wrapped.")).to_be_visible()
    wait_until(lambda: works(program), lambda: "what was encrypted before does not open")

    typed += change(page, AWS_KMS, holders.hold("aws-kms"))
    expect(card(page).get_by_text("BYOK").first).to_be_visible()
    holder.take_away()  # the former key decides nothing any more
    assert works(program)
    change(page, PLATFORM)
    expect(card(page).get_by_text("Platform-managed").first).to_be_visible()
    assert works(program)
    assert page.evaluate("window.neverReloaded")
    assert [secret for secret in typed if secret in kept_by(page)] == []


def test_the_kill_switch_says_what_stops_wants_the_tenants_name_and_is_undone_here(
    acme: str, program: Program, page: Page
) -> None:
    dialog = ask_for(page, "lock")
    expect(dialog.get_by_text(f"{SERVICE}, microservice: last used")).to_be_visible()
    dialog.get_by_role("button", name="Lock (kill switch)").click()
    expect(dialog.get_by_text("Nothing was done.")).to_be_visible()
    assert works(program)
    dialog.get_by_label(f"Type {acme} to confirm").fill(acme)
    press(dialog, "Lock (kill switch)", "The tenant is locked")
    wait_until(lambda: refuses_all(program), lambda: "what was open stays open", SOON_MS / 1000)
    close(dialog)
    expect(notice(page, LOCKED)).to_be_visible()
    expect(notice(page, "somebody pulled the kill switch here")).to_be_visible()
    expect(notice(page, "Your tenant opens when a key administrator unlocks it on the page Keys")).to_be_visible()
    expect(card(page).get_by_role("button", name="Change the root key")).to_have_count(0)

    dialog = ask_for(page, "unlock")
    press(dialog, "Unlock", "The tenant is unlocked")
    close(dialog)
    expect(notice(page, LOCKED)).to_have_count(0)
    wait_until(lambda: works(program), lambda: "it does not open again")

    dialog = ask_for(page, "suspend")
    press(dialog, "Suspend", "The tenant is suspended")
    close(dialog)
    expect(notice(page, SUSPENDED)).to_be_visible()
    wait_until(lambda: answers(program) == NOTHING_BUT_READS, lambda: f"{answers(program)}")

    dialog = ask_for(page, "resume")
    press(dialog, "Resume", "The tenant is resumed")
    close(dialog)
    expect(notice(page, SUSPENDED)).to_have_count(0)
    wait_until(lambda: works(program), lambda: "it does not encrypt again")


def test_the_keyboard_alone_tries_a_root_key_and_locks_and_unlocks(acme: str, program: Program, page: Page) -> None:
    tab_to(page, page.get_by_role("button", name="Change the root key"))
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    tab_to(page, dialog.get_by_role("radio", name=NAMES[AWS_KMS]))
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    expect(dialog.get_by_role("radio", name=NAMES[OPENBAO])).to_be_checked()
    tab_to(page, dialog.locator(".st-key-root-key-guide summary"))
    page.keyboard.press("Enter")
    expect(dialog.get_by_text("Make a key in Transit that cannot be exported.")).to_be_visible()
    tab_to(page, labelled(dialog, "Address"))
    page.keyboard.type("nowhere")
    tab_to(page, dialog.get_by_role("button", name="Check"))
    page.keyboard.press("Enter")
    expect(dialog.get_by_text("This cannot be a root key")).to_be_visible()
    tab_to(page, dialog.get_by_role("button", name="Cancel"))
    page.keyboard.press("Enter")
    expect(dialog).to_have_count(0)

    for move, button in (("lock", "Lock (kill switch)"), ("unlock", "Unlock")):
        tab_to(page, page.locator(f".st-key-standing-{move}").get_by_role("button"))
        page.keyboard.press("Enter")
        if move == "lock":
            tab_to(page, dialog.get_by_label(f"Type {acme} to confirm"))
            page.keyboard.type(acme)
        tab_to(page, dialog.get_by_role("button", name=button))
        page.keyboard.press("Enter")
        tab_to(page, dialog.locator(".st-key-standing-close").get_by_role("button"))
        page.keyboard.press("Enter")
        expect(dialog).to_have_count(0)
    wait_until(lambda: works(program), lambda: "it does not open again")


def test_an_auditor_sees_all_of_it_and_is_offered_none(
    stack: Stack, acme: str, holders: Holders, visitor: Any, tmp_path: Path
) -> None:
    holder: Holder = holders.hold("openbao")
    stack.command("root-key", "change", acme, *holder.words(tmp_path))
    window: Visitor = visitor()
    page = window.sign_in(UMA, f"/tenant/{acme}/keys")
    go_to(page, "Keys")
    expect(card(page).get_by_text("It answers and opens what it wrapped.")).to_be_visible()
    expect(page.get_by_role("heading", name="Stop and start")).to_be_visible()
    with holder.taken_away():
        expect(notice(page, LOCKED)).to_be_visible(timeout=SOON_MS)
        for name in ("Change the root key", "Suspend", "Resume", "Lock (kill switch)", "Unlock"):
            expect(page.get_by_role("button", name=name)).to_have_count(0)
        expect(card(page).get_by_text("A key administrator of your organization changes the root key.")).to_be_visible()
    expect(notice(page, LOCKED)).to_have_count(0, timeout=SOON_MS)


async def opened_payloads(stack: Stack) -> tuple[list[bytes], list[bytes]]:
    """Return every history of Temporal as it is stored, and what its payloads say to whoever holds the keys."""
    client = await stack.temporal()
    histories = [(one.workflow_id, one) async for one in client.list_workflows().map_histories()]
    assert any("root-key" in workflow_id for workflow_id, _ in histories)
    parts = wiring.build(stack.settings)
    parts.keyring.open_platform_key()
    assert parts.converter.payload_codec is not None
    decoded = await parts.converter.payload_codec.decode(payloads_of(histories))
    parts.database.close()
    return [history.to_json().encode() for _, history in histories], [payload.data for payload in decoded]


def test_what_was_typed_is_in_no_row_log_history_or_file(stack: Stack, holders: Holders, typed: list[str]) -> None:
    assert len(typed) >= 4, "the stories before this one type what is looked for here"
    hidden = [secret.encode() for secret in typed]
    with stack.owner() as owner:
        owner.execute("set row_security = off")
        tables = owner.execute("select tablename from pg_tables where schemaname = 'okcm'").fetchall()
        assert {"audit_event", "root_key", "root_key_request"} <= {name for (name,) in tables}
        texts = {
            name: "\n".join(
                row for (row,) in owner.execute(sql.SQL("select t::text from okcm.{} t").format(sql.Identifier(name)))
            )
            for (name,) in tables
        }
    where = holders.bao_proxy.url
    assert where in texts["root_key_request"]
    for name, text in texts.items():
        assert found_in(text.encode(), hidden) == [], name

    with ThreadPoolExecutor(1) as elsewhere:  # the browser's driver has this thread's event loop
        stored, opened = elsewhere.submit(lambda: asyncio.run(opened_payloads(stack))).result()
    for told in (*stored, b"\n".join(opened)):
        assert found_in(told, hidden) == []

    seen = set()
    for file in stack.settings.state_dir.rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError):  # servers throw some away while we look
            raw = file.read_bytes()
            # A file of a database is no text: what it holds decoded was looked at above, by its rows.
            found = found_in(raw, hidden) if file.suffix == ".log" else [one for one in hidden if one in raw]
            assert found == [], file
            seen |= {file.name} | ({"a row's own file"} if where.encode() in raw else set())
    assert {"worker.log", "dashboard.log", "crypto.log", "a row's own file"} <= seen
