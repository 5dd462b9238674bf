"""`openkcmctl service coverage`: the page's judgement as a document, for whoever runs the dashboard and nobody else."""

from datetime import UTC, datetime

import pytest

from config import secrets
from config.secrets import Role
from core.errors.platform import SettingsInvalid
from core.errors.tenants import TenantUnknown
from database.services.agents import ProtectionUseRow
from tests.cli.root_key_stand import Desk
from tests.dashboard.scene import ACME, audit_records

PLACE = "postgresql:public.patients.diagnosis"


@pytest.fixture
def told(desk: Desk) -> Desk:
    """A service whose programs encrypt one field that is on no list, today; and who runs the dashboard."""
    for name, value in (
        (secrets.database_password(Role.DASHBOARD), desk.field.server.passwords["dashboard"]),
        (secrets.context_key(Role.DASHBOARD), desk.field.key("dashboard").hex()),
    ):
        (desk.folder / "secrets" / name).write_text(value)
    with desk.field.administrator() as administrator:
        administrator.execute("truncate okcm.protected_field, okcm.protection_use, okcm.backfill, okcm.usage_day")
        administrator.execute("update okcm.service_certificate set not_after = now() + interval '2 days'")
    use = ProtectionUseRow(datetime.now(UTC).date(), "orders", PLACE, 10, 320, 70, 4, 2000)
    with desk.field.open("crypto", max_size=1).tenant_tx(ACME) as tx:
        tx.agents.note([], [use])
    return desk


def test_it_says_what_is_encrypted_and_that_nothing_is_missing(told: Desk) -> None:
    document = told.run("service", "coverage", ACME)
    assert (document["protected"], document["missing"]) == (True, [])
    assert document["overhead"]["share"] == pytest.approx(0.035)
    [service] = document["services"]
    assert (service["service_id"], service["ways"], service["operations_today"]) == ("orders", ["programs"], 10)
    [field] = service["fields"]
    assert (field["place"], field["listed"], field["last_7_days"]["operations"]) == (PLACE, False, 10)
    assert "All sensitive data protected" in told.invoke("service", "coverage", ACME).stdout
    looks = [one for one in audit_records(told.worker, ACME) if one["name"] == "audit.exported"]
    assert [(one["subject"], one["actor"]) for one in looks] == [("coverage", "operator")] * 2


def test_what_is_missing_comes_with_the_next_step(told: Desk) -> None:
    with told.field.administrator() as administrator:
        administrator.execute("truncate okcm.protection_use")
    document = told.run("service", "coverage", ACME)
    assert not document["protected"]
    assert document["overhead"] is None
    assert [(one["code"], one["service"]) for one in document["missing"]] == [("nothing_encrypted", "orders")]
    shown = told.invoke("service", "coverage", ACME).stdout
    assert "missing  orders was not seen to encrypt anything in the last 7 days" in shown
    assert "next  start its programs with openkcm run" in shown
    assert "not measured yet" in shown
    assert "All sensitive data protected" not in shown


def test_an_operator_without_the_dashboards_secrets_sees_nothing(told: Desk) -> None:
    (told.folder / "secrets" / secrets.database_password(Role.DASHBOARD)).unlink()
    with pytest.raises(SettingsInvalid) as refused:
        told.run("service", "coverage", ACME)
    assert "an operator's role sees no customer's use of keys" in refused.value.hint


def test_a_tenant_that_is_not_there_is_unknown(told: Desk) -> None:
    with pytest.raises(TenantUnknown):
        told.run("service", "coverage", "nobody-at-all")
    assert told.gateway.asked == []
