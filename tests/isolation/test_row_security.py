"""Two tenants in one database, and everything we can think of to get from one to the other with SQL."""

import pytest

from database.connection import Database
from tests.database.breaking import ATTACKER, VICTIM, breaches_of
from tests.database.builders import a_connected_service, a_leaving, a_provisioned_tenant, a_root_key
from tests.database.fixtures import Field


@pytest.fixture
def tenants(field: Field, worker: Database) -> Field:
    for tenant in (ATTACKER, VICTIM):
        a_provisioned_tenant(worker, tenant)
        a_connected_service(field, tenant)
        a_root_key(field, tenant)
        a_leaving(field, tenant)
    return field


def test_nothing_crosses_between_two_tenants(tenants: Field) -> None:
    assert list(breaches_of(tenants)) == []
