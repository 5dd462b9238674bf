"""A key administrator rotates keys, destroys an old version, and offboards, restores and offboards the tenant."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from core.keys.rotation import MEANING, RotationPhase
from dashboard.offboarding.section import CERTIFICATE
from openkcm.contract.audit_events import AuditName
from openkcm.verification.erasure_certificate import read_certificate
from tests.concurrency import wait_until
from tests.e2e.clients import OK, SERVICE, Program
from tests.e2e.dashboard.harness.browser import Visitor, title
from tests.e2e.dashboard.harness.dashboard_pages import UMA, go_to
from tests.e2e.dashboard.harness.root_key_pages import (
    SOON_MS,
    button,
    confirm,
    finish,
    notice,
    open_dialog,
    press,
    select_service,
)
from tests.e2e.dashboard.harness.sign_ons import sign_in
from tests.e2e.outages import hanging
from tests.e2e.stack import Stack
from tests.e2e.tenants import ORGANIZATION

OVERVIEW = f"{ORGANIZATION} - Encryption Dashboard"
RESTORABLE = "Offboarding: restorable until"
WAITING_TO_RETIRE = MEANING[RotationPhase.REWRAP][1:]
"""Shown for the ten seconds between the last new wrap and the retirement of the older versions."""


@pytest.fixture
def window(visitor: Callable[..., Visitor]) -> Visitor:
    return visitor()


def test_keys_are_rotated_an_old_version_destroyed_and_compromised_keys_replaced(
    stack: Stack, program: Program, window: Visitor
) -> None:
    tenant = program.service.tenant_id

    def states() -> dict[int, str]:
        return {key["version"]: key["state"] for key in stack.command("tenant", "show", tenant)["service_keys"]}

    # All keys are rotated; the page shows the progress, also after a reload.
    page = sign_in(window, stack, tenant)
    go_to(page, "Keys")
    expect(page.get_by_text("Never rotated.")).to_be_visible()
    dialog = open_dialog(page, "rotation-everything")
    expect(dialog.get_by_text(f"{SERVICE} version 1: decrypts only")).to_be_visible()
    dialog.get_by_role("button", name="Rotate", exact=True).click()
    expect(dialog.get_by_text(WAITING_TO_RETIRE)).to_be_visible()
    with hanging(stack, "worker"):
        window.open(f"/tenant/{tenant}/keys")
        expect(page.get_by_text(WAITING_TO_RETIRE)).to_be_visible()
        expect(button(page, "rotation-everything")).to_be_disabled()
        assert program.works()
    expect(page.get_by_text("Last rotation completed")).to_be_visible()  # without a reload
    assert states() == {1: "deactivated", 2: "active"}
    assert program.works()
    go_to(page, "Audit")
    expect(page.get_by_text("Key rotation requested").first).to_be_attached()

    # The key of one service is rotated, and its oldest version is destroyed.
    go_to(page, "Keys")
    select_service(page, SERVICE)
    dialog = open_dialog(page, "rotation-one")
    finish(dialog, "Rotate", "Rotation completed")
    assert states() == {1: "deactivated", 2: "deactivated", 3: "active"}
    dialog = open_dialog(page, "rotation-retire")
    expect(dialog.get_by_text("can never be decrypted again")).to_be_visible()
    confirm(dialog, tenant)
    finish(dialog, "Destroy version", "Version destroyed")
    expect(page.get_by_role("button", name="Retire version 2…")).to_be_visible()
    assert states()[1] == "destroyed"

    # The replacement of compromised keys requires the tenant's id; the dialog lists the consequences.
    program.prepare()  # the earlier ciphertext used the destroyed version
    assert program.works()
    before = states()
    dialog = open_dialog(page, "rotation-compromised")
    for line in (
        "data that services encrypted under them and store themselves can no longer be decrypted through OpenKCM",
        "KMIP objects are stored here; they are re-encrypted and stay readable",
        f"{SERVICE} version 2: becomes compromised",
        f"{SERVICE} version 3: becomes compromised",
    ):
        expect(dialog.get_by_text(line)).to_be_visible()
    press(dialog, "Replace keys", "Nothing was done.")
    assert states() == before
    assert program.works()
    confirm(dialog, tenant)
    finish(dialog, "Replace keys", "Rotation completed")
    expect(page.get_by_text("The former versions are compromised.")).to_be_visible()
    expect(button(page, "rotation-retire")).to_have_count(0)
    assert states() == {1: "destroyed", 2: "destroyed", 3: "destroyed", 4: "active"}
    refused = {name: answer for name, answer in program.probe().items() if answer != OK}
    assert refused == {"decrypt": "key_version_retired"}  # only the ciphertext that the service stores itself
    program.prepare()
    assert program.works()
    assert AuditName.SERVICE_KEY_COMPROMISED in {one["name"] for one in stack.events(tenant)}


def test_a_tenant_is_offboarded_restored_and_after_the_final_offboarding_sees_only_its_certificate(
    stack: Stack, program: Program, window: Visitor, visitor: Callable[..., Visitor], tmp_path: Path
) -> None:
    tenant = program.service.tenant_id

    # The tenant is offboarded on the page Settings; every page has a button that restores it.
    page = sign_in(window, stack, tenant)
    go_to(page, "Settings")
    dialog = open_dialog(page, "leaving-leave")
    expect(dialog.get_by_text(f"{SERVICE}, Microservice")).to_be_visible()
    confirm(dialog, tenant)
    finish(dialog, "Offboard", RESTORABLE)
    assert stack.state(tenant) == "offboarding"
    for name, heading in (("Keys", "Keys"), ("Services", "Services"), ("Overview", OVERVIEW)):
        go_to(page, name, heading)
        expect(notice(page, RESTORABLE)).to_be_visible(timeout=SOON_MS)
    dialog = open_dialog(page, "leaving-restore")
    finish(dialog, "Restore", "Tenant restored")
    assert stack.state(tenant) == "active"
    wait_until(lambda: OK in program.probe("encrypt").values(), lambda: "the service does not work again")
    program.hang_up()

    # After the offboarding the open page shows it, and a later sign-on sees only the erasure certificate.
    stack.command("tenant", "offboard", tenant, "--grace", "3s", "--confirm", tenant)
    stack.wait_for(tenant, "offboarded")
    expect(title(page)).to_have_text("Tenant closed")
    page = sign_in(visitor(), stack, tenant, UMA)
    expect(title(page)).to_have_text("Tenant closed")
    links = page.get_by_test_id("stSidebarNav").get_by_role("link")
    expect(links).to_contain_text(["Tenant closed", "Audit"])  # the name of its icon comes before
    link = page.get_by_role("link", name="Download certificate").get_attribute("href")
    assert link is not None
    answer = page.request.get(link)  # with this window's cookies; the link itself opens another window
    assert answer.headers["content-disposition"] == f'attachment; filename="{tenant}-{CERTIFICATE}"'
    document = answer.body()
    assert read_certificate(document).statement.tenant_id == tenant
    file = tmp_path / "by-command.json"
    stack.command("audit", "erasure-certificate", tenant, "--out", str(file))
    assert document == file.read_bytes()
    page.get_by_role("link", name="Audit").click()
    expect(page.get_by_text("Offboarded").first).to_be_attached()
