"""The dialog of a service's protected fields on a real database: who views, who changes, and the stated effects."""

import pytest
from streamlit.testing.v1 import AppTest

from core.tenants.lifecycle import State
from core.tenants.roles import PersonRole
from dashboard.services.actions import protect
from openkcm.contract.protected_fields import Mode, ProtectedField, Store
from openkcm.contract.services import ServiceKind
from tests.dashboard.scene import ACME, Scene, press, shown, text

BETA = "beta-corp-67890"
DIAGNOSIS = ProtectedField(Store.POSTGRESQL, "public.patients", "diagnosis", Mode.RANDOMISED)


@pytest.fixture
def clinic(scene: Scene) -> Scene:
    scene.tenant(State.ACTIVE)
    scene.service("clinic", ServiceKind.MICROSERVICE)
    return scene


def listed(scene: Scene, tenant_id: str = ACME) -> list[ProtectedField]:
    with scene.dashboard.tenant_tx(tenant_id) as tx:
        return list(tx.protection.fields("clinic"))


def open_dialog(scene: Scene, *roles: PersonRole) -> AppTest:
    at = shown("services", scene.page_context(ACME, *roles), service="clinic")
    return at.button(key="services.fields").click().run()


def fill(at: AppTest, place: str = "public.patients", field: str = "diagnosis") -> None:
    at.text_input(key="protection.place").set_value(place).run()
    at.text_input(key="protection.field").set_value(field).run()


def test_an_administrator_adds_changes_and_removes_a_field(clinic: Scene) -> None:
    at = open_dialog(clinic)
    assert "No protected fields" in text(at)
    fill(at)
    assert "Programs encrypt new values" in text(at)
    press(at, "protection.do")
    assert listed(clinic) == [DIAGNOSIS]
    assert "within 30 seconds" in text(at)
    at.selectbox(key="protection.which").set_value(DIAGNOSIS.name).run()
    at.radio(key=f"protection.mode.{DIAGNOSIS.name}").set_value(Mode.DETERMINISTIC).run()
    assert "which values are equal" in text(at)
    at.button(key="protection.do").click().run()
    assert [one.mode for one in listed(clinic)] == [Mode.DETERMINISTIC]
    assert "store new values unencrypted" in press(at, "protection.take")
    assert len(listed(clinic)) == 1
    press(at, "protection.take.do")
    assert listed(clinic) == []
    assert "Protected fields of clinic" not in press(at, "protection.close")
    changes = [(one["name"], one["actor"]) for one in clinic.records() if one["name"].startswith("protection.")]
    assert changes == [
        (f"protection.field_{what}", "ada@acme.example") for what in ("protected", "changed", "unprotected")
    ]


def test_a_removal_can_be_cancelled(clinic: Scene) -> None:
    protect(clinic.page_context(), "clinic", DIAGNOSIS)
    at = open_dialog(clinic)
    at.selectbox(key="protection.which").set_value(DIAGNOSIS.name).run()
    at.button(key="protection.take").click().run()
    at.button(key="protection.keep").click().run()
    assert listed(clinic) == [DIAGNOSIS]
    assert at.button(key="protection.do").label


@pytest.mark.parametrize(
    ("place", "column", "said"),
    [("patients", "diagnosis", "Write public.patients"), ("", "", "empty"), ("public.patients", "a.b", "rename")],
)
def test_an_invalid_field_is_rejected_with_the_expected_format(
    clinic: Scene, place: str, column: str, said: str
) -> None:
    at = open_dialog(clinic)
    fill(at, place, column)
    assert said in press(at, "protection.do")
    assert at.text_input(key="protection.place").value == place
    assert listed(clinic) == []


@pytest.mark.parametrize("role", [PersonRole.AUDITOR, PersonRole.KEY_ADMINISTRATOR])
def test_a_role_without_the_permission_sees_the_list_and_changes_nothing(clinic: Scene, role: PersonRole) -> None:
    protect(clinic.page_context(), "clinic", DIAGNOSIS)
    at = open_dialog(clinic, role)
    assert "1 protected field" in text(at)
    [listing] = [one.value for one in at.dataframe if "Last changed" in one.value]
    assert listing["Field"].tolist() == ["diagnosis"]
    keys = {button.key for button in at.button if button.key and button.key.startswith("protection.")}
    assert keys == {"protection.close"}


def test_another_tenants_fields_are_never_shown(clinic: Scene) -> None:
    clinic.tenant(State.ACTIVE, BETA, "Beta Corp")
    with clinic.worker.tenant_tx(BETA) as tx:
        tx.services.connect("clinic", ServiceKind.MICROSERVICE)
    protect(
        clinic.page_context(BETA), "clinic", ProtectedField(Store.MONGODB, "secret.plans", "target", Mode.RANDOMISED)
    )
    at = open_dialog(clinic)
    assert "No protected fields" in text(at)
    assert "plans" not in text(at)
    assert listed(clinic) == []
