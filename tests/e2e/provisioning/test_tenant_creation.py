"""Story 2: a tenant is created automatically and isolated, and all events are recorded."""

import hashlib
import json
import ssl

import pytest
from cryptography import x509

from core import names as ids
from core.isolation import breaches
from database.certificates import AuthorityRow
from openkcm.contract.audit_events import verify_chain
from tests.concurrency import wait_until
from tests.e2e.stack import Stack
from tests.e2e.tenants import new_tenant

ORGANIZATION = "Alpha Incorporated"


@pytest.fixture(scope="module")
def alpha(stack) -> str:
    tenant_id = new_tenant(stack, "alpha", ORGANIZATION)
    stack.wait_announced(tenant_id)
    return tenant_id


@pytest.fixture(scope="module")
def beta(stack) -> str:
    """A second customer."""
    return new_tenant(stack, "beta", "Beta Incorporated")


def authority_of(stack: Stack, tenant_id: str) -> AuthorityRow:
    with stack.database().tenant_tx(tenant_id) as tx:
        row = tx.certificates.authority()
    assert row is not None
    return row


def test_the_tenant_has_its_key_ca_route_and_audit_stream(stack, alpha):
    key = stack.vault().read(f"transit/keys/L2-{alpha}-primary")
    assert key is not None
    denied = dict.fromkeys(("exportable", "allow_plaintext_backup", "deletion_allowed"), False)
    assert {"type": "aes256-gcm96", "derived": True, **denied}.items() <= key.items()
    certificate = x509.load_pem_x509_certificate(authority_of(stack, alpha).certificate_pem.encode())
    constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert constraints.value.permitted_subtrees == [x509.DNSName(f"{alpha}.tenants.openkcm.internal")]
    with stack.database().tenant_tx(alpha) as tx:
        route = tx.routes.get()
    assert route is not None
    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(authority_of(stack, alpha).certificate_pem)).hexdigest()
    assert (route.l2_key, route.issuer_fingerprint) == (key["name"], fingerprint)
    assert stack.stream(alpha)


def test_two_customers_share_no_key_no_ca_and_no_record(stack, alpha, beta):
    tenants = (alpha, beta)
    authorities = [authority_of(stack, tenant) for tenant in tenants]
    assert len({row.serial for row in authorities}) == 2
    keys = [x509.load_pem_x509_certificate(row.certificate_pem.encode()).public_key() for row in authorities]
    assert keys[0] != keys[1]
    streams = [stack.stream(tenant) for tenant in tenants]
    assert not {record.record for record in streams[0]} & {record.record for record in streams[1]}
    for tenant, other in (tenants, tenants[::-1]):
        assert not [record for record in stack.stream(tenant) if other in record.record]


def test_isolation_checks_passed_before_the_tenant_was_activated(stack, alpha, beta):
    for tenant in (alpha, beta):
        with stack.database().tenant_tx(tenant) as tx:
            results = tuple(tx.boundaries.latest())
        assert results
        assert breaches(results) == ()
        names = [one["name"] for one in stack.events(tenant)]
        assert names.index("isolation.checked") < names.index("tenant.activated")


def test_the_audit_stream_is_complete_and_in_order(stack, alpha):
    expected = [
        "marketplace.enable_accepted",
        "tenant.provision_intended",
        "key.tenant_key_created",
        "isolation.checked",
        "route.published",
        "tenant.activated",
        "tenant.notified",
    ]

    def names() -> list[str]:
        return [one["name"] for one in stack.events(alpha)]

    wait_until(lambda: expected[-1] in names(), lambda: f"not announced: {names()}")
    assert [name for name in dict.fromkeys(names()) if name in expected] == expected
    records = stack.stream(alpha)
    assert verify_chain(records) == records[-1]
    for stored in records:
        record = json.loads(stored.record)
        assert record["tenant_id"] == alpha
        assert {"time", "actor", "actor_kind", "subject", "outcome", "correlation_id"} <= record.keys()
        assert ORGANIZATION not in stored.record


def test_operators_find_tenants_by_state(stack, alpha, beta):
    wanted = {ids.tenant_workflow(alpha), ids.tenant_workflow(beta)}
    wait_until(  # Temporal updates its lists with a delay
        lambda: wanted <= {run for run, _ in stack.workflows("LifecycleState = 'active'")},
        lambda: "the tenants are not listed as active",
    )
    for problem in ("ProvisioningSloBreached = true", "TemporalReportedProblems IS NOT NULL"):
        assert stack.workflows(f"TenantId = '{alpha}' and {problem}") == []
