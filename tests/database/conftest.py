import pytest

from database.connection import Database
from tenancy.lifecycle import Move
from tests.database.builders import a_connected_service, a_provisioned_tenant
from tests.database.fixtures import Field

__all__ = ["tenants"]


@pytest.fixture
def tenants(field: Field, worker: Database) -> Database:
    """Two active tenants with two services each."""
    for tenant in ("acme", "beta"):
        a_provisioned_tenant(worker, tenant)
        with worker.tenant_tx(tenant) as tx:
            tx.tenants.move(Move.ACTIVATE)
        for number, service in enumerate(("orders", "users")):
            a_connected_service(field, tenant, service, f"{number}a")
    return worker
