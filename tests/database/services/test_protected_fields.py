"""Protected fields of a service: increasing versions, limits, an audit record of every change, tenant isolation."""

import json
from datetime import timedelta

import pytest

from core.errors.platform import DatabaseRefused
from core.errors.services import FieldNotProtected, ProtectionFull, ServiceUnknown
from core.errors.tenants import TenantNotOperational, TenantUnknown
from core.protected_fields import FIELDS
from core.tenants.lifecycle import Transition
from database.commands import protect, unprotect
from database.connection.database import Database
from database.services.protected_fields import ProtectionRow
from openkcm.contract.protected_fields import Mode, ProtectedField, Store
from tests.database.builders import a_connected_service, a_protected_field, a_provisioned_tenant
from tests.database.fixtures import Field
from tests.database.templates import filled_template

SSN = a_protected_field()
PHONE = ProtectedField(Store.MONGODB, "shop.customers", "contact.phone", Mode.RANDOMISED, plaintext_allowed=True)


def fill(field: Field) -> None:
    """Create the active tenant acme with the service orders and no protected fields."""
    worker = field.open("worker", max_size=1)
    a_provisioned_tenant(worker, "acme")
    with worker.tenant_tx("acme") as tx:
        tx.tenants.move(Transition.ACTIVATE)
    a_connected_service(field, "acme")
    with field.administrator() as administrator:
        administrator.execute("truncate okcm.protected_field, okcm.protection")


template = filled_template(fill)


@pytest.fixture
def administrator(field: Field) -> Database:
    return field.open("dashboard", max_size=2)


def listed(field: Field, service: str = "orders") -> ProtectionRow:
    """Return the protected fields as the crypto service reads them."""
    with field.open("crypto", max_size=1).tenant_tx("acme") as tx:
        assert list(tx.protection.fields(service)) == list(tx.protection.by_service().get(service, ()))
        return tx.protection.of(service)


def logged(worker: Database) -> list[tuple[str, str, dict[str, str]]]:
    """Return the audit events of protected fields: event, actor, details."""
    with worker.tenant_tx("acme") as tx:
        records = [json.loads(stored.record) for stored in tx.audit.records()]
    ours = [one for one in records if one["name"].startswith("protection.")]
    assert {one["name"].removeprefix("protection.") for one in ours} <= {
        *("field_protected", "field_changed", "field_unprotected")
    }
    return [(one["name"].rpartition("_")[2], one["actor"], one["details"]) for one in ours[1:]]


@pytest.mark.parametrize("role", ["dashboard", "operator"])
def test_version_increases_with_every_change_only(field: Field, role: str) -> None:
    administrator = field.open(role)
    assert listed(field) == ProtectionRow(0, [])
    seen = [0]
    searchable = a_protected_field(mode=Mode.DETERMINISTIC)
    for change in (
        lambda tx: protect(tx, "orders", SSN, "ada"),
        lambda tx: protect(tx, "orders", PHONE, "ada"),
        lambda tx: protect(tx, "orders", searchable, "ada"),
        lambda tx: unprotect(tx, "orders", PHONE, "kai"),
    ):
        with administrator.tenant_tx("acme") as tx:
            change(tx)
        seen.append(listed(field).version)
    assert seen == sorted(set(seen))
    assert listed(field).fields == [searchable]
    with administrator.tenant_tx("acme") as tx:
        done = protect(tx, "orders", searchable, "ada")
        [row] = tx.protection.rows("orders")
    assert (done.before, done.after) == (searchable, searchable)
    assert (row.field, row.changed_by) == (searchable, "ada")
    assert listed(field).version == seen[-1]


def test_every_change_is_logged_with_its_author(worker: Database, administrator: Database) -> None:
    for change in (
        lambda tx: protect(tx, "orders", SSN, "ada"),
        lambda tx: protect(tx, "orders", a_protected_field(plaintext_allowed=True), "kai"),
        lambda tx: protect(tx, "orders", a_protected_field(plaintext_allowed=True), "eve"),
        lambda tx: unprotect(tx, "orders", SSN, "ben"),
    ):
        with administrator.tenant_tx("acme") as tx:
            change(tx)
    named = {"store": "postgresql", "place": "public.customers", "field": "ssn", "mode": "randomised"}
    assert logged(worker) == [
        ("protected", "ada", named | {"plaintext_allowed": "false"}),
        (
            "changed",
            "kai",
            named | {"plaintext_allowed": "true", "former_mode": "randomised", "former_plaintext_allowed": "false"},
        ),
        ("unprotected", "ben", named | {"plaintext_allowed": "true"}),
    ]


def test_rolled_back_change_is_not_logged(field: Field, worker: Database, administrator: Database) -> None:
    def change_and_fail() -> None:
        with administrator.tenant_tx("acme") as tx:
            protect(tx, "orders", SSN, "ada")
            unprotect(tx, "orders", PHONE, "ada")

    with pytest.raises(FieldNotProtected):
        change_and_fail()
    assert logged(worker) == []
    assert listed(field) == ProtectionRow(0, [])


def test_database_enforces_the_limit_of_protected_fields(field: Field, administrator: Database) -> None:
    with administrator.raw_tx("acme") as connection:
        connection.execute(
            "insert into okcm.protected_field"
            " (tenant_id, service, store, place, field, mode, plaintext_allowed, changed_by)"
            " select 'acme', 'orders', %s, %s, 'c' || n, %s, %s, 'ada' from generate_series(0, %s) n",
            [SSN.store, SSN.place, SSN.mode, SSN.plaintext_allowed, FIELDS - 1],
        )
    one_more = a_protected_field(field="one_more")
    with pytest.raises(ProtectionFull), administrator.tenant_tx("acme") as tx:
        protect(tx, "orders", one_more, "ada")
    with pytest.raises(DatabaseRefused), administrator.tenant_tx("acme") as tx:
        tx.protection.protect("orders", one_more, "ada")
    with administrator.tenant_tx("acme") as tx:
        protect(tx, "orders", a_protected_field(field="c7", mode=Mode.DETERMINISTIC), "ada")
        unprotect(tx, "orders", a_protected_field(field="c8"), "ada")
        protect(tx, "orders", one_more, "ada")
    assert len(listed(field).fields) == FIELDS


def test_unknown_service_field_or_tenant_is_rejected(field: Field, worker: Database, administrator: Database) -> None:
    with pytest.raises(ServiceUnknown), administrator.tenant_tx("acme") as tx:
        protect(tx, "unknown", SSN, "ada")
    with pytest.raises(FieldNotProtected), administrator.tenant_tx("acme") as tx:
        unprotect(tx, "orders", SSN, "ada")
    with pytest.raises(TenantUnknown), administrator.tenant_tx("unknown") as tx:
        protect(tx, "orders", SSN, "ada")
    with worker.tenant_tx("acme") as tx:
        tx.leaving.begin(timedelta(days=30))
    with pytest.raises(TenantNotOperational), administrator.tenant_tx("acme") as tx:
        protect(tx, "orders", SSN, "ada")
    assert listed(field) == ProtectionRow(0, [])
