"""Signing with the platform's audit key: the public key is on record before anything that it signed."""

from collections.abc import Sequence

from database.platform.scheduled import PlatformQueries
from vault.transit.audit_signer import TransitAuditSigner


class RecordedSigner:
    """Signs as `vault.transit.keys.AuditSigner` does; the key server rotates the key without telling us."""

    def __init__(self, platform: PlatformQueries, signer: TransitAuditSigner) -> None:
        self._platform = platform
        self._signer = signer
        self._known: frozenset[str] = frozenset()

    def sign_all(self, messages: Sequence[bytes]) -> Sequence[tuple[str, str]]:
        """Return signature and `key:version` of each message, with those keys on record."""
        signed = self._signer.sign_all(messages)
        if not self._known.issuperset(key for _, key in signed):
            keys = self._signer.public_keys()
            self._platform.record_audit_keys(keys)
            self._known = frozenset(keys)
        return signed
