"""Fingerprints of keys: a duplicate is impossible for every role, and no role can read the table."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from core.errors.platform import DatabaseRefused
from core.names import l2_key
from database.connection.database import Database
from database.keys import Fingerprinted, KeyProbeRow
from database.platform.scheduled import PlatformQueries
from tests.database.builders import a_provisioned_tenant
from tests.database.fixtures import Field
from tests.database.templates import filled_template, two_tenants

ACME, BETA = "acme", "beta"
ONE, ANOTHER = "1" * 64, "2" * 64


template = filled_template(two_tenants(services=False))


def recorded(worker: Database, tenant: str, fingerprint: str, version: int = 2) -> Fingerprinted:
    with worker.tenant_tx(tenant) as tx:
        return tx.fingerprints.record(l2_key(tenant), version, fingerprint)


def test_fingerprint_belongs_to_the_first_key(worker: Database) -> None:
    assert recorded(worker, ACME, ONE) is Fingerprinted.RECORDED
    assert recorded(worker, ACME, ONE) is Fingerprinted.KNOWN
    assert recorded(worker, BETA, ONE) is Fingerprinted.TAKEN
    assert recorded(worker, ACME, ANOTHER) is Fingerprinted.CHANGED
    assert recorded(worker, BETA, ANOTHER) is Fingerprinted.RECORDED
    assert recorded(worker, ACME, ONE) is Fingerprinted.KNOWN


def test_versions_of_one_key_cannot_share_a_fingerprint(worker: Database) -> None:
    recorded(worker, ACME, ONE)
    assert recorded(worker, ACME, ONE, version=3) is Fingerprinted.TAKEN


def test_one_of_two_concurrent_records_of_a_fingerprint_succeeds(worker: Database) -> None:
    with ThreadPoolExecutor(2) as pool:
        for number in range(5):
            fingerprint = f"{number:064x}"
            ends = list(pool.map(recorded, [worker] * 2, (ACME, BETA), [fingerprint] * 2, [number + 10] * 2))
            assert sorted(ends) == ["recorded", "taken"]


def test_database_rejects_a_duplicate_fingerprint_of_any_role(field: Field, worker: Database) -> None:
    recorded(worker, ACME, ONE)
    with field.administrator() as administrator, pytest.raises(psycopg.errors.UniqueViolation):
        administrator.execute(
            "insert into okcm.key_fingerprint (tenant_id, name, version, fingerprint) values (%s, %s, 9, %s)",
            [BETA, l2_key(BETA), ONE],
        )


def test_the_constraint_on_fingerprints_cannot_be_dropped(worker: Database) -> None:
    with pytest.raises(DatabaseRefused), worker.raw_tx(ACME) as connection:
        connection.execute("alter table okcm.key_fingerprint drop constraint key_fingerprint_of_one_key_alone")


def test_fingerprints_need_a_tenant_context_and_ciphertexts_the_platform_context(worker: Database) -> None:
    with pytest.raises(DatabaseRefused), worker.raw_tx("*") as connection:
        connection.execute("select okcm.record_fingerprint('x', 1, repeat('f', 64))")
    with pytest.raises(DatabaseRefused), worker.raw_tx(ACME) as connection:
        connection.execute("select * from okcm.key_probes('', 10)")


def test_ciphertexts_for_isolation_checks_are_read_in_a_cycle(worker: Database) -> None:
    a_provisioned_tenant(worker, "carol")
    assert [tenant for tenant, _ in PlatformQueries(worker).key_probes("", 9)] == ["acme", "beta", "carol"]
    assert [tenant for tenant, _ in PlatformQueries(worker).key_probes("acme", 9)] == ["beta", "carol", "acme"]
    assert [tenant for tenant, _ in PlatformQueries(worker).key_probes("carol", 2)] == ["acme", "beta"]


def test_ciphertext_for_isolation_checks_is_replaced_and_must_use_a_key_of_its_tenant(worker: Database) -> None:
    probe = KeyProbeRow(l2_key(ACME), 2, "vault:v2:another", "beta")
    with worker.tenant_tx(ACME) as tx:
        tx.fingerprints.leave(probe)
    with worker.tenant_tx(ACME) as tx:
        assert tx.fingerprints.probe() == probe
    with pytest.raises(DatabaseRefused), worker.tenant_tx(ACME) as tx:
        tx.fingerprints.leave(KeyProbeRow(l2_key(BETA), 2, "vault:v2:another"))
