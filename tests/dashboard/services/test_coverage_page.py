"""What the page Services says of coverage, on a real database: the sentence only while nothing is missing."""

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


def protect(scene: Scene, service: str, name: str = "diagnosis", *, plain_allowed: bool = False) -> None:
    field = ProtectedField(Store.POSTGRESQL, "public.patients", name, Mode.RANDOMISED, plain_allowed)
    with scene.dashboard.tenant_tx(ACME) as tx:
        tx.protection.protect(service, field, "ada@acme.example")


def tell(scene: Scene, service: str, place: str = PLACE, tenant_id: str = ACME) -> None:
    """Have a service's programs say that they encrypted ten values at a place, now."""
    now = datetime.now(UTC)
    use = ProtectionUseRow(now.date(), service, place, 10, 320, 70, 4, 2000)
    contact = HeartbeatRow(service, "host-1", "0.1.0", now + timedelta(hours=48), None, now)
    with scene.crypto.tenant_tx(tenant_id) as tx:
        tx.agents.note([contact], [use])


def test_what_is_missing_is_said_with_what_to_do_until_nothing_is(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = shown("services", scene.seat())
    assert "Encryption Status: nothing to protect yet" in text(at)
    assert not at.metric
    scene.service("clinic-db", ServiceKind.POSTGRESQL)
    scene.service("shop", ServiceKind.MICROSERVICE, uses=50)
    protect(scene, "clinic-db")
    said = text(shown("services", scene.seat()))
    assert SENTENCE not in said
    assert "**clinic-db**: `public.patients.diagnosis` is on the list, and no program encrypted or decrypted it" in said
    assert "**Next:** start every program that uses it with openkcm run" in said
    assert "not measured yet" in said
    tell(scene, "clinic-db")
    at = shown("services", scene.seat())
    assert [box.value for box in at.success]
    assert f"Encryption Status: {SENTENCE}" in text(at)
    assert "Which data is sensitive only you know" in text(at)
    assert {one.label: one.value for one in at.metric} == {
        "Services protected": "2 of 2",
        "Operations today": "57",
        "Performance Impact": "3.5%",
    }
    tell(scene, "clinic-db", f"{PLACE}#plain")
    said = text(shown("services", scene.seat()))
    assert SENTENCE not in said
    assert "held values that are not encrypted: 10 read" in said


def test_every_role_of_the_customer_sees_it_and_another_tenants_people_do_not(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.tenant(State.ACTIVE, BETA)
    scene.service("clinic-db", ServiceKind.POSTGRESQL)
    scene.service("clinic-db", ServiceKind.POSTGRESQL, BETA)
    tell(scene, "clinic-db", "postgresql:public.secret.plans")
    for role in (PersonRole.ADMINISTRATOR, PersonRole.KEY_ADMINISTRATOR, PersonRole.AUDITOR):
        at = shown("services", scene.seat(ACME, role))
        assert f"Encryption Status: {SENTENCE}" in text(at)
        assert at.dataframe[0].value["Field"].tolist() == ["public.secret.plans"]
    at = shown("services", scene.seat(BETA))
    assert "was not seen to encrypt anything" in text(at)
    assert not at.dataframe
    assert not shown("services", scene.seat(ACME, PersonRole.OPERATOR)).metric
