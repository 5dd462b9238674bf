"""The development marketplace against the real endpoint on a real database: what it posts is stored and shown."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.market import Market
from storefront.sender import Sender
from tenancy.provisioning import Step
from tests.cli.test_tenant import Stand
from tests.database.fixtures import Field
from tests.marketplace.conftest import CURRENT, TOKEN

ACME, BETA = "acme-corp-12345", "beta-corp-67890"
CONFIRMED = "OpenKCM is being provisioned for ACME Corporation"


class Fair(Stand):
    """The endpoint and those who were sent to it."""

    def __init__(self, field: Field) -> None:
        super().__init__(field)
        self.senders: list[Sender] = []

    def close(self) -> None:
        for sender in self.senders:
            sender.close()


@pytest.fixture
def stand(field: Field) -> Iterator[Fair]:
    started = Fair(field)
    try:
        yield started
    finally:
        started.close()
        started.stop()


def a_market(stand: Fair, secret: str = CURRENT, regions: tuple[str, ...] = ("eu-west-1",)) -> Market:
    assert stand.endpoint is not None
    stand.senders.append(Sender(stand.endpoint.url, secret, TOKEN))
    return Market(stand.senders[-1], regions, 180.0, lambda: datetime.now(UTC))


def page(market) -> None:
    from dashboard.pages import marketplace  # noqa: PLC0415 - this function becomes a script

    marketplace.draw(market)


def opened(market: Market) -> AppTest:
    shown = AppTest.from_function(page, args=(market,), default_timeout=30).run()
    assert not shown.exception
    return shown


def text_of(shown: AppTest) -> str:
    kinds = ("title", "header", "subheader", "markdown", "caption", "text", "success", "error", "warning", "info")
    return "\n".join(str(element.value) for kind in kinds for element in getattr(shown, kind))


def click(shown: AppTest, tenant_id: str = ACME) -> AppTest:
    shown.button(key=f"marketplace-enable-{tenant_id}").click().run()
    assert not shown.exception
    return shown


def test_it_says_that_it_is_for_development_and_offers_what_the_story_offers(stand: Fair) -> None:
    said = text_of(opened(a_market(stand)))
    assert "It is not part of the product" in said
    assert "OpenKCM - Customer Managed Key Service" in said
    assert "Compliance ready (SOC2, GDPR, PCI DSS)" in said
    stand.endpoint.assert_nothing_stored()


def test_one_click_stores_the_signed_event_and_is_confirmed(stand: Fair) -> None:
    shown = click(opened(a_market(stand)))
    assert CONFIRMED in text_of(shown)
    assert "6 · announce" in text_of(shown)
    assert [(tenant_id, region) for tenant_id, region, _ in stand.door.taken] == [(ACME, "eu-west-1")]
    assert not [button for button in shown.button if button.key.startswith("marketplace-enable")]
    with stand.field.administrator() as administrator:
        (record,) = administrator.execute("select record from okcm.audit_event").fetchone()
    assert json.loads(record)["name"] == "marketplace.enable_accepted"


def test_progress_becomes_the_ready_message_and_a_second_click_is_not_offered(stand: Fair) -> None:
    shown = click(opened(a_market(stand)))
    with stand.field.open("worker").tenant_tx(ACME) as tx:
        tx.steps.plan("provision/1", [*Step])
        tx.steps.finish("provision/1", Step.OPEN_RECORDS, datetime.now(UTC))
    shown.run()
    assert "1 · open the tenant's records and audit stream · 0.0 s" in text_of(shown)
    stand.becomes("active")
    shown.run()
    said = text_of(shown)
    assert CONFIRMED in said
    assert "OpenKCM is ready for ACME Corporation!" in said
    assert "✓ Encryption keys configured" in said
    [link] = shown.link_button
    assert link.url == f"https://cmk.openkcm.io/tenant/{ACME}"
    again = opened(a_market(stand))
    assert "there is nothing more to click" in text_of(again)
    assert CONFIRMED not in text_of(again)
    assert not again.button


def test_a_failed_account_says_what_happens_now_and_may_ask_again(stand: Fair) -> None:
    shown = click(opened(a_market(stand)))
    stand.becomes("failed")
    shown.run()
    assert "Our operators have been alerted" in text_of(shown)
    click(shown)
    assert stand.endpoint.count("marketplace_event") == 2


def test_another_account_is_checked_before_anything_is_sent(stand: Fair) -> None:
    shown = opened(a_market(stand))
    shown.radio(key="marketplace-account").set_value("Another account").run()
    assert not shown.button
    shown.text_input(key="marketplace-id").set_value("Not An Id").run()
    assert "“Not An Id” cannot be an account id" in text_of(shown)
    assert not shown.button
    shown.text_input(key="marketplace-id").set_value("gamma-corp-1").run()
    shown.text_input(key="marketplace-organization").set_value("*Gamma*").run()
    click(shown, "gamma-corp-1")
    assert "OpenKCM is being provisioned for *Gamma*" in [text.value for text in shown.text]
    assert [tenant_id for tenant_id, _, _ in stand.door.taken] == ["gamma-corp-1"]


def test_the_endpoints_refusal_is_shown_in_its_own_words(stand: Fair) -> None:
    shown = click(opened(a_market(stand, regions=("us-east-1",))))
    assert (
        "OpenKCM was not enabled: OpenKCM is not offered in this region. Choose one of: eu-west-1, eu-central-1."
        in text_of(shown)
    )
    shown = click(opened(a_market(stand, secret="whsec_" + "QW5vdGhlciBzZWNyZXQgb2YgdGhlIHRlc3Rz")))
    assert "OpenKCM was not enabled: The webhook signature does not fit the body." in text_of(shown)
    stand.endpoint.assert_nothing_stored()


def test_the_region_is_chosen_where_there_are_several(stand: Fair) -> None:
    shown = opened(a_market(stand, regions=("eu-west-1", "eu-central-1")))
    shown.selectbox(key="marketplace-region").select("eu-central-1").run()
    click(shown)
    assert [region for _, region, _ in stand.door.taken] == ["eu-central-1"]


def test_an_endpoint_that_is_down_is_said(field: Field) -> None:
    stand = Fair(field)
    market = a_market(stand)
    stand.stop()
    said = text_of(opened(market))
    stand.close()
    assert (
        "Nothing can be enabled now: The marketplace endpoint does not answer. See whether it runs: openkcm status."
        in said
    )
