"""Story 2: my tenant is created automatically and isolated, and everything that happened is on record."""

import base64
import hashlib
import json
import ssl
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from config.secrets import BOUNDARY_IDENTITY, CODEC_TOKEN
from database.interfaces import AuthorityRow
from tenancy import ids
from tenancy.audit import StoredRecord, head_message, verify_chain
from tenancy.binding import Context, Purpose
from tenancy.boundaries import breaches
from tenancy.errors import VaultRefused, WrongContext
from tenancy.provisioning import TITLES, steps_of
from tests.stories.stack import ACME, Stack, wait_until
from vault.session import VaultRejected
from vault.signer import TransitAuditSigner
from vault.tokens import TenantTokens
from vault.transit import TransitTenantKeys

BETA = "beta-inc-1"


@pytest.fixture(scope="module")
def beta(stack, acme) -> str:
    """Beta, a second customer beside ACME."""
    assert acme
    stack.enable(BETA, "Beta Inc")
    stack.wait_announced(BETA)
    return BETA


def authority_of(stack: Stack, tenant_id: str) -> AuthorityRow:
    with stack.database().tenant_tx(tenant_id) as tx:
        row = tx.certificates.authority()
    assert row is not None
    return row


def stream_of(stack: Stack, tenant_id: str) -> list[StoredRecord]:
    with stack.database().tenant_tx(tenant_id) as tx:
        return list(tx.audit.records())


def test_the_tenant_has_the_promised_key_authority_route_and_audit_stream(stack, acme):
    key = stack.vault().read("transit/keys/L2-acme-corp-12345-primary")
    assert key is not None
    assert {
        name: key[name] for name in ("type", "derived", "exportable", "allow_plaintext_backup", "deletion_allowed")
    } == {
        "type": "aes256-gcm96",
        "derived": True,
        "exportable": False,
        "allow_plaintext_backup": False,
        "deletion_allowed": False,
    }
    certificate = x509.load_pem_x509_certificate(authority_of(stack, acme).certificate_pem.encode())
    constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert constraints.value.permitted_subtrees == [x509.DNSName("acme-corp-12345.tenants.openkcm.internal")]
    with stack.database().tenant_tx(acme) as tx:
        route = tx.routes.get()
    assert route is not None
    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(authority_of(stack, acme).certificate_pem)).hexdigest()
    assert (route.l2_key, route.issuer_fingerprint) == (key["name"], fingerprint)
    assert stream_of(stack, acme)


def test_two_customers_share_no_key_no_authority_and_no_record(stack, acme, beta):
    tenants = (acme, beta)
    authorities = [authority_of(stack, tenant) for tenant in tenants]
    assert len({row.serial for row in authorities}) == 2
    keys = [x509.load_pem_x509_certificate(row.certificate_pem.encode()).public_key() for row in authorities]
    assert keys[0] != keys[1]
    streams = [stream_of(stack, tenant) for tenant in tenants]
    assert not {record.record for record in streams[0]} & {record.record for record in streams[1]}
    for tenant, other in (tenants, tenants[::-1]):
        assert not [record for record in stream_of(stack, tenant) if other in record.record]


def test_what_one_customer_encrypts_opens_under_no_other_customers_key(stack, acme, beta):
    tokens = TenantTokens(stack.vault(), stack.secret(BOUNDARY_IDENTITY))
    keys = TransitTenantKeys(stack.vault(), tokens)
    place = Context(acme, ids.l2_key(acme), "orders", Purpose.SERVICE_KEY, "1")
    ciphertext = keys.encrypt(place, b"a service key of ACME")
    assert keys.decrypt(place, ciphertext) == b"a service key of ACME"

    with pytest.raises(WrongContext):
        keys.decrypt(Context(beta, ids.l2_key(beta), "orders", Purpose.SERVICE_KEY, "1"), ciphertext)
    stolen = {"ciphertext": ciphertext, "context": base64.b64encode(place.encode()).decode()}
    with pytest.raises(VaultRejected):
        tokens.session(beta).write(f"transit/decrypt/{ids.l2_key(beta)}", stolen)
    with pytest.raises(VaultRefused):
        tokens.session(beta).write(f"transit/decrypt/{ids.l2_key(acme)}", stolen)


def test_each_boundary_was_attacked_before_the_tenant_opened_and_held(stack, acme, beta):
    for tenant in (acme, beta):
        with stack.database().tenant_tx(tenant) as tx:
            results = tuple(tx.boundaries.latest())
        assert results
        assert breaches(results) == ()
        names = [json.loads(stored.record)["name"] for stored in stream_of(stack, tenant)]
        assert names.index("boundary.checked") < names.index("tenant.activated")


