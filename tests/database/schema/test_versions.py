"""The controls of the database on each supported PostgreSQL: row security, the audit chain and the deletion of rows."""

from collections.abc import Iterator

import pytest

from compliance.isolation.postgres.row_security import RowSecuritySuite
from core.isolation import breaches
from core.retention import DELETED
from database.platform.retention import RetentionQueries
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import verify_chain
from tests.database.builders import a_leaving, an_audit_event
from tests.database.fixtures import Field
from tests.database.schema import postgres_versions
from tests.database.templates import two_tenants

pytestmark = pytest.mark.integration
_LONG = pytest.mark.full


@pytest.fixture(params=["15", pytest.param("16", marks=_LONG), pytest.param("17", marks=_LONG), "embedded"])
def field(request: pytest.FixtureRequest) -> Iterator[Field]:
    with postgres_versions.migrated(request.param) as field:
        two_tenants(root_keys=True)(field)
        for tenant in ("acme", "beta"):
            a_leaving(field, tenant)
        yield field


def test_controls_hold_on_each_version(field: Field) -> None:
    worker = field.open("worker")
    attacks = RowSecuritySuite(worker)
    assert breaches([one for side in attacks.attack_each_other("acme", "beta") for one in side]) == ()
    with worker.tenant_tx("acme") as tx:
        tx.audit.append_all([an_audit_event(f"version-{number}") for number in range(100)])
        records = tx.audit.records()
    assert verify_chain(records) == records[-1]
    queries = RetentionQueries(worker)
    with field.administrator() as administrator:
        administrator.execute(
            "insert into okcm.usage_day select 'acme', current_date - 2000, '', 'encrypt', '', 1, 1, 1,"
            " array_fill(0::bigint, array[40])"
        )
    expired = {table: queries.tenants_with_expired_rows(table, rule.days, 10) for table, rule in DELETED.items()}
    assert [tenant for tenant, _ in expired["usage_day"]] == ["acme"]
    assert queries.delete_expired_rows("acme", "usage_day", DELETED["usage_day"].days, 100) > 0
    assert PlatformQueries(worker).newest_breach() is None

    with field.administrator() as administrator:
        administrator.execute("alter table okcm.service_key disable row level security")
    assert breaches([one for side in attacks.attack_each_other("acme", "beta") for one in side]) != ()
