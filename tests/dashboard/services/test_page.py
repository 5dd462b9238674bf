"""The page Services and its dialogs on a real database, with a gateway that rejects as the real one does."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from core.errors.platform import TemporalUnavailable
from core.services import CryptoOperation, ServiceState
from core.tenants.lifecycle import State
from core.tenants.locks import LockReason
from core.tenants.roles import PersonRole
from database.services.agents import HeartbeatRow
from database.usage import UsesRow
from openkcm.contract.enrolment import parse_join_token
from openkcm.contract.services import ServiceKind
from tests.dashboard.scene import ACME, Scene, a_request_pem, press, shown, text
from workflows.client.updates import OperationQueued, OperationTimeout

OWN_MACHINE = "Generate on the service's machine"
_BUTTONS = ("services.renew", "services.disconnect", "services.fields", "services.guide", "services.join.selected")


def state_of(scene: Scene, service: str) -> ServiceState | None:
    with scene.worker.tenant_tx(ACME) as tx:
        row = tx.services.get(service)
    return None if row is None else row.state


def fill(at, name: str, csr_pem: str | None = None) -> None:
    at.button(key="services.connect").click().run()
    at.text_input(key="services.name").set_value(name).run()
    if csr_pem is not None:
        at.radio(key="services.way").set_value(OWN_MACHINE).run()
        at.text_area(key="services.csr").set_value(csr_pem).run()


def test_a_join_token_is_shown_once_with_the_command_to_run(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = shown("services", scene.page_context())
    at.button(key="services.join").click().run()
    at.text_input(key="join.name").set_value("orders-db").run()
    press(at, "join.do")
    token, command = (one.value for one in at.code[-2:])
    parsed = parse_join_token(token)
    assert parsed.tenant_id == ACME
    assert parsed.names(scene.authority.root.public_bytes(Encoding.DER))
    assert command == (
        "openkcm agent --url https://enrol.example --service orders-db --kind postgresql"
        " --out '/etc/openkcm/orders-db' --join-token-file -"
    )
    with scene.field.administrator() as administrator:
        rows = administrator.execute("select token_hash, service, made_by from okcm.join_token").fetchall()
    assert rows == [(parsed.hash, "orders-db", "ada@acme.example")]
    with scene.worker.tenant_tx(ACME) as tx:
        stream = "".join(record.record for record in tx.audit.records())
    assert "enrolment.join_token_made" in stream
    assert parsed.secret not in stream
    assert parsed.secret not in press(at, "join.close")


def test_a_rejected_token_request_shows_the_reason_and_keeps_the_input(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("orders-db", ServiceKind.MONGODB)
    at = shown("services", scene.page_context())
    at.button(key="services.join").click().run()
    for name, why in (("../orders", "nvalid service name"), ("orders-db", "exists with another kind")):
        at.text_input(key="join.name").set_value(name).run()
        at.button(key="join.do").click().run()
        assert why in text(at).lower()
    press(at, "join.cancel")


def test_a_discovered_service_is_a_row_with_a_button_to_connect_it(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    with scene.field.open("marketplace", max_size=1).tenant_tx(ACME) as tx:
        tx.enrolments.discover("orders-db", ServiceKind.MICROSERVICE)
        tx.enrolments.discover("carts", ServiceKind.MONGODB)
    scene.service("carts", ServiceKind.MONGODB)
    at = shown("services", scene.page_context(), service="orders-db")
    assert at.dataframe[0].value["status"].tolist()[1] == "Discovered: not connected"
    for role in (PersonRole.AUDITOR, PersonRole.KEY_ADMINISTRATOR):
        other = shown("services", scene.page_context(ACME, role), service="orders-db")
        assert other.dataframe[0].value["service"].tolist() == ["carts", "orders-db"]
        assert actions(other) == ["services.guide"]
    assert actions(at) == ["services.guide", "services.join.selected"]
    at.button(key="services.join.selected").click().run()
    assert at.text_input(key="join.name").value == "orders-db"
    assert "--service orders-db --kind microservice" in press(at, "join.do")


def actions(at) -> list[str]:
    return [key for key in sorted(_BUTTONS) if key in {button.key for button in at.button}]


def test_one_table_lists_all_services_with_requests_and_agents(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = shown("services", scene.page_context())
    assert "No service is connected." in text(at)
    assert not at.dataframe
    scene.service("customer-db", ServiceKind.MONGODB, uses=1253)
    scene.service("analytics-db", ServiceKind.MONGODB, uses=893)
    now = datetime.now(UTC)
    contact = HeartbeatRow("customer-db", "db-1", "0.1.0", now + timedelta(hours=48), "reload_failed", now)
    with scene.crypto.tenant_tx(ACME) as tx:
        tx.agents.note([contact], [])
    at = shown("services", scene.page_context(), service="customer-db")
    table = at.dataframe[0].value
    assert table["service"].tolist() == ["analytics-db", "customer-db"]
    assert table["requests"].tolist() == [893, 1253]
    assert table["refused"].tolist() == [3, 3]
    assert table["agent"].tolist() == ["None", "Connected"]
    assert [words.split(" 2026")[0].split(":")[0] for words in table["status"]] == ["No agent", "Connected"]
    said = text(at)
    assert "Agent connected (version `0.1.0`)" in said
    assert "Problem: service not reloaded after renewal" in said
    assert "[Audit records](audit?service=customer-db)" in said
    assert actions(at) == ["services.disconnect", "services.fields", "services.guide", "services.renew"]


def test_the_table_is_filtered_by_the_values_in_the_address(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    for name, kind in (("orders-db", ServiceKind.MONGODB), ("ledger", ServiceKind.POSTGRESQL)):
        scene.service(name, kind)
    scene.service("shop", ServiceKind.MICROSERVICE)

    def names(**query: str) -> list[str]:
        return shown("services", scene.page_context(), **query).dataframe[0].value["service"].tolist()

    assert names(find="led") == ["ledger"]
    assert names(kind="MongoDB cluster") == ["orders-db"]
    assert names(status="Connected") == ["shop"]
    assert "None of 3 services matches the filter." in text(shown("services", scene.page_context(), find="nothing"))
    forged = "[Sign in again](https://evil.example)"
    assert f"There is no service named `{forged}`." in text(shown("services", scene.page_context(), service=forged))


def test_a_locked_tenants_services_are_blocked_and_not_encrypting(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("shop", ServiceKind.MICROSERVICE, uses=50)
    with scene.worker.tenant_tx(ACME) as tx:
        tx.tenants.hold(LockReason.MANUAL)
    at = shown("services", scene.page_context())
    assert ":red-badge[:material/error: Stopped] :red-badge[:material/error: Tenant: Locked]" in text(at)
    assert "✓" not in text(at)
    [table] = [one.value for one in at.dataframe if "status" in one.value]
    assert table["status"].tolist() == ["Blocked: tenant locked"]


def test_recent_refusals_are_in_the_strip_and_nothing_says_that_services_encrypt(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("shop", ServiceKind.MICROSERVICE)
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    with scene.crypto.tenant_tx(ACME) as tx:
        tx.usage.add([UsesRow(now, "shop", CryptoOperation.ENCRYPT, "vault_unavailable", 7, 0)], "batch-refused")
    said = text(shown("services", scene.page_context()))
    assert "Requests: All 7 rejected in 5 min" in said
    assert "Causes: Key server unavailable." in said
    assert "encrypting" not in said


def test_the_guide_of_a_service_has_complete_commands_and_a_token_on_request(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("orders-db", ServiceKind.POSTGRESQL)
    at = shown("services", scene.page_context(), service="orders-db")
    at.button(key="services.guide").click().run()
    assert "Without it the service stops when its certificate expires" in text(at)
    assert any("psql --file '/etc/openkcm/orders-db/pg_tde.sql'" in one.value for one in at.code)
    press(at, "services.token.do")
    assert at.code[1].value == (
        "openkcm agent --url https://enrol.example --service orders-db --kind postgresql"
        " --out '/etc/openkcm/orders-db' --join-token-file -"
    )


def test_connecting_an_existing_name_issues_nothing_until_it_is_asked_for_twice(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("orders", ServiceKind.MICROSERVICE)
    scene.gateway.asked.clear()
    at = shown("services", scene.page_context())
    fill(at, "orders")
    said = press(at, "services.connect.do")
    assert "orders is already connected" in said
    assert "Microservice, connected since" in said
    assert scene.gateway.asked == []
    press(at, "services.connect.do")
    assert scene.gateway.asked == []
    at.checkbox(key="services.another").check().run()
    assert at.button(key="services.connect.do").label == "Issue another certificate"
    assert "orders is connected" in press(at, "services.connect.do")
    with scene.worker.tenant_tx(ACME) as tx:
        assert tx.services.generation("orders") == 2


def test_an_existing_name_can_be_renewed_or_changed(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("orders", ServiceKind.MICROSERVICE)
    at = shown("services", scene.page_context())
    fill(at, "orders")
    at.button(key="services.connect.do").click().run()
    at.text_input(key="services.name").set_value("orders-2").run()
    assert "is already connected" not in text(at)
    at.text_input(key="services.name").set_value("orders").run()
    assert "Issues a new certificate for the existing key of **orders**" in press(at, "services.exists.renew")


@pytest.mark.parametrize("csr", [True, False])
def test_a_service_is_connected_in_the_dialog_and_listed_afterwards(scene: Scene, *, csr: bool) -> None:
    scene.tenant(State.ACTIVE)
    at = shown("services", scene.page_context())
    fill(at, "orders", a_request_pem() if csr else None)
    press(at, "services.connect.do")
    assert state_of(scene, "orders") is ServiceState.CONNECTED
    said = text(at)
    assert "orders is connected" in said
    assert ("Download it now" in said) is not csr
    press(at, "services.close")
    assert "services.delivery" not in at.session_state
    assert at.dataframe[0].value["service"].tolist() == ["orders"]


def test_the_lifetime_of_an_appliance_is_chosen_with_its_consequence(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = shown("services", scene.page_context())
    fill(at, "firewall", a_request_pem())
    assert "valid for at most 72 hours" in text(at)
    at.checkbox(key="services.appliance").check().run()
    assert "the service stops at its end" in text(at)
    at.number_input(key="services.days").set_value(180).run()
    press(at, "services.connect.do")
    with scene.worker.tenant_tx(ACME) as tx:
        leaf = tx.services.leaf("firewall")
        assert leaf is not None
        assert tx.services.requested(leaf.request_id).certificate_days == 180


@pytest.mark.parametrize(("name", "csr_pem"), [("Orders!", None), ("orders", "nonsense")])
def test_an_invalid_input_is_explained_and_kept(scene: Scene, name: str, csr_pem: str | None) -> None:
    scene.tenant(State.ACTIVE)
    at = shown("services", scene.page_context())
    fill(at, name, csr_pem)
    assert "Service not connected" in press(at, "services.connect.do")
    assert at.text_input(key="services.name").value == name
    assert scene.gateway.asked == []


def test_cancel_closes_the_dialog_and_connects_no_service(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = shown("services", scene.page_context())
    fill(at, "orders")
    press(at, "services.cancel")
    assert not [field for field in at.text_input if field.key == "services.name"]
    assert scene.gateway.asked == []
    assert state_of(scene, "orders") is None


def test_with_temporal_down_the_page_works_and_the_same_request_is_retried(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("customer-db", ServiceKind.MONGODB)
    scene.gateway.asked.clear()
    scene.gateway.fails = TemporalUnavailable()
    at = shown("services", scene.page_context())
    assert at.dataframe[0].value["service"].tolist() == ["customer-db"]
    fill(at, "orders")
    assert "The platform's control service does not answer." in press(at, "services.connect.do")
    scene.gateway.fails = None
    at.button(key="services.connect.do").click().run()
    assert state_of(scene, "orders") is ServiceState.CONNECTED
    assert len(set(scene.gateway.asked)) == 1


@pytest.mark.parametrize("pending", [OperationQueued(), OperationTimeout()])
def test_the_key_of_a_pending_request_is_kept_until_its_files_are_downloaded_or_discarded(
    scene: Scene, pending: OperationTimeout
) -> None:
    scene.tenant(State.ACTIVE)
    scene.gateway.fails = pending
    at = shown("services", scene.page_context())
    fill(at, "orders")
    said = press(at, "services.connect.do")
    assert "Keep this window open: the private key exists only here." in said
    assert "You can close this window" not in said
    assert at.button(key="services.cancel").label == "Discard the private key"
    scene.gateway.fails = None
    assert "Download it now" in press(at, "services.connect.do")
    assert len(set(scene.gateway.asked)) == 1


def test_a_pending_request_for_a_key_elsewhere_can_be_left(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.gateway.fails = OperationQueued()
    at = shown("services", scene.page_context())
    fill(at, "orders", a_request_pem())
    assert "You can close this window." in press(at, "services.connect.do")
    assert at.button(key="services.cancel").label == "Cancel"


def test_a_pending_disconnection_does_not_say_that_certificates_are_valid(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("orders", ServiceKind.MONGODB)
    at = shown("services", scene.page_context(), service="orders")
    at.button(key="services.disconnect").click().run()
    at.text_input(key="services.confirm").set_value("orders").run()
    scene.gateway.fails = OperationTimeout()
    said = press(at, "services.disconnect.do")
    assert "In progress" in said
    assert "still valid" not in said


def test_a_service_is_disconnected_only_after_its_name_is_entered(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("orders", ServiceKind.MONGODB)
    at = shown("services", scene.page_context(), service="orders")
    at.button(key="services.disconnect").click().run()
    assert "Nothing was done." in press(at, "services.disconnect.do")
    assert state_of(scene, "orders") is ServiceState.CONNECTED
    at.text_input(key="services.confirm").set_value("orders").run()
    scene.gateway.fails = TemporalUnavailable()
    assert "Service not disconnected" in press(at, "services.disconnect.do")
    assert state_of(scene, "orders") is ServiceState.CONNECTED
    scene.gateway.fails = None
    at.button(key="services.disconnect.do").click().run()
    assert state_of(scene, "orders") is ServiceState.DISCONNECTED
    assert "key kept" in press(at, "services.close")


def test_a_certificate_is_renewed_and_returned(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("orders", ServiceKind.MICROSERVICE)
    at = shown("services", scene.page_context(), service="orders")
    at.button(key="services.renew").click().run()
    assert "Certificate renewed" in press(at, "services.renew.do")
    scene.gateway.fails = TemporalUnavailable()
    assert "Certificate not renewed" in press(at, "services.renew.do")
