"""I see which of my data is encrypted: the sentence only while it is true, else what is missing and what to do."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from crypto.client import Client
from tests.stories.browser import Visitor
from tests.stories.connected import Service, connect
from tests.stories.dashboard_pages import BEA, go_to
from tests.stories.open_to_all import assert_open_to_all
from tests.stories.stack import Stack, wait_until

BETA, ORGANIZATION = "beta-corp-67890", "Beta Corp"
SENTENCE = "Encryption Status: All sensitive data protected"
PATIENTS = "public.patients"


@pytest.fixture(scope="module")
def beta(stack: Stack) -> str:
    """Beta Corp, of which other stories connect no service."""
    if stack.status(BETA).status_code == 404:
        stack.enable(BETA, ORGANIZATION)
    return BETA


def encrypts(service: Service, *names: str) -> None:
    """Have a program of the service say what it encrypted, as it does under `openkcm run`."""
    uses = [
        {
            "place": f"postgresql:{PATIENTS}.{name}",
            "operations": 1250,
            "bytes": 40_000,
            "microseconds": 3_100,
            "requests": 400,
            "request_microseconds": 100_000,
        }
        for name in names
    ]
    ends = (datetime.now(UTC) + timedelta(hours=48)).isoformat()
    with Client.from_folder(service.folder) as kcm:
        kcm.heartbeat({"instance": "program-1", "agent_version": "0.1.0", "not_after": ends, "uses": uses})


def codes(stack: Stack, tenant_id: str) -> list[tuple[str, str]]:
    return [(one["code"], one["place"]) for one in stack.command("coverage", tenant_id)["missing"]]


def wait_missing(stack: Stack, *expected: tuple[str, str]) -> None:
    """Wait until what services said has come through."""
    wait_until(lambda: codes(stack, BETA) == list(expected), lambda: f"missing: {codes(stack, BETA)}", 15)


def look_again(page: Page) -> None:
    go_to(page, "Keys")
    go_to(page, "Services")


def test_the_sentence_appears_with_the_last_field_and_goes_with_the_first_plain_value(
    stack: Stack, acme: str, beta: str, visitor: Callable[..., Visitor], tmp_path: Path
) -> None:
    shop = connect(stack, beta, "microservice", "shop", tmp_path / "shop")
    clinic = connect(stack, beta, "postgresql", "clinic-db", tmp_path / "clinic")
    with Client.from_folder(shop.folder) as kcm:
        kcm.encrypt(b"a record", "orders/1")
    for name in ("diagnosis", "insurance"):
        stack.command("protection", "protect", beta, clinic.name, PATIENTS, name)
    encrypts(clinic, "diagnosis")
    unseen = ("field_unseen", f"postgresql:{PATIENTS}.insurance")
    wait_missing(stack, unseen)
    page = visitor().sign_in(BEA, f"/tenant/{beta}/")
    go_to(page, "Services")
    expect(page.get_by_text("not all of your data is known to be protected")).to_be_visible()
    missing = page.get_by_text("is on the list, and no program encrypted or decrypted it in the last 30 days").first
    expect(missing).to_contain_text(f"clinic-db: {PATIENTS}.insurance")
    expect(missing).to_contain_text("Next: start every program that uses it with openkcm run")
    expect(page.get_by_text(SENTENCE)).to_have_count(0)
    assert_open_to_all(page)

    encrypts(clinic, "insurance")
    wait_missing(stack)
    look_again(page)
    expect(page.get_by_text(SENTENCE)).to_be_visible()
    expect(page.get_by_text("2 of 2", exact=True)).to_be_visible()
    expect(page.get_by_text("3.1%", exact=True)).to_be_visible()
    page.get_by_text("clinic-db: protected").click()
    expect(page.get_by_text("its programs encrypt fields themselves")).to_be_visible()
    assert_open_to_all(page)

    encrypts(clinic, "diagnosis#plain")
    wait_missing(stack, ("plain_read", f"postgresql:{PATIENTS}.diagnosis"))
    look_again(page)
    expect(page.get_by_text("held values that are not encrypted").first).to_be_visible()
    expect(page.get_by_text(SENTENCE)).to_have_count(0)

    others: dict[str, Any] = stack.command("coverage", acme)
    assert PATIENTS not in str(others)
