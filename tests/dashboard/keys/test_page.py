"""The page Keys on a real database."""

from streamlit.testing.v1 import AppTest

from core.keys.rotation import RotationScope
from core.tenants.lifecycle import State
from core.tenants.roles import PersonRole
from dashboard.keys import service_keys
from database.rotation import RotationRequest
from openkcm.contract.audit_events import AuditEvent, AuditName
from openkcm.contract.services import ServiceKind
from tests.dashboard.scene import ACME, Scene, open_tab, press, select, shown, text


def buttons(at: AppTest) -> list[str]:
    return [button.label for button in at.button]


def test_an_auditor_sees_every_key_without_key_material_or_buttons(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("customer-db", ServiceKind.MONGODB, uses=1250)
    scene.objects("customer-db", 2, 2, 5)
    at = shown("keys", scene.page_context(ACME, PersonRole.AUDITOR))
    said = text(at)
    assert not at.button
    assert "Platform-Managed (default)" in said
    assert "root-eu-west-1" in said
    assert "L2-acme-corp-12345-primary" in said
    row = at.dataframe(key="keys.table").value.iloc[0]
    assert (row["Service"], row["Kind"], row["Protects"]) == ("customer-db", "MongoDB", "2 KMIP objects")
    assert row["Requests, 30 days"][-1] == 1250
    assert "Wraps 1 service key in 1 version." in said


def test_actions_are_offered_once_for_the_selected_service(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    for number in range(3):
        scene.service(f"service-{number}", ServiceKind.MICROSERVICE)
    page = ["Change root key…", "Rotate tenant key…", "Rotate all keys…", "Replace compromised keys…"]
    nothing = buttons(shown("keys", scene.page_context()))
    assert [label for label in nothing if label in page] == page
    assert "Rotate service key…" not in nothing
    selected = buttons(shown("keys", scene.page_context(), service="service-1"))
    own = ["Rotate service key…", "Report as compromised…", "Versions and history"]
    assert [label for label in selected if label not in nothing] == own
    assert len(selected) == len(set(selected))


def test_the_address_selects_the_service_in_list_and_table(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    for name in ("ledger", "orders"):
        scene.service(name, ServiceKind.MICROSERVICE)
    at = shown("keys", scene.page_context(), service="orders")
    assert at.selectbox(key="service").value == "orders"
    assert at.session_state["keys.table"]["selection"]["rows"] == [1]
    at.selectbox(key="service").set_value("ledger").run()
    assert at.session_state["keys.table"]["selection"]["rows"] == [0]
    unknown = shown("keys", scene.page_context(), service="nothing")
    assert unknown.selectbox(key="service").value is None


def test_a_selected_row_selects_the_service_in_the_list(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    for name in ("ledger", "orders"):
        scene.service(name, ServiceKind.MICROSERVICE)
    at = shown("keys", scene.page_context())
    select(at, "keys.table", 1)
    assert at.selectbox(key="service").value == "orders"
    at.run()
    assert at.selectbox(key="service").value == "orders"


def test_a_late_report_of_no_selected_row_keeps_the_selected_service(monkeypatch):
    state = {"keys.table": {"selection": {"rows": []}}, "keys.clicked": "orders"}
    monkeypatch.setattr(service_keys.st, "session_state", state)
    service_keys._select_row(["ledger", "orders"])
    assert state["keys.clicked"] == "orders"


def test_the_map_shows_that_both_keys_wrap_each_service_key(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("orders", ServiceKind.MICROSERVICE)
    said = open_tab(shown("keys", scene.page_context()), "keys.charts", "Key map")
    assert "Both wrap each service key. Both are required to unwrap it." in said
    assert "`orders`: version 1, Encrypt + decrypt." in said


def test_versions_and_history_of_the_selected_key_link_to_their_records(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    for name in ("ledger", "ledger-archive"):
        scene.service(name, ServiceKind.MICROSERVICE)
    at = shown("keys", scene.page_context(), service="ledger")
    press(at, "rotation.one")
    press(at, "rotation.do")
    press(at, "rotation.close")
    said = press(at, "keys.versions")
    versions = at.dataframe[-1].value
    assert list(versions["Version"]) == [2, 1]
    assert list(versions["State"]) == ["Encrypt + decrypt", "Decrypt only"]
    assert "Key rotation requested, intended, " in said
    assert "](audit?seq=" in said
    assert "[All audit records of this service](audit?service=ledger)" in said


def test_the_timeline_shows_rotations_and_locks_with_their_records(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("orders", ServiceKind.MICROSERVICE)
    context = scene.page_context()
    assert "No rotation, root key change, lock, approval or report is recorded." in text(shown("keys", context))
    at = shown("keys", context)
    press(at, "rotation.everything")
    press(at, "rotation.do")
    press(at, "rotation.close")
    events = at.dataframe(key="timeline.table").value
    assert "The tenant key and every service key: rotated" in list(events["Event"])


def test_a_key_administrator_sees_the_timeline_without_the_audit_stream(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("orders", ServiceKind.MICROSERVICE)
    lock = AuditEvent(
        event_id="lock",
        name=AuditName.TENANT_LOCKED,
        actor_kind="system",
        actor="worker",
        subject=ACME,
        outcome="success",
        correlation_id="lock",
        source="worker",
    )
    with scene.worker.tenant_tx(ACME) as tx:
        tx.rotations.begin(1, RotationRequest(tenant_key=False, services=RotationScope.NONE), 1)
        tx.audit.append(lock)
    everyone = shown("keys", scene.page_context(), service="orders")
    assert "Tenant locked" in list(everyone.dataframe(key="timeline.table").value["Event"])
    at = shown("keys", scene.page_context(ACME, PersonRole.KEY_ADMINISTRATOR), service="orders")
    assert "Tenant locked" not in list(at.dataframe(key="timeline.table").value["Event"])
    assert "Locks are in the audit stream, which your role does not include." in text(at)
    assert "](audit?" not in press(at, "keys.versions")


def test_each_root_key_provider_names_what_is_where(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    platform = text(shown("keys", scene.page_context()))
    assert "Root key: key server of the platform in eu-west-1." in platform
    assert "no kill switch that is independent of the platform" in platform
    scene.held_key()
    own = text(shown("keys", scene.page_context()))
    assert "Root key: AWS KMS in eu-west-1, your account 111122223333." in own
    assert "Tenant key: key server of the platform in eu-west-1." in own
    assert "Root key: key server of the platform" not in own
    assert "Disabling the key in your AWS account locks the tenant within seconds" in own


def test_a_tenant_without_services_is_led_to_the_page_services(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    said = text(shown("keys", scene.page_context()))
    assert "Connect one on the page Services" in said
