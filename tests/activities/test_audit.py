"""Checkpoints make a truncated stream visible; only streams with new records are signed."""

import base64

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from core.errors.platform import DatabaseRefused, DatabaseUnavailable
from core.tenants.provisioning import Step
from database.audit import SignedCheckpoint
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import head_message, verify_chain
from openkcm.verification.public_keys import PublicKeys
from tests.activities.provisioning import Provisioning
from tests.database.builders import an_audit_event
from tests.database.signing import Signer
from vault.transit.audit_signer import TransitAuditSigner


def heads_of(tenant: Provisioning) -> list[SignedCheckpoint]:
    return list(tenant.read(lambda tx: tx.audit.signed_heads()))


def verify(tenant: Provisioning, head: SignedCheckpoint, message: bytes) -> None:
    pem = TransitAuditSigner(tenant.parts.vault).public_keys()[head.key]
    key = serialization.load_pem_public_key(pem.encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(base64.b64decode(head.signature), message, ec.ECDSA(hashes.SHA256()))


def test_each_stream_with_new_records_is_signed_and_no_other(request_tenant):
    tenants = [request_tenant() for _ in range(3)]
    for tenant in tenants:
        tenant.run(Step.OPEN_RECORDS)
    assert tenants[0].run_platform("sign-audit-checkpoints").signed == 3
    before = [heads_of(tenant) for tenant in tenants]
    for tenant, [head] in zip(tenants, before, strict=True):
        last = verify_chain(tenant.read(lambda tx: tx.audit.records()))
        assert last is not None
        assert (head.seq, head.chain_hash) == (last.seq, last.chain_hash)
        verify(tenant, head, head_message(tenant.tenant_id, head.seq, head.chain_hash))
        for other in (
            head_message("other-corp-1", head.seq, head.chain_hash),
            head_message(tenant.tenant_id, head.seq + 1, head.chain_hash),
            head_message(tenant.tenant_id, head.seq, bytes(32)),
        ):
            with pytest.raises(InvalidSignature):
                verify(tenant, head, other)
    assert tenants[0].run_platform("sign-audit-checkpoints").signed == 0
    assert [heads_of(tenant) for tenant in tenants] == before


def test_every_stream_is_signed_in_one_run_also_of_three_hundred_tenants(parts, tenant) -> None:
    streams = [f"stream-{number:03}" for number in range(300)]
    for stream in streams:
        with parts.database.tenant_tx(stream) as tx:
            tx.audit.append(an_audit_event())
    assert tenant.run_platform("sign-audit-checkpoints").signed == len(streams)
    for stream in streams:
        with parts.database.tenant_tx(stream) as tx:
            assert len(tx.audit.signed_heads()) == 1, stream


def test_stream_whose_end_is_altered_is_rejected_and_delays_no_other(request_tenant, field) -> None:
    altered, *others = (request_tenant() for _ in range(3))
    for tenant in (altered, *others):
        tenant.run(Step.OPEN_RECORDS)
    with field.administrator() as administrator:
        administrator.execute(
            "update okcm.audit_head set chain_hash = sha256('altered') where tenant_id = %s", [altered.tenant_id]
        )
    with pytest.raises(DatabaseRefused):
        altered.run_platform("sign-audit-checkpoints")
    assert [len(heads_of(tenant)) for tenant in (altered, *others)] == [0, 1, 1]


def test_stream_whose_row_is_locked_delays_no_other(request_tenant, field) -> None:
    locked, *others = (request_tenant() for _ in range(3))
    for tenant in (locked, *others):
        tenant.run(Step.OPEN_RECORDS)
    with field.administrator() as administrator, administrator.transaction():
        administrator.execute("select from okcm.audit_head where tenant_id = %s for update", [locked.tenant_id])
        with pytest.raises(DatabaseUnavailable):
            locked.run_platform("sign-audit-checkpoints")
    assert [len(heads_of(tenant)) for tenant in (locked, *others)] == [0, 1, 1]


def test_public_key_is_recorded_before_a_checkpoint_signed_with_it(tenant, vault_admin):
    """An auditor has no access to the key server, so each new key is recorded automatically after a rotation."""
    tenant.run(Step.OPEN_RECORDS)
    tenant.run_platform("sign-audit-checkpoints")
    assert PlatformQueries(tenant.parts.database).audit_keys() == tenant.parts.signer.public_keys()
    vault_admin.write("transit/keys/audit-checkpoints/rotate", {})
    tenant.run(Step.CREATE_KEYS)
    tenant.run_platform("sign-audit-checkpoints")
    known = PlatformQueries(tenant.parts.database).audit_keys()
    first, second = heads_of(tenant)
    assert first.key != second.key
    keys = PublicKeys(known)
    for head in (first, second):
        message = head_message(tenant.tenant_id, head.seq, head.chain_hash)
        assert keys.check(head.key, message, head.signature).problem is None


def test_checkpoint_is_rejected_when_its_public_key_would_replace_another(tenant, field):
    """A new key server starts at version 1 again, and its checkpoints must not count for the former key."""
    tenant.run(Step.OPEN_RECORDS)
    [name] = list(tenant.parts.signer.public_keys())[-1:]
    PlatformQueries(field.open("worker", max_size=1)).record_audit_keys(Signer(name).public_keys())
    with pytest.raises(DatabaseRefused):
        tenant.run_platform("sign-audit-checkpoints")
    assert heads_of(tenant) == []
