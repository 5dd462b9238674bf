"""The page Services and its dialogs on a real database, with a gateway that rejects as the real one does."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from core.errors.platform import TemporalUnavailable
from core.services import ServiceState
from core.tenants.lifecycle import State
from core.tenants.roles import PersonRole
from database.services.agents import HeartbeatRow
from openkcm.contract.enrolment import parse_join_token
from openkcm.contract.services import ServiceKind
from tests.dashboard.scene import ACME, Scene, a_request_pem, press, shown, text

HERE = "Generate here and download once"


def state_of(scene: Scene, service: str) -> ServiceState | None:
    with scene.worker.tenant_tx(ACME) as tx:
        row = tx.services.get(service)
    return None if row is None else row.state


def fill(at, name: str, csr_pem: str | None = None) -> None:
    at.button(key="services.connect").click().run()
    at.text_input(key="services.name").set_value(name).run()
    if csr_pem is None:
        at.radio(key="services.way").set_value(HERE).run()
    else:
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


def test_a_discovered_service_is_shown_with_a_button_to_connect_it(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    with scene.field.open("marketplace", max_size=1).tenant_tx(ACME) as tx:
        tx.enrolments.discover("orders-db", ServiceKind.MICROSERVICE)
        tx.enrolments.discover("carts", ServiceKind.MONGODB)
    scene.service("carts", ServiceKind.MONGODB)
    at = shown("services", scene.page_context())
    assert "Discovered: 1 not connected" in text(at)
    for role in (PersonRole.AUDITOR, PersonRole.KEY_ADMINISTRATOR):
        other = shown("services", scene.page_context(ACME, role))
        assert "orders-db" in text(other)
        assert {button.key for button in other.button} == {"protection.open.carts"}
    at.button(key="join.connect.orders-db").click().run()
    assert at.text_input(key="join.name").value == "orders-db"
    assert "--service orders-db --kind microservice" in press(at, "join.do")


def test_services_are_listed_by_kind_with_their_operations_and_agents(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    said = text(shown("services", scene.page_context()))
    for title in ("MongoDB Clusters", "PostgreSQL Instances", "Microservices"):
        assert f"{title}: 0 connected (ready)" in said
    assert "Follow these steps to enable encryption for a service." in said
    scene.service("customer-db", ServiceKind.MONGODB, uses=1253)
    scene.service("analytics-db", ServiceKind.MONGODB, uses=893)
    now = datetime.now(UTC)
    contact = HeartbeatRow("customer-db", "db-1", "0.1.0", now + timedelta(hours=48), "reload_failed", now)
    with scene.crypto.tenant_tx(ACME) as tx:
        tx.agents.note([contact], [])
    said = text(shown("services", scene.page_context()))
    assert "MongoDB Clusters: 2 connected, encrypting data ✓" in said
    assert "**customer-db:** 1,250 operations/day, 3 rejected" in said
    assert "Agent connected (version `0.1.0`)" in said
    assert "Problem: service not reloaded after renewal" in said


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
    assert "**orders:**" in text(at)


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
    assert "**customer-db:**" in text(at)
    fill(at, "orders")
    assert "The platform's control service does not answer." in press(at, "services.connect.do")
    scene.gateway.fails = None
    at.button(key="services.connect.do").click().run()
    assert state_of(scene, "orders") is ServiceState.CONNECTED
    assert len(set(scene.gateway.asked)) == 1


def test_a_service_is_disconnected_only_after_its_name_is_entered(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("orders", ServiceKind.MONGODB)
    at = shown("services", scene.page_context())
    at.button(key="services.disconnect.orders").click().run()
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
    at = shown("services", scene.page_context())
    at.button(key="services.renew.orders").click().run()
    assert "Certificate renewed" in press(at, "services.renew.do")
    scene.gateway.fails = TemporalUnavailable()
    assert "Certificate not renewed" in press(at, "services.renew.do")
