"""Coverage on the page Services, on a real database: full coverage is stated only without gaps."""

from datetime import UTC, datetime, timedelta

from core.tenants.lifecycle import State
from core.tenants.roles import PersonRole
from database.services.agents import HeartbeatRow, ProtectionUseRow
from openkcm.contract.protected_fields import Mode, ProtectedField, Store
from openkcm.contract.services import ServiceKind
from tests.dashboard.scene import ACME, Scene, shown, text

BETA = "beta-corp-67890"
PLACE = "postgresql:public.patients.diagnosis"
SENTENCE = "All sensitive data protected"


def protect(scene: Scene, service: str, name: str = "diagnosis", *, plaintext_allowed: bool = False) -> None:
    field = ProtectedField(Store.POSTGRESQL, "public.patients", name, Mode.RANDOMISED, plaintext_allowed)
    with scene.dashboard.tenant_tx(ACME) as tx:
        tx.protection.protect(service, field, "ada@acme.example")


def report_use(scene: Scene, service: str, place: str = PLACE, tenant_id: str = ACME) -> None:
    """Report ten values that a service's programs encrypted at a place, now."""
    now = datetime.now(UTC)
    use = ProtectionUseRow(now.date(), service, place, 10, 320, 70, 4, 2000)
    contact = HeartbeatRow(service, "host-1", "0.1.0", now + timedelta(hours=48), None, now)
    with scene.crypto.tenant_tx(tenant_id) as tx:
        tx.agents.note([contact], [use])


def test_each_gap_is_shown_with_the_next_step(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = shown("services", scene.page_context())
    assert "Encryption Status: no services" in text(at)
    assert not at.metric
    scene.service("clinic-db", ServiceKind.POSTGRESQL)
    scene.service("shop", ServiceKind.MICROSERVICE, uses=50)
    protect(scene, "clinic-db")
    said = text(shown("services", scene.page_context(), service="clinic-db"))
    assert SENTENCE not in said
    assert "**clinic-db**: `public.patients.diagnosis` is protected, but no program encrypted or decrypted it" in said
    assert "**Next:** Start every program that uses it with openkcm run" in said
    assert "not measured yet" in said
    report_use(scene, "clinic-db")
    said = text(shown("services", scene.page_context()))
    assert SENTENCE not in said
    assert "Encryption Status: coverage unknown, no fields listed" in said
    protect(scene, "shop")
    report_use(scene, "shop")
    at = shown("services", scene.page_context())
    assert [box.value for box in at.success]
    assert f"Encryption Status: {SENTENCE}" in text(at)
    assert "Only you know which data is sensitive" in text(at)
    assert {one.label: one.value for one in at.metric} == {
        "Services protected": "2 of 2",
        "Operations today": "67",
        "Performance impact": "3.5%",
    }
    report_use(scene, "clinic-db", f"{PLACE}#plain")
    said = text(shown("services", scene.page_context()))
    assert SENTENCE not in said
    assert "contained unencrypted values: 10 read" in said


def test_coverage_is_visible_to_every_role_of_the_tenant_and_to_no_other_tenant(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.tenant(State.ACTIVE, BETA)
    scene.service("clinic-db", ServiceKind.POSTGRESQL)
    scene.service("clinic-db", ServiceKind.POSTGRESQL, BETA)
    report_use(scene, "clinic-db", "postgresql:public.secret.plans")
    protect(scene, "clinic-db")
    report_use(scene, "clinic-db")
    for role in (PersonRole.ADMINISTRATOR, PersonRole.KEY_ADMINISTRATOR, PersonRole.AUDITOR):
        at = shown("services", scene.page_context(ACME, role), service="clinic-db")
        assert f"Encryption Status: {SENTENCE}" in text(at)
        assert at.dataframe[1].value["Field"].tolist() == ["public.patients.diagnosis", "public.secret.plans"]
        assert at.dataframe[0].value["coverage"].tolist() == ["Protected"]
    at = shown("services", scene.page_context(BETA), service="clinic-db")
    assert "did not encrypt anything in the last" in text(at)
    assert at.dataframe[0].value["coverage"].tolist() == ["2 gaps"]
    assert len(at.dataframe) == 1
    assert not shown("services", scene.page_context(ACME, PersonRole.OPERATOR)).metric
