"""What every implementation of `vault.interfaces.AuditSigner` does. A subclass gives the fixture `signer`."""

import base64

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from config.public_keys import PublicKeys
from vault.interfaces import AuditSigner


class AuditSignerContract:
    def test_a_signature_verifies_offline_with_the_public_key_it_names(self, signer: AuditSigner) -> None:
        signature, key = signer.sign(b"head")
        public = load_pem_public_key(signer.public_keys()[key].encode())
        assert isinstance(public, ec.EllipticCurvePublicKey)
        public.verify(base64.b64decode(signature), b"head", ec.ECDSA(hashes.SHA256()))
        with pytest.raises(InvalidSignature):
            public.verify(base64.b64decode(signature), b"another head", ec.ECDSA(hashes.SHA256()))

    def test_several_messages_are_signed_each_for_itself_and_in_their_order(self, signer: AuditSigner) -> None:
        messages = [f"line {number}".encode() for number in range(20)]
        keys = PublicKeys(signer.public_keys())
        signed = signer.sign_all(messages)
        assert all(
            keys.check(key, message, signature).problem is None
            for message, (signature, key) in zip(messages, signed, strict=True)
        )
        assert keys.check(signed[0][1], messages[1], signed[0][0]).problem
        assert signer.sign_all([]) == []