def test_the_audit_stream_is_whole_and_tells_what_happened_in_order(stack, acme):
    records = stream_of(stack, acme)
    assert verify_chain(records) == records[-1]
    names = [json.loads(stored.record)["name"] for stored in records]
    told = [
        "marketplace.enable_accepted",
        "tenant.provision_intended",
        "key.tenant_key_created",
        "boundary.checked",
        "route.published",
        "tenant.activated",
        "tenant.announced",
    ]
    assert [name for name in dict.fromkeys(names) if name in told] == told
    for stored in records:
        record = json.loads(stored.record)
        assert record["tenant_id"] == ACME
        assert {"time", "actor", "actor_kind", "subject", "outcome", "correlation_id"} <= record.keys()
        assert "ACME Corporation" not in stored.record


async def test_the_head_of_the_audit_stream_is_signed_and_anyone_can_check_it(stack, acme):
    client = await stack.temporal()
    await client.get_schedule_handle("audit-heads").trigger()

    def signed_to_the_end() -> bool:
        with stack.database().tenant_tx(acme) as tx:
            head, signed = tx.audit.head(), tx.audit.signed_heads()
        return bool(head and signed) and signed[-1].seq == head.seq

    wait_until(signed_to_the_end, lambda: "the head was not signed")
    with stack.database().tenant_tx(acme) as tx:
        last = tx.audit.signed_heads()[-1]
    pem = TransitAuditSigner(stack.vault()).public_keys()[last.key]
    key = serialization.load_pem_public_key(pem.encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(
        base64.b64decode(last.signature.rpartition(":")[2]),
        head_message(acme, last.seq, last.chain_hash),
        ec.ECDSA(hashes.SHA256()),
    )


# ── what operators see in the Temporal UI ────────────────────────────────────────────────────────────────────────────


def ui(stack: Stack, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{stack.settings.temporal_ui_port}{path}", timeout=10)


def decode(stack: Stack, payloads: list[dict[str, Any]], token: str | None) -> httpx.Response:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    url = f"http://127.0.0.1:{stack.settings.codec_port}/decode"
    return httpx.post(url, json={"payloads": payloads}, headers=headers, timeout=10)


def summaries(stack: Stack, tenant_id: str) -> list[dict[str, Any]]:
    """Return the summary payloads of the tenant's provisioning as the Temporal UI gets them."""
    workflow_id = quote(ids.provision_workflow(tenant_id), safe="")
    answer = ui(stack, f"/api/v1/namespaces/default/workflows/{workflow_id}/history")
    assert answer.status_code == 200, answer.text
    events = answer.json()["history"]["events"]
    return [event["userMetadata"]["summary"] for event in events if "summary" in event.get("userMetadata", {})]


def test_the_temporal_ui_answers_and_knows_where_to_decode(stack, acme):
    assert "text/html" in ui(stack, "/").headers["content-type"]
    codec = ui(stack, "/api/v1/settings").json()["Codec"]
    assert codec["Endpoint"] == f"http://127.0.0.1:{stack.settings.codec_port}"
    found = ui(stack, "/api/v1/namespaces/default/workflows?query=" + quote(f"TenantId='{acme}'")).json()
    assert {ids.tenant_workflow(acme), ids.provision_workflow(acme)} <= {
        run["execution"]["workflowId"] for run in found["executions"]
    }


def test_an_operator_with_the_token_reads_every_step_by_its_name(stack, acme):
    payloads = summaries(stack, acme)
    answer = decode(stack, payloads, stack.secret(CODEC_TOKEN))
    assert answer.status_code == 200
    shown = {json.loads(base64.b64decode(payload["data"])) for payload in answer.json()["payloads"]}
    assert {TITLES[step] for step in steps_of(acme)} <= shown


def test_without_the_token_the_steps_stay_unreadable(stack, acme):
    payloads = summaries(stack, acme)
    assert payloads
    for payload in payloads:
        assert not any(title.encode() in base64.b64decode(payload["data"]) for title in TITLES.values())
    for token in (None, "wrong"):
        assert decode(stack, payloads, token).status_code == 403


def test_operators_find_tenants_by_state(stack, acme, beta):
    active = {run for run, _ in stack.workflows("LifecycleState = 'active'")}
    assert {ids.tenant_workflow(acme), ids.tenant_workflow(beta)} <= active
    assert stack.workflows("PromiseBroken = true") == []
    assert stack.workflows("TemporalReportedProblems IS NOT NULL") == []
