"""An audit signing key for tests without a key server; it signs as `vault.transit.keys.AuditSigner` does."""

import base64
from collections.abc import Sequence

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from database.audit import SignedCheckpoint
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import head_message


class Signer:
    """`vault.transit.keys.AuditSigner` with a local key."""

    def __init__(self, name: str = "audit:1", key: ec.EllipticCurvePrivateKey | None = None) -> None:
        self.name, self.key = name, key or ec.generate_private_key(ec.SECP256R1())

    def sign(self, message: bytes) -> tuple[str, str]:
        return base64.b64encode(self.key.sign(message, ec.ECDSA(hashes.SHA256()))).decode(), self.name

    def sign_all(self, messages: Sequence[bytes]) -> Sequence[tuple[str, str]]:
        return [self.sign(message) for message in messages]

    def public_keys(self) -> dict[str, str]:
        pem = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return {self.name: pem.decode()}


SIGNER = Signer()


def sign_head(worker: Database, tenant_id: str, signer: Signer = SIGNER) -> SignedCheckpoint:
    """Sign the newest record of a tenant's stream and record the public key, as the worker does."""
    PlatformQueries(worker).record_audit_keys(signer.public_keys())
    with worker.tenant_tx(tenant_id) as tx:
        head = tx.audit.head()
        assert head is not None
        signature, key = signer.sign(head_message(tenant_id, head.seq, head.chain_hash))
        signed = SignedCheckpoint(head.seq, head.chain_hash, signature, key)
        tx.audit.save_signed_head(signed)
    return signed
