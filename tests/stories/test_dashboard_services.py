"""My service is connected on the page Services, works with what I was handed there, and stops when I disconnect it."""

import json
import re
import uuid

import pytest
from playwright.sync_api import expect

from tests.stories.browser import Visitor, drawn, tab_to, title
from tests.stories.dashboard_pages import ADA, KAI, OLGA, UMA, connect, disconnect, go_to, make_token, unpack
from tests.stories.enrolling import Agent
from tests.stories.stack import SEED_EVENT


def test_a_service_is_connected_works_is_listed_and_is_disconnected(stack, acme, visitor, tmp_path):
    page = visitor().sign_in(ADA, f"/tenant/{acme}/")
    go_to(page, "Services")
    folder = unpack(connect(page, "till"), tmp_path, "till")
    expect(page.get_by_text("till:", exact=True)).to_be_visible()
    told = stack.command("service", "try", str(folder), "--record", "Jane Roe", "--resource", "tills/1")
    assert (told["decrypted"], told["opens_elsewhere"]) == ("Jane Roe", False)
    disconnect(page, "till")
    refused = stack.run("service", "try", str(folder), "--json")
    assert json.loads(refused.stdout)["error"]["code"] == "caller_refused"


def test_a_token_from_the_page_is_as_good_and_what_was_discovered_is_connected_with_one(stack, acme, visitor, tmp_path):
    event = SEED_EVENT | {"event": "service_discovered", "workload": "paged-db", "kind": "postgresql"}
    body = json.dumps(event).encode()
    assert stack.post(body, stack.sign(body, f"msg_{uuid.uuid4().hex}")).status_code == 202
    page = visitor().sign_in(ADA, f"/tenant/{acme}/")
    go_to(page, "Services")
    expect(page.get_by_role("button", name="Connect with an agent")).not_to_have_count(0)
    expect(page.get_by_text("paged-db", exact=True).last).to_be_visible()  # above it is told as missing
    token, command = make_token(page, "paged-db")
    assert command.startswith(
        f"openkcm agent --url {stack.settings.enrolment_url} --service paged-db --kind postgresql "
    )
    agent = Agent(stack.settings.marketplace_url, tmp_path / "agent")
    assert agent.enrol("paged-db", "postgresql", join_token=token)["state"] == "issued"
    sealed = agent.post("/v1/encrypt", {"resource": "orders/1", "plaintext": "YSByZWNvcmQ="})
    assert sealed.status_code == 200, sealed.text
    go_to(page, "Keys")
    go_to(page, "Services")
    expect(page.get_by_text("paged-db:", exact=True)).to_be_visible()


@pytest.mark.parametrize(("name", "connects", "audits"), [(ADA, True, True), (KAI, False, False), (UMA, False, True)])
def test_a_role_decides_what_is_offered(acme, visitor, name, connects, audits):
    page = visitor().sign_in(name, f"/tenant/{acme}/")
    go_to(page, "Services")
    expect(page.get_by_role("button", name="Connect a service")).to_have_count(int(connects))
    go_to(page, "Audit")
    expect(page.get_by_text("Your role does not show the audit stream")).to_have_count(int(not audits))
    expect(page.get_by_role("button", name="Verify the whole stream")).to_have_count(int(audits))


def test_an_operator_is_offered_the_desk_alone(visitor):
    page = visitor().sign_in(OLGA)
    links = page.get_by_test_id("stSidebarNav").get_by_role("link")
    assert set(links.all_inner_texts()) <= {"Operations"}
    expect(page.get_by_role("button", name="Connect a service")).to_have_count(0)


def test_the_keyboard_alone_signs_in_goes_to_services_and_opens_the_dialog(acme, visitor):
    window: Visitor = visitor()
    page = window.open(f"/tenant/{acme}/")
    for button in ("Sign in with your platform account", ADA):
        tab_to(page, page.get_by_role("button", name=button))
        page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/tenant/"))
    drawn(page)
    tab_to(page, page.get_by_test_id("stSidebarNav").get_by_role("link", name="Services"))
    page.keyboard.press("Enter")
    expect(title(page)).to_have_text("Services")
    tab_to(page, page.get_by_role("button", name="Connect a service"))
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    tab_to(page, dialog.get_by_label("Name", exact=True))
    page.keyboard.type("typed")
    tab_to(page, dialog.get_by_role("button", name="Cancel"))
    page.keyboard.press("Enter")
    expect(dialog).to_have_count(0)
