from collections.abc import Iterator

import pytest

from crypto.blocking import FairThreads
from crypto.certificates import CertificatesOnRecord
from crypto.interfaces import Caller
from database.connection import Database
from tenancy.errors import ObjectNotFound
from tenancy.ids import l2_key
from tenancy.lifecycle import State
from tests.database import builders
from tests.database.fixtures import Field


def _caller(tenant_id: str, service: str) -> Caller:
    return Caller(tenant_id, service, l2_key(tenant_id), "eu-west-1", "1a2b", State.ACTIVE)


@pytest.fixture
def reader(field: Field, worker: Database) -> Iterator[CertificatesOnRecord]:
    """Reads with the rights of the crypto service; `acme-corp` and `globex` have a service each."""
    for tenant_id, serial in (("acme-corp", "1a2b"), ("globex", "3c4d")):
        builders.a_provisioned_tenant(worker, tenant_id)
        builders.a_connected_service(field, tenant_id, serial=serial)
    threads = FairThreads(2)
    yield CertificatesOnRecord(field.open("crypto", max_size=1), threads)
    threads.close()


async def test_the_newest_certificate_of_the_callers_service_is_read(reader: CertificatesOnRecord, worker: Database):
    leaf, authority = await reader.newest(_caller("acme-corp", "orders"))
    assert (leaf.serial, authority.serial) == ("1a2b", b"acme-corp".hex())
    with worker.tenant_tx("acme-corp") as tx:
        tx.services.record_leaf(builders.a_leaf("5e6f", generation=2, tenant_id="acme-corp"))
    leaf, _ = await reader.newest(_caller("acme-corp", "orders"))
    assert leaf.serial == "5e6f"


async def test_a_service_without_a_certificate_gets_none_of_its_tenants(reader: CertificatesOnRecord):
    with pytest.raises(ObjectNotFound):
        await reader.newest(_caller("acme-corp", "billing"))


async def test_after_disconnecting_there_is_none(reader: CertificatesOnRecord, worker: Database):
    with worker.tenant_tx("acme-corp") as tx:
        tx.services.disconnect("orders")
    with pytest.raises(ObjectNotFound):
        await reader.newest(_caller("acme-corp", "orders"))
    leaf, _ = await reader.newest(_caller("globex", "orders"))
    assert leaf.serial == "3c4d"
