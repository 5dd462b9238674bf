"""Kill -9 inside every step of a service's connection.

Whatever is shot whenever, whoever asked gets the answer: one service, one key, one certificate for each time one was
asked for, an audit chain without a gap and nothing in it twice. The short form shoots the worker once in every step
and Temporal once; the long form goes through every moment of every step for all servers too.
"""

import json
from collections import Counter

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from config.secrets import Role
from database.interfaces import ServiceRequestRow
from tenancy.audit import verify_chain
from tenancy.ids import CANARY_TENANT_ID
from tenancy.services import ServiceKind, ServiceState
from tests.chaos.field import REGION, Field

TENANT = "connecting-corp"

# How many effects (answers from Vault, commits) each step has at least, so that every shot has a target.
EFFECTS = {
    "record-service": 1,
    "create-service-key": 3,
    "issue-certificate": 3,
    "mark-connected": 1,
    "plan-renewal": 1,
    "disconnect-service": 1,
}

SHORT = [
    *(("worker", step, f"effect-{effects}") for step, effects in EFFECTS.items()),
    ("temporal", "create-service-key", "end"),
]

EVERY = [
    (target, step, moment)
    for target in ("worker", "openbao", "postgres", "temporal")
    for step, effects in EFFECTS.items()
    for moment in ("start", *(f"effect-{n}" for n in range(1, effects + 1)), "end")
]


def pytest_generate_tests(metafunc):
    if "shot" in metafunc.fixturenames:
        shots = EVERY if metafunc.config.getoption("--long") else SHORT
        metafunc.parametrize("shot", shots, ids="-".join)


@pytest.fixture(scope="module")
def ready_field(field: Field) -> Field:
    """The field with an active tenant."""
    field.run_worker()
    marketplace, worker = field.database(Role.MARKETPLACE), field.database(Role.WORKER)
    field.wait_active(worker, CANARY_TENANT_ID)
    field.enable(marketplace, TENANT)
    field.wait_active(worker, TENANT)
    field.stop_worker()
    marketplace.close()
    worker.close()
    return field


def store_request(field: Field, service: str) -> None:
    field.wait_whole()
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    pem = csr.public_bytes(serialization.Encoding.PEM).decode()
    operator = field.database(Role.OPERATOR)
    with operator.tenant_tx(TENANT) as tx:
        tx.services.request(ServiceRequestRow(f"request-{service}", service, ServiceKind.MONGODB, pem))
    operator.close()


def assert_state(field: Field, service: str, state: ServiceState, generation: int) -> None:
    field.wait_whole()
    database = field.database(Role.WORKER)
    try:
        with database.tenant_tx(TENANT) as tx:
            row, key, leaf = tx.services.get(service), tx.services.key(service), tx.services.leaf(service)
            assert tx.services.generation(service) == generation
        assert row is not None
        assert key is not None
        assert (row.state, key.version) == (state, 1)
        assert (leaf is None) is (state is ServiceState.DISCONNECTED)
    finally:
        database.close()


def assert_audited_once(field: Field, service: str) -> None:
    database = field.database(Role.WORKER)
    try:
        with database.tenant_tx(TENANT) as tx:
            records = tx.audit.records()
    finally:
        database.close()
    verify_chain(records)
    mine = [json.loads(stored.record) for stored in records]
    counted = Counter((r["name"], r["outcome"]) for r in mine if r["subject"] == service)
    assert counted == {
        ("service.connect_intended", "intended"): 1,
        ("key.service_key_created", "success"): 1,
        ("certificate.service_certificate_issued", "success"): 2,
        ("certificate.service_certificate_issued", "intended"): 1,
        ("service.connected", "success"): 1,
        ("service.disconnected", "success"): 1,
    }


@pytest.mark.chaos
def test_a_connection_survives_the_death_of_anything_at_any_moment(ready_field, shot, request):
    field, (target, step, moment) = ready_field, shot
    service = f"service-{request.node.callspec.indices['shot']}"
    spent = field.folder / f"spent-{service}"
    store_request(field, service)
    plan = {"tenant": TENANT, "activity": step, "moment": moment, "pid": field.pid_of(target), "spent": str(spent)}
    field.run_worker(plan)
    try:
        field.ask(lambda gateway: gateway.connect_service(TENANT, REGION, service, f"request-{service}"))
        assert_state(field, service, ServiceState.CONNECTED, 1)
        field.ask(lambda gateway: gateway.renew_service(TENANT, REGION, service))
        assert_state(field, service, ServiceState.CONNECTED, 2)
        field.ask(lambda gateway: gateway.disconnect_service(TENANT, REGION, service))
        assert_state(field, service, ServiceState.DISCONNECTED, 2)
        assert spent.exists(), "the shot was never fired, so nothing was shown"
        assert_audited_once(field, service)
    finally:
        field.stop_worker()
