"""The destruction of an offboarded tenant: keys, rows and ciphertexts of this tenant only."""

import base64
import hashlib
import json

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from core import names as ids
from core.errors.keys import KeyUnavailable
from core.tenants.lifecycle import State
from core.tenants.offboarding import KEPT
from openkcm.contract.audit_events import verify_chain
from openkcm.errors import OpenKcmError
from openkcm.verification.erasure_certificate import ErasureStatement, shred_message, statement_text
from tests.activities.offboarding.leaving import connected
from tests.activities.provisioning import REGION
from tests.activities.services.connecting import SERVICE
from vault.transit.audit_signer import TransitAuditSigner
from vault.transit.payload_keys import TransitPayloadKeys
from vault.transit.root_keys import TransitRootKeys


def opened(leaving, wrapped: bytes) -> bytes:
    """Unwrap a copy of a row with permissions at the key server."""
    inner = TransitRootKeys(leaving.tenant.parts.vault).unwrap(ids.root_key(REGION), leaving.context.encode(), wrapped)
    return leaving.tenant.tenant_keys.decrypt(leaving.context, inner.decode())


def verified(public_pem: str, signature: str, message: bytes) -> bool:
    """Verify a signature with the published key."""
    public = load_pem_public_key(public_pem.encode())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    try:
        public.verify(base64.b64decode(signature), message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def test_destruction_removes_keys_and_rows_and_the_statement_lists_them(leaving) -> None:
    before = leaving.wrap()
    leaf = leaving.connection.leaf
    assert before is not None
    assert len(opened(leaving, before.wrapped)) == 32
    leaving.leave(now=True)
    leaving.through()
    assert leaving.keys_there() == set()
    assert (leaving.tenant_row.state, leaving.tenant_row.organization) == (State.OFFBOARDED, "(erased)")
    assert leaving.wrap() is None
    assert leaving.audited("tenant.rows_erased")
    assert leaving.audited("route.withdrawn")
    with pytest.raises(KeyUnavailable):
        opened(leaving, before.wrapped)

    statement = leaving.statement()
    gone = {one["kind"]: one for one in statement["destroyed"]}
    assert gone.keys() == {
        *("L2 tenant key", "service key", "payload key", "certificate authority key", "service certificate"),
    }
    assert gone["service key"]["fingerprint"] == hashlib.sha256(before.wrapped).hexdigest()
    assert gone["service key"]["name"] == f"{SERVICE} 1"
    assert gone["service certificate"]["name"] == leaf.serial
    assert statement["erased"]["service_key"] == 1
    assert statement["kept"] == dict(KEPT)
    assert any("backup" in one["what"] and "does not know" in one["until"] for one in statement["remains"])
    assert leaving.announced() == ["offboarded", "offboarded"]


def test_statement_is_signed_and_bound_to_the_end_of_the_stream(leaving) -> None:
    leaving.leave(now=True)
    leaving.through()
    kept, records = leaving.read(lambda tx: (tx.leaving.certificate(), tx.audit.records()))
    assert kept.statement == statement_text(ErasureStatement.model_validate_json(kept.statement))
    assert kept.key.startswith("audit-checkpoints:")
    public = TransitAuditSigner(leaving.tenant.parts.vault).public_keys()[kept.key]
    assert verified(public, kept.signature, shred_message(leaving.tenant_id, kept.statement))
    assert not verified(public, kept.signature, shred_message("another-corp", kept.statement))
    statement = leaving.statement()
    assert verify_chain(records) == records[-1]
    at = records[statement["audit_seq"] - 1]
    assert at.chain_hash.hex() == statement["audit_hash"]
    after = [json.loads(record.record)["name"] for record in records[statement["audit_seq"] :]]
    assert after == ["tenant.erasure_certified", "tenant.offboarded"]


def test_intention_is_recorded_before_each_key_is_destroyed(leaving) -> None:
    leaving.leave(now=True)
    leaving.through()
    tenant_id = leaving.tenant_id
    subjects = ("service keys", ids.l2_key(tenant_id), ids.ca_key(tenant_id), ids.payload_key(tenant_id))
    assert leaving.audited("key.destroyed") == [
        (subject, outcome) for subject in subjects for outcome in ("intended", "success")
    ]
    assert leaving.audited("tenant.destruction_started") == [(tenant_id, "intended")]
    leaving.tenant.assert_audited_once()


def test_no_other_tenants_keys_or_rows_are_touched(leaving, request_tenant, operator) -> None:
    other = type(leaving)(connected(request_tenant(), operator), leaving.admin)
    there, wrap = other.keys_there(), other.wrap()
    leaving.leave(now=True)
    leaving.through()
    assert (other.keys_there(), other.wrap()) == (there, wrap)
    assert len(there) == 3
    assert len(opened(other, wrap.wrapped)) == 32
    for name in (ids.root_key(REGION), "audit-checkpoints", "payloads-platform"):
        assert leaving.admin.read(f"transit/keys/{name}") is not None


def test_rows_are_erased_after_the_keys_and_certified_after_both(leaving) -> None:
    leaving.leave(now=True)
    leaving.through("destroy-service-keys")
    with pytest.raises(OpenKcmError):
        leaving.run("erase-rows")
    assert leaving.tenant_row.organization == "ACME Corporation"
    leaving.through("erase-rows")
    with pytest.raises(OpenKcmError):
        leaving.run("issue-erasure-certificate")
    assert leaving.tenant_row.state is State.LEAVING


def test_key_destroyed_earlier_is_stated_as_missing(leaving) -> None:
    name = ids.l2_key(leaving.tenant_id)
    leaving.admin.write(f"transit/keys/{name}/config", {"deletion_allowed": True})
    leaving.admin.delete(f"transit/keys/{name}")
    leaving.leave(now=True)
    leaving.through()
    gone = {one["kind"]: one["versions"] for one in leaving.statement()["destroyed"]}
    assert gone["L2 tenant key"] == "none found"


def test_worker_removes_the_payload_key_from_memory_when_it_is_destroyed(leaving) -> None:
    keyring = leaving.tenant.parts.keyring
    assert keyring.current(leaving.tenant_id).key_name == ids.payload_key(leaving.tenant_id)
    kept = keyring.current(leaving.tenant_id)
    leaving.leave(now=True)
    leaving.through()
    assert keyring.current(leaving.tenant_id).key_name == "payloads-platform"
    with pytest.raises(KeyUnavailable):
        TransitPayloadKeys(leaving.tenant.parts.vault).open_data_key(kept.key_name, kept.wrapped)
