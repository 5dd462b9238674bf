"""The database reads for GET /v1/certificate and GET /v1/protection."""

from collections.abc import Iterator

import pytest

from core.errors.services import ObjectNotFound
from core.names import l2_key
from core.tenants.lifecycle import State
from crypto_service.https.lookups import DatabaseCertificates, DatabaseProtectedFields
from crypto_service.interfaces import ClientIdentity
from crypto_service.server.executor import FairExecutor
from database.connection.database import Database
from tests.crypto_service.https.test_protection import PHONE, SSN
from tests.database import builders
from tests.database.fixtures import Field


def _caller(tenant_id: str, service: str) -> ClientIdentity:
    return ClientIdentity(tenant_id, service, l2_key(tenant_id), "eu-west-1", "1a2b", State.ACTIVE)


@pytest.fixture
def crypto(field: Field, worker: Database) -> Database:
    """Return a database with the role of the crypto service; `acme-corp` and `globex` have a service each."""
    for tenant_id, serial in (("acme-corp", "1a2b"), ("globex", "3c4d")):
        builders.a_provisioned_tenant(worker, tenant_id)
        builders.a_connected_service(field, tenant_id, serial=serial)
    return field.open("crypto", max_size=1)


@pytest.fixture
def threads() -> Iterator[FairExecutor]:
    pool = FairExecutor(2)
    yield pool
    pool.close()


async def test_newest_returns_the_newest_certificate_of_the_callers_service(
    crypto: Database, threads: FairExecutor, worker: Database
):
    reader = DatabaseCertificates(crypto, threads)
    leaf, authority = await reader.newest(_caller("acme-corp", "orders"))
    assert (leaf.serial, authority.serial) == ("1a2b", b"acme-corp".hex())
    with worker.tenant_tx("acme-corp") as tx:
        tx.services.record_leaf(builders.a_leaf("5e6f", generation=2, tenant_id="acme-corp"))
    leaf, _ = await reader.newest(_caller("acme-corp", "orders"))
    assert leaf.serial == "5e6f"
    with pytest.raises(ObjectNotFound):
        await reader.newest(_caller("acme-corp", "billing"))
    with worker.tenant_tx("acme-corp") as tx:
        tx.services.disconnect("orders")
    with pytest.raises(ObjectNotFound):
        await reader.newest(_caller("acme-corp", "orders"))
    leaf, _ = await reader.newest(_caller("globex", "orders"))
    assert leaf.serial == "3c4d"


async def test_of_returns_only_the_callers_protected_fields(crypto: Database, threads: FairExecutor, field: Field):
    with field.open("dashboard", max_size=1).tenant_tx("globex") as tx:
        tx.protection.protect("orders", PHONE, "ada")
    reader, found = DatabaseProtectedFields(crypto, threads), {}
    for tenant_id, service in (("acme-corp", "orders"), ("globex", "orders"), ("globex", "billing")):
        found[tenant_id, service] = list((await reader.of(_caller(tenant_id, service))).fields)
    assert found == {("acme-corp", "orders"): [SSN], ("globex", "orders"): [PHONE, SSN], ("globex", "billing"): []}
