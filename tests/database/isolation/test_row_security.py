"""Two tenants in one database, and every known attack with SQL from one on the other."""

from contextlib import nullcontext

import pytest

from core.errors.platform import DatabaseRefused
from database.connection.database import Database
from tests.database.builders import a_dead_letter, a_leaving, an_archive
from tests.database.fixtures import Field
from tests.database.isolation.breaking import ATTACKER, VICTIM, breaches_of, denied_own_writes
from tests.database.templates import two_tenants


@pytest.fixture
def tenants(field: Field) -> Field:
    two_tenants(root_keys=True)(field)
    for tenant in (ATTACKER, VICTIM):
        a_leaving(field, tenant)
        an_archive(field, tenant)
        a_dead_letter(field, tenant)
    return field


def test_no_statement_crosses_the_tenant_boundary(tenants: Field) -> None:
    assert list(breaches_of(tenants)) == []
    # All tried writes are possible within a role's own tenant, except those that `breaking` lists as forbidden.
    assert denied_own_writes(tenants) == {
        ("worker", "service_request"),
        ("operator", "protected_field"),
        ("dashboard", "protected_field"),
    }


def test_policy_rejects_a_new_tenant_in_state_active(field: Field, worker: Database) -> None:
    with field.administrator() as administrator:
        administrator.execute("grant insert on okcm.tenant to okcm_worker")
    for state, refused in (("requested", nullcontext()), ("active", pytest.raises(DatabaseRefused, match="42501"))):
        with refused, worker.raw_tx(f"new-{state}") as connection:
            connection.execute(
                "insert into okcm.tenant (tenant_id, organization, region, state) values (%s, 'x', 'x', %s)",
                [f"new-{state}", state],
            )
