"""I rotate my keys in the browser and see how far it is, destroy an old one, leave, come back, and leave for good.

An installation of its own, because its tenant is gone at the end.
"""

import json
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from dashboard.pages.left import CERTIFICATE
from tenancy.audit import AuditName, StoredRecord
from tenancy.rotation import MEANING, Stage
from tenancy.shred import read_certificate
from tests.stories.browser import Visitor, drawn, title
from tests.stories.clients import OK, Program
from tests.stories.connected import connect
from tests.stories.dashboard_pages import ADA, UMA, go_to
from tests.stories.root_key_pages import SOON_MS, close, notice, press
from tests.stories.stack import ACME, Stack, wait_until

SERVICE = "ledger"
RESTORABLE = "Your tenant is leaving: restorable until"
WAITING_TO_RETIRE = MEANING[Stage.REWRAP][1:]
"""Ten seconds lie between the last new wrap and the end of the older versions, which is when somebody looks."""


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("rotating"))
    stack.command("up")
    stack.enable(ACME, "ACME Corporation")
    yield stack
    stack.command("down")
    stack.close()


@pytest.fixture(scope="module")
def program(installation: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A service of ACME, with data of before any rotation."""
    folder = tmp_path_factory.mktemp("ledger")
    program = Program(connect(installation, ACME, "microservice", SERVICE, folder / SERVICE))
    program.settle()
    yield program
    program.hang_up()


@pytest.fixture
def window(installation: Stack, chromium: Browser) -> Iterator[Visitor]:
    with closing(Visitor(chromium, installation.settings.dashboard_url)) as visitor:
        yield visitor


def button(page: Page, key: str) -> Locator:
    return page.locator(f".st-key-{key}").get_by_role("button")


def confirm(dialog: Locator) -> None:
    dialog.get_by_label(f"Type {ACME} to confirm").fill(ACME)


def states(installation: Stack) -> dict[int, str]:
    shown = installation.command("tenant", "show", ACME)
    return {key["version"]: key["state"] for key in shown["service_keys"]}


def state_of(installation: Stack) -> str:
    return str(installation.command("tenant", "show", ACME)["state"])


def on_record(installation: Stack) -> set[str]:
    """Return what has happened by the tenant's stream, of which the page shows the newest fifty."""
    found: list[StoredRecord] = []
    with installation.database().tenant_tx(ACME) as tx:
        while page := tx.audit.records(after=found[-1].seq if found else 0):
            found += page
    return {json.loads(stored.record)["name"] for stored in found}


def works(program: Program) -> bool:
    return set(program.probe().values()) == {OK}


def test_i_rotate_everything_and_see_how_far_it_is_also_after_a_reload(
    installation: Stack, program: Program, window: Visitor
) -> None:
    page = window.sign_in(ADA, f"/tenant/{ACME}/")
    go_to(page, "Keys")
    expect(page.get_by_text("It was never rotated.")).to_be_visible()
    button(page, "rotation-everything").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text(f"{SERVICE} version 1: decrypts only")).to_be_visible()
    dialog.get_by_role("button", name="Rotate", exact=True).click()
    expect(dialog.get_by_text(WAITING_TO_RETIRE)).to_be_visible()
    window.open(f"/tenant/{ACME}/keys")  # whoever reloads in the middle of it
    expect(page.get_by_text(WAITING_TO_RETIRE)).to_be_visible()
    expect(button(page, "rotation-everything")).to_be_disabled()
    assert works(program)
    expect(notice(page, "The last rotation is done")).to_be_visible()  # by itself
    assert states(installation) == {1: "deactivated", 2: "active"}
    assert works(program)
    go_to(page, "Audit")
    expect(page.get_by_text("Rotation of keys asked for").first).to_be_attached()


@pytest.mark.usefixtures("program")
def test_i_rotate_one_service_and_destroy_what_is_old(installation: Stack, window: Visitor) -> None:
    page = window.sign_in(ADA, f"/tenant/{ACME}/")
    go_to(page, "Keys")
    button(page, f"rotation-one-{SERVICE}").click()
    dialog = page.get_by_role("dialog")
    press(dialog, "Rotate", "The keys are rotated")
    close(dialog)
    assert states(installation) == {1: "deactivated", 2: "deactivated", 3: "active"}
    button(page, f"rotation-retire-{SERVICE}").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("can never be read again")).to_be_visible()
    confirm(dialog)
    press(dialog, "Destroy this version", "The version is destroyed")
    close(dialog)
    expect(page.get_by_text("1 older version destroyed")).to_be_visible()
    assert states(installation)[1] == "destroyed"


