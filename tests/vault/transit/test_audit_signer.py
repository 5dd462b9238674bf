import base64

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from openkcm.verification.erasure_certificate import certificate_file, shred_message, statement_text, verify_certificate
from openkcm.verification.public_keys import PublicKeys
from openkcm.verification.results import SignatureState
from tests.core.proving import TENANT, a_statement, a_stream
from vault.auth.client import VaultSession
from vault.transit.audit_signer import TransitAuditSigner


@pytest.fixture
def signer(worker: VaultSession) -> TransitAuditSigner:
    return TransitAuditSigner(worker)


def test_a_signature_verifies_offline_with_the_public_key_it_names(signer: TransitAuditSigner) -> None:
    signature, key = signer.sign(b"head")
    public = load_pem_public_key(signer.public_keys()[key].encode())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(base64.b64decode(signature), b"head", ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(signature), b"another head", ec.ECDSA(hashes.SHA256()))


def test_message_above_the_servers_limit_for_requests_is_signed(signer: TransitAuditSigner) -> None:
    message = bytes(33 * 2**20)
    signature, key = signer.sign(message)
    assert PublicKeys(signer.public_keys()).check(key, message, signature).problem is None


def test_messages_are_signed_one_by_one_in_their_order(signer: TransitAuditSigner) -> None:
    messages = [f"line {number}".encode() for number in range(20)]
    keys = PublicKeys(signer.public_keys())
    signed = signer.sign_all(messages)
    for message, (signature, key) in zip(messages, signed, strict=True):
        assert keys.check(key, message, signature).problem is None
    assert keys.check(signed[0][1], messages[1], signed[0][0]).problem
    assert signer.sign_all([]) == []


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
    admin.write("transit/keys/audit-checkpoints/rotate", {})
    after = signer.sign(b"head")
    keys = PublicKeys(signer.public_keys())
    assert before[1] != after[1]
    for signature, key in (before, after):
        assert keys.check(key, b"head", signature).problem is None
    assert keys.check(after[1], b"head", before[0]).problem is not None
