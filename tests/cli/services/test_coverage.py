"""`openkcmctl service coverage`: the coverage assessment as a document; it needs the dashboard's secrets."""

from datetime import UTC, datetime

import pytest

from config import secrets
from config.secrets import Role
from core.errors.platform import SettingsInvalid
from core.errors.tenants import TenantUnknown
from database.services.agents import ProtectionUseRow
from openkcm.contract.protected_fields import Mode, ProtectedField, Store
from tests.cli.root_key_stand import OperatorCli
from tests.dashboard.scene import ACME, audit_records

PLACE = "postgresql:public.patients.diagnosis"
FIELD = ProtectedField(Store.POSTGRESQL, "public.patients", "diagnosis", Mode.RANDOMISED)


@pytest.fixture
def coverage_cli(operator_cli: OperatorCli) -> OperatorCli:
    """Commands with the dashboard's secrets, and a service that encrypted its listed field today."""
    for name, value in (
        (secrets.database_password(Role.DASHBOARD), operator_cli.field.server.passwords["dashboard"]),
        (secrets.context_key(Role.DASHBOARD), operator_cli.field.key("dashboard").hex()),
    ):
        (operator_cli.folder / "secrets" / name).write_text(value)
    with operator_cli.field.administrator() as administrator:
        administrator.execute("truncate okcm.protected_field, okcm.protection_use, okcm.backfill, okcm.usage_day")
        administrator.execute("update okcm.service_certificate set not_after = now() + interval '2 days'")
    with operator_cli.field.open("dashboard", max_size=1).tenant_tx(ACME) as tx:
        tx.protection.protect("orders", FIELD, "ada@acme.example")
    use = ProtectionUseRow(datetime.now(UTC).date(), "orders", PLACE, 10, 320, 70, 4, 2000)
    with operator_cli.field.open("crypto", max_size=1).tenant_tx(ACME) as tx:
        tx.agents.note([], [use])
    return operator_cli


def test_coverage_shows_encrypted_fields_without_gaps(coverage_cli: OperatorCli) -> None:
    document = coverage_cli.run("service", "coverage", ACME)
    assert (document["protected"], document["status"], document["missing"]) == (True, "protected", [])
    assert document["overhead"]["share"] == pytest.approx(0.035)
    [service] = document["services"]
    assert (service["service_id"], service["ways"], service["operations_today"]) == ("orders", ["programs"], 10)
    [field] = service["fields"]
    assert (field["place"], field["listed"], field["last_7_days"]["operations"]) == (PLACE, True, 10)
    assert "All sensitive data protected" in coverage_cli.invoke("service", "coverage", ACME).stdout
    exports = [one for one in audit_records(coverage_cli.worker, ACME) if one["name"] == "audit.exported"]
    assert [(one["subject"], one["actor"]) for one in exports] == [("coverage", "operator")] * 2


def test_coverage_is_unknown_without_listed_fields(coverage_cli: OperatorCli) -> None:
    with coverage_cli.field.administrator() as administrator:
        administrator.execute("truncate okcm.protected_field")
    document = coverage_cli.run("service", "coverage", ACME)
    assert (document["protected"], document["status"]) == (False, "unknown")
    assert [one["code"] for one in document["missing"]] == ["no_fields_listed"]
    shown = coverage_cli.invoke("service", "coverage", ACME).stdout
    assert "orders has no listed fields, so its coverage is unknown" in shown
    assert "All sensitive data protected" not in shown


def test_each_gap_has_a_next_step(coverage_cli: OperatorCli) -> None:
    with coverage_cli.field.administrator() as administrator:
        administrator.execute("truncate okcm.protection_use")
    document = coverage_cli.run("service", "coverage", ACME)
    assert not document["protected"]
    assert document["overhead"] is None
    assert [(one["code"], one["service"]) for one in document["missing"]] == [
        ("nothing_encrypted", "orders"),
        ("field_not_reported", "orders"),
    ]
    shown = coverage_cli.invoke("service", "coverage", ACME).stdout
    assert "missing  orders did not encrypt anything in the last 7 days" in shown
    assert "next  start its programs with openkcm run" in shown
    assert "not measured yet" in shown
    assert "All sensitive data protected" not in shown


def test_coverage_is_rejected_without_the_dashboards_secrets(coverage_cli: OperatorCli) -> None:
    (coverage_cli.folder / "secrets" / secrets.database_password(Role.DASHBOARD)).unlink()
    with pytest.raises(SettingsInvalid) as refused:
        coverage_cli.run("service", "coverage", ACME)
    assert "the operator's role cannot read the use of keys" in refused.value.hint


def test_an_unknown_tenant_is_rejected(coverage_cli: OperatorCli) -> None:
    with pytest.raises(TenantUnknown):
        coverage_cli.run("service", "coverage", "unknown-corp")
    assert coverage_cli.gateway.asked == []
