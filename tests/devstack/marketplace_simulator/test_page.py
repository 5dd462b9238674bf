"""The development marketplace with the real endpoint and a real database: posted events are stored and shown."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from streamlit.testing.v1 import AppTest

from core.tenants.provisioning import Step
from devstack.marketplace_simulator.client import MarketplaceClient
from devstack.marketplace_simulator.page import Market
from tests.cli.background import MarketplaceServer
from tests.concurrency import wait_until
from tests.dashboard.scene import ACME, shown, text
from tests.database.fixtures import Field
from tests.marketplace.conftest import CURRENT, TOKEN

CONFIRMED = "OpenKCM is being provisioned for ACME Corporation"


class SimulatedMarketplace(MarketplaceServer):
    """The endpoint and the clients that use it."""

    def __init__(self, field: Field) -> None:
        super().__init__(field)
        self.senders: list[MarketplaceClient] = []

    def close(self) -> None:
        for sender in self.senders:
            sender.close()


@pytest.fixture
def stand(field: Field) -> Iterator[SimulatedMarketplace]:
    started = SimulatedMarketplace(field)
    try:
        yield started
    finally:
        started.close()
        started.stop()


def a_market(stand: SimulatedMarketplace, secret: str = CURRENT, regions: tuple[str, ...] = ("eu-west-1",)) -> Market:
    stand.senders.append(MarketplaceClient(stand.endpoint.url, secret, TOKEN))
    return Market(stand.senders[-1], regions, 180.0, lambda: datetime.now(UTC))


def draw(market: Market) -> AppTest:
    return shown("devstack.marketplace_simulator.page", market)


def click(at: AppTest, tenant_id: str = ACME) -> AppTest:
    at.button(key=f"marketplace-enable-{tenant_id}").click().run()
    assert not at.exception
    return at


def test_page_is_marked_as_development_and_shows_the_offer(stand: SimulatedMarketplace) -> None:
    shown_text = text(draw(a_market(stand)))
    assert "It is not part of the product" in shown_text
    assert "OpenKCM - Customer Managed Key Service" in shown_text
    assert "Compliance ready (SOC2, GDPR, PCI DSS)" in shown_text
    stand.endpoint.assert_nothing_stored()


def test_enable_button_stores_the_signed_event_and_confirms_it(stand: SimulatedMarketplace) -> None:
    at = click(draw(a_market(stand)))
    assert CONFIRMED in text(at)
    assert "6 · notify the customer" in text(at)
    wait_until(lambda: [one[:2] for one in stand.workflows.taken] == [(ACME, "eu-west-1")])
    assert not [button for button in at.button if button.key.startswith("marketplace-enable")]
    with stand.field.administrator() as administrator:
        (record,) = administrator.execute("select record from okcm.audit_event").fetchone()
    assert json.loads(record)["name"] == "marketplace.enable_accepted"


def test_progress_ends_with_the_ready_message_and_no_button(stand: SimulatedMarketplace) -> None:
    at = click(draw(a_market(stand)))
    with stand.field.open("worker").tenant_tx(ACME) as tx:
        tx.steps.plan("provision/1", [*Step])
        tx.steps.finish("provision/1", Step.OPEN_RECORDS, datetime.now(UTC))
    at.run()
    assert "1 · create the tenant's records and audit stream · 0.0 s" in text(at)
    stand.becomes("active")
    at.run()
    shown_text = text(at)
    assert CONFIRMED in shown_text
    assert "OpenKCM is ready for ACME Corporation!" in shown_text
    assert "✓ Encryption keys configured" in shown_text
    [link] = at.link_button
    assert link.url == f"https://cmk.openkcm.io/tenant/{ACME}"
    again = draw(a_market(stand))
    assert "no further action is required" in text(again)
    assert CONFIRMED not in text(again)
    assert not again.button


def test_failed_account_shows_its_notification_and_can_be_enabled_again(stand: SimulatedMarketplace) -> None:
    at = click(draw(a_market(stand)))
    stand.becomes("failed")
    at.run()
    assert "Our operators have been alerted" in text(at)
    click(at)
    assert stand.endpoint.count("marketplace_event") == 2


def test_typed_account_is_validated_before_the_event_is_sent(stand: SimulatedMarketplace) -> None:
    at = draw(a_market(stand))
    at.radio(key="marketplace-account").set_value("Another account").run()
    assert not at.button
    at.text_input(key="marketplace-id").set_value("Not An Id").run()
    assert "“Not An Id” is not a valid account id" in text(at)
    assert not at.button
    at.text_input(key="marketplace-id").set_value("gamma-corp-1").run()
    at.text_input(key="marketplace-organization").set_value("*Gamma*").run()
    click(at, "gamma-corp-1")
    assert "OpenKCM is being provisioned for *Gamma*" in [one.value for one in at.text]
    wait_until(lambda: [tenant_id for tenant_id, _, _ in stand.workflows.taken] == ["gamma-corp-1"])


def test_rejection_by_the_endpoint_is_shown(stand: SimulatedMarketplace) -> None:
    at = click(draw(a_market(stand, regions=("us-east-1",))))
    assert (
        "OpenKCM was not enabled: OpenKCM is not offered in this region. Choose one of: eu-west-1, eu-central-1."
        in text(at)
    )
    at = click(draw(a_market(stand, secret="whsec_" + "QW5vdGhlciBzZWNyZXQgb2YgdGhlIHRlc3Rz")))
    assert "OpenKCM was not enabled: The webhook signature does not match the body." in text(at)
    stand.endpoint.assert_nothing_stored()


def test_region_is_selected_if_there_are_several(stand: SimulatedMarketplace) -> None:
    at = draw(a_market(stand, regions=("eu-west-1", "eu-central-1")))
    at.selectbox(key="marketplace-region").select("eu-central-1").run()
    click(at)
    wait_until(lambda: [region for _, region, _ in stand.workflows.taken] == ["eu-central-1"])


def test_unreachable_endpoint_is_reported(field: Field) -> None:
    stand = SimulatedMarketplace(field)
    market = a_market(stand)
    stand.stop()
    shown_text = text(draw(market))
    stand.close()
    notice = "OpenKCM cannot be enabled now. The marketplace endpoint does not answer."
    assert f"{notice} Check whether it runs: make status." in shown_text