def test_i_replace_keys_that_may_be_compromised_after_reading_what_it_costs(
    installation: Stack, program: Program, window: Visitor
) -> None:
    program.settle()  # anew: what it has of before was destroyed above
    assert works(program)
    before = states(installation)
    page = window.sign_in(ADA, f"/tenant/{ACME}/")
    go_to(page, "Keys")
    button(page, "rotation-compromised").click()
    dialog = page.get_by_role("dialog")
    for said in (
        "Replace as compromised: the tenant key and every service key",
        "data that services encrypted under them and keep themselves cannot be read through us again",
        "KMIP objects are kept here; they are sealed anew and stay readable",
        "What was encrypted under those versions has to be stored anew from its source.",
        "deleted for good once nothing lies under it, also for backups of the database",
        f"{SERVICE} version 2: becomes compromised",
        f"{SERVICE} version 3: becomes compromised",
    ):
        expect(dialog.get_by_text(said)).to_be_visible()
    press(dialog, "Replace them", "Nothing was done.")
    assert states(installation) == before
    assert works(program)
    confirm(dialog)
    press(dialog, "Replace them", "The keys are rotated")
    close(dialog)
    done = notice(page, "The last rotation is done")
    expect(done.get_by_text("The versions before count as compromised.")).to_be_visible()
    expect(page.get_by_text("3 older versions destroyed")).to_be_visible()
    assert states(installation) == {1: "destroyed", 2: "destroyed", 3: "destroyed", 4: "active"}
    refused = {name: said for name, said in program.probe().items() if said != OK}
    assert refused == {"decrypt": "key_version_retired"}  # the text that the service keeps itself, and nothing else
    program.settle()
    assert works(program)
    assert AuditName.SERVICE_KEY_COMPROMISED in on_record(installation)


def test_i_leave_come_back_from_any_page_and_everything_works(
    installation: Stack, program: Program, window: Visitor
) -> None:
    page = window.sign_in(ADA, f"/tenant/{ACME}/")
    go_to(page, "Settings")
    button(page, "leaving-leave").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text(f"{SERVICE}, Microservice")).to_be_visible()
    confirm(dialog)
    press(dialog, "Leave", RESTORABLE)
    close(dialog)
    assert state_of(installation) == "leaving"
    for name in ("Keys", "Services", "Overview"):
        page.get_by_test_id("stSidebarNav").get_by_role("link", name=name).click()
        drawn(page)
        expect(notice(page, RESTORABLE)).to_be_visible(timeout=SOON_MS)
    dialog = page.get_by_role("dialog")
    with suppress(AssertionError):  # pressed while the page was drawn anew it can be lost, and is pressed once more
        button(page, "leaving-restore").click()
        expect(dialog).to_be_visible(timeout=SOON_MS / 2)
    if not dialog.is_visible():
        button(page, "leaving-restore").click()
    press(dialog, "Restore", "The tenant is restored")
    close(dialog)
    assert state_of(installation) == "active"
    wait_until(lambda: OK in program.probe("encrypt").values(), lambda: "the service does not work again")


def test_when_i_have_left_there_is_the_certificate_and_nothing_else(
    installation: Stack, program: Program, chromium: Browser, window: Visitor, tmp_path: Path
) -> None:
    program.hang_up()
    page = window.sign_in(ADA, f"/tenant/{ACME}/")
    installation.command("offboard", ACME, "--grace", "3s", "--confirm", ACME)
    wait_until(lambda: state_of(installation) == "offboarded", lambda: f"it is {state_of(installation)}")
    expect(title(page)).to_have_text("Your tenant has left")  # by itself: this sign-on is young enough to begin anew
    with closing(Visitor(chromium, installation.settings.dashboard_url)) as later:
        page = later.sign_in(UMA, f"/tenant/{ACME}/")
        expect(title(page)).to_have_text("Your tenant has left")
        links = page.get_by_test_id("stSidebarNav").get_by_role("link")
        expect(links).to_contain_text(["Farewell", "Audit"])  # the name of its icon comes before
        link = page.get_by_role("link", name="Download the certificate").get_attribute("href")
        assert link is not None
        answer = page.request.get(link)  # with this window's cookies; the link itself opens a window of its own
        assert answer.headers["content-disposition"] == f'attachment; filename="{ACME}-{CERTIFICATE}"'
        document = answer.body()
        assert read_certificate(document).statement.tenant_id == ACME
        file = tmp_path / "by-command.json"
        installation.command("audit", "certificate", ACME, "--out", str(file))
        assert document == file.read_bytes()
        page.get_by_role("link", name="Audit").click()
        expect(page.get_by_text("Offboarded").first).to_be_attached()
