"""Signatures of checkpoints with a Transit key; anyone can verify them with the public keys and SHA-256 (ES256)."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from core.errors.keys import KeyUnavailable
from vault.auth.client import VaultClient
from vault.setup import AUDIT_KEY
from vault.transit.keys import encoded, key_errors


class TransitAuditSigner:
    """A signer with a Transit key: ECDSA P-256 over SHA-256, signatures in base64 DER."""

    def __init__(self, session: VaultClient, key: str = AUDIT_KEY) -> None:
        self._session = session
        self._key = key

    def sign(self, message: bytes) -> tuple[str, str]:
        """Return the signature (base64 of the DER form) and its `key:version`; raises KeyUnavailable.

        Only the digest is sent, because the key server rejects requests above 32 MiB: the erasure certificate of a
        tenant with tens of thousands of services is larger.
        """
        digest = hashlib.sha256(message).digest()
        with key_errors():
            answer = self._session.write(
                f"transit/sign/{self._key}/sha2-256",
                {"input": encoded(digest), "prehashed": True, "marshaling_algorithm": "asn1"},
            )
        return self._signed(answer)

    def sign_all(self, messages: Sequence[bytes]) -> Sequence[tuple[str, str]]:
        """Return signature and `key:version` for each message, in one call; raises KeyUnavailable if any one fails."""
        if not messages:
            return []
        with key_errors():
            answer = self._session.write(
                f"transit/sign/{self._key}/sha2-256",
                {"batch_input": [{"input": encoded(message)} for message in messages], "marshaling_algorithm": "asn1"},
            )
        signed = [self._signed(one) for one in answer["batch_results"]]
        if len(signed) != len(messages):
            raise KeyUnavailable
        return signed

    def _signed(self, answer: Mapping[str, Any]) -> tuple[str, str]:
        if "signature" not in answer:  # the server's error text may contain secrets
            raise KeyUnavailable
        _, version, signature = str(answer["signature"]).split(":")
        return signature, f"{self._key}:{version.removeprefix('v')}"

    def public_keys(self) -> dict[str, str]:
        """Return `key:version` → PEM of every public key for checkpoints."""
        record = self._session.read(f"transit/keys/{self._key}") or {"keys": {}}
        return {f"{self._key}:{version}": str(key["public_key"]) for version, key in record["keys"].items()}
