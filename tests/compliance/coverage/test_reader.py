"""Coverage is judged from one tenant's own rows, by the one role that may read what services do with their keys."""

from dataclasses import replace
from datetime import timedelta

import pytest

from compliance.coverage.assessment import Coverage, EncryptionMethod, FullyCovered, Unknown, Volume
from compliance.coverage.reader import read_coverage
from core.errors.tenants import TenantUnknown
from core.services import CryptoOperation
from database.connection.database import Database
from openkcm.contract.protected_fields import Backfill, Mode, ProtectedField, Store
from openkcm.contract.services import ServiceKind
from tests.database.builders import (
    NOW,
    a_backfill,
    a_contact,
    a_protection_use,
    some_uses,
)
from tests.database.fixtures import Field
from tests.database.templates import filled_template, two_tenants

DAY = timedelta(days=1)
SSN = ProtectedField(Store.POSTGRESQL, "public.customers", "ssn", Mode.RANDOMISED)
PLACE = "postgresql:public.customers.ssn"


def fill(field: Field) -> None:
    """Create two tenants with services of the same name, without protected fields."""
    two_tenants(active=True)(field)
    with field.administrator() as administrator:
        administrator.execute("truncate okcm.protected_field, okcm.protection_use, okcm.backfill, okcm.usage_day")


template = filled_template(fill)


@pytest.fixture
def dashboard(field: Field) -> Database:
    return field.open("dashboard", max_size=2)


@pytest.fixture
def crypto(field: Field) -> Database:
    return field.open("crypto", max_size=1)


def covered(dashboard: Database, tenant: str = "acme") -> Coverage:
    with dashboard.tenant_tx(tenant) as tx:
        return read_coverage(tx, NOW)


def list_field(database: Database, changed: ProtectedField = SSN, tenant: str = "acme") -> None:
    with database.tenant_tx(tenant) as tx:
        tx.protection.protect("orders", changed, "ada")


def codes(found: Coverage) -> list[str]:
    return [] if isinstance(found.verdict, FullyCovered) else [gap.code for gap in found.verdict.gaps]


def test_listed_field_is_a_gap_until_a_program_reports_its_encryption(dashboard: Database, crypto: Database) -> None:
    list_field(dashboard)
    assert codes(covered(dashboard)) == ["nothing_encrypted", "field_not_reported"]
    with crypto.tenant_tx("acme") as tx:
        tx.agents.note([a_contact(last_contact_at=NOW)], [a_protection_use(place=PLACE), a_protection_use(place=PLACE)])
    found = covered(dashboard)
    assert found.verdict == FullyCovered()
    [service] = found.services
    assert (service.ways, service.facts.agents_connected) == ((EncryptionMethod.PROGRAMS,), 1)
    assert service.fields[0].today == Volume(20, 640)
    assert found.overhead is not None
    assert found.overhead.share == pytest.approx(14 / 1800)
    with crypto.tenant_tx("acme") as tx:
        tx.agents.note([], [a_protection_use(place=f"{PLACE}#plain", operations=3)])
    assert codes(covered(dashboard)) == ["plaintext_read"]
    list_field(dashboard, replace(SSN, plaintext_allowed=True))
    assert codes(covered(dashboard)) == ["plaintext_allowed", "plaintext_read"]


def test_existing_values_are_a_gap_until_the_backfill_is_finished(dashboard: Database, crypto: Database) -> None:
    list_field(dashboard)
    with crypto.tenant_tx("acme") as tx:
        tx.agents.note([], [a_protection_use(place=PLACE)])
        tx.agents.note_backfills([a_backfill(reported_at=NOW)])
    assert codes(covered(dashboard)) == ["backfill_unfinished"]
    with crypto.tenant_tx("acme") as tx:
        tx.agents.note_backfills([a_backfill(state=Backfill.FINISHED, remaining=0, reported_at=NOW + DAY)])
    assert covered(dashboard).verdict == FullyCovered()


def test_key_use_counts_for_a_week_and_a_kept_key_for_longer(dashboard: Database, crypto: Database) -> None:
    encrypt, get = some_uses(minute=NOW - 8 * DAY), some_uses(operation=CryptoOperation.GET, minute=NOW - 200 * DAY)
    refused = some_uses(refusal="tenant_not_operational")
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([encrypt, refused], "old")
    assert codes(covered(dashboard)) == ["nothing_encrypted", "no_fields_listed"]
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([get], "older")
    assert covered(dashboard).services[0].ways == (EncryptionMethod.KMIP_KEYS,)
    assert isinstance(covered(dashboard).verdict, Unknown)
    with crypto.tenant_tx("acme") as tx:
        [listed] = tx.objects.of_service("orders")
        kept = tx.objects.get("orders", listed.object_id)
        assert kept is not None
        assert tx.objects.change(kept._replace(state=5))
    assert codes(covered(dashboard)) == ["nothing_encrypted", "no_fields_listed"]


def test_discovered_unconnected_service_is_a_gap(dashboard: Database, crypto: Database, field: Field) -> None:
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([some_uses()], "now")
    assert isinstance(covered(dashboard).verdict, Unknown)
    with field.open("marketplace", max_size=1).tenant_tx("acme") as tx:
        tx.enrolments.discover("carts", ServiceKind.MONGODB)
    assert codes(covered(dashboard)) == ["no_fields_listed", "not_connected"]


def test_worker_reads_the_same_coverage_for_reports(dashboard: Database, field: Field) -> None:
    with field.open("worker", max_size=1).tenant_snapshot("acme") as tx:
        assert read_coverage(tx, NOW) == covered(dashboard)


def test_unknown_tenant_raises(dashboard: Database) -> None:
    with pytest.raises(TenantUnknown):
        covered(dashboard, "missing")
