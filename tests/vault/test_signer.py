import pytest

from config.public_keys import PublicKeys
from tenancy.proofs import SignatureState
from tenancy.shred import certificate_file, shred_message, statement_text, verify_certificate
from tests.contracts.audit_signer import AuditSignerContract
from tests.tenancy.proving import TENANT, a_statement, a_stream
from vault.session import VaultSession
from vault.signer import TransitAuditSigner


@pytest.fixture
def signer(worker: VaultSession) -> TransitAuditSigner:
    return TransitAuditSigner(worker)


class TestTransitAuditSigner(AuditSignerContract):
    pass


def test_a_certificate_signed_at_the_key_server_verifies_offline_and_no_altered_one_does(
    signer: TransitAuditSigner,
) -> None:
    text = statement_text(a_statement(a_stream(3)))
    document = certificate_file(text, *signer.sign(shred_message(TENANT, text)))
    keys = PublicKeys.read(PublicKeys(signer.public_keys()).file())
    verdict, statement = verify_certificate(document.encode(), keys.check)
    assert (verdict.intact, verdict.signature) == (True, SignatureState.VERIFIED)
    assert statement == a_statement(a_stream(3))
    other = statement_text(a_statement(a_stream(4)))
    forged = certificate_file(other, *signer.sign(shred_message(TENANT, text)))
    assert verify_certificate(forged.encode(), keys.check)[0].signature is SignatureState.REFUSED


def test_after_a_rotation_both_versions_verify_what_each_of_them_signed(
    signer: TransitAuditSigner, admin: VaultSession
) -> None:
    before = signer.sign(b"head")
    admin.write("transit/keys/audit-heads/rotate", {})
    after = signer.sign(b"head")
    keys = PublicKeys(signer.public_keys())
    assert before[1] != after[1]
    for signature, key in (before, after):
        assert keys.check(key, b"head", signature).problem is None
    assert keys.check(after[1], b"head", before[0]).problem is not None
