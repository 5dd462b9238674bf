"""Fifty services: the page Keys stays short, and each service can be selected and acted on."""

import pytest
from playwright.sync_api import Page, expect

from openkcm.contract.services import ServiceKind
from tests.database.builders import a_service_key
from tests.e2e.dashboard.harness.browser import drawn
from tests.e2e.dashboard.harness.dashboard_pages import go_to
from tests.e2e.dashboard.harness.root_key_pages import select_service
from tests.e2e.dashboard.harness.sign_ons import sign_in
from tests.e2e.stack import Stack

SERVICES = 50
SCREENS = [
    pytest.param(({"width": 1280, "height": 900}, 2), id="desktop"),
    pytest.param(({"width": 390, "height": 844}, 6), id="phone"),
]


@pytest.fixture(scope="module")
def crowded(stack: Stack, tenant: str) -> str:
    """A tenant with fifty connected services."""
    with stack.database().tenant_tx(tenant) as tx:
        for number in range(SERVICES):
            name = f"service-{number:02}"
            tx.services.connect(name, list(ServiceKind)[number % 3])
            tx.services.record_key(a_service_key(tenant, name))
            tx.services.connected(name)
    return tenant


def height(page: Page) -> int:
    pixels: int = page.evaluate("() => document.querySelector('[data-testid=stMainBlockContainer]').scrollHeight")
    return pixels


@pytest.mark.parametrize("screen", SCREENS)
def test_the_keys_of_fifty_services_fit_on_few_screens(
    stack: Stack, crowded: str, visitor, screen: tuple[dict[str, int], int], record_property
) -> None:
    viewport, screens = screen
    page = sign_in(visitor(viewport=viewport), stack, crowded, page="keys")
    expect(page.get_by_role("heading", name="Who can open what")).to_be_visible()
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0)
    record_property("height", height(page))
    assert height(page) <= screens * viewport["height"]
    select_service(page, "service-42")
    drawn(page)
    assert height(page) <= screens * viewport["height"]


def test_a_service_of_fifty_is_selected_by_keyboard_in_the_map_and_by_its_address(
    stack: Stack, crowded: str, visitor
) -> None:
    window = visitor(viewport={"width": 1280, "height": 900})
    page = sign_in(window, stack, crowded)
    go_to(page, "Keys")
    select_service(page, "service-42")
    window.open(f"/tenant/{crowded}/keys?service=service-07")
    expect(page.get_by_role("combobox", name="Selected service")).to_have_value("service-07")
    page.get_by_role("tab", name="Key map").click()
    page.locator(".st-key-keys-map").get_by_text("service-03", exact=True).click()
    expect(page.get_by_role("combobox", name="Selected service")).to_have_value("service-03")
    drawn(page)
    page.get_by_role("button", name="Versions and history").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("Versions and history: service-03")).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
