"""Fingerprints of tenant keys: an HMAC that Transit makes with what it keeps beside a version of a key (MTCI U2).

Transit gives every version of an AES key a second key, of 256 random bits, for `transit/hmac` alone. It stays with the
version for life: under another name and after a restore it is the same, and no other version has it. So equal
fingerprints mean one key in two places. It is not the AES key: the same AES bytes *imported* twice have two
fingerprints, which is why imports are refused by policy, looked for in the key's record, and tried for
(docs/isolation.md).

The HMAC is taken under the tenant's identity, of one text that the policy fixes, and goes through another HMAC under a
key that only the worker may use, before it is kept. Two calls.
"""

from core import names as ids
from vault.keys import decoded, encoded, key_errors
from vault.session import VaultCalls
from vault.setup import FINGERPRINT_KEY
from vault.tokens import TenantSessions

FINGERPRINT_TEXT = encoded(b"openkcm tenant key fingerprint")
"""Stands in policies/tenant.hcl too, as the only input that is taken."""


class TransitFingerprints:
    """What tells two tenant keys apart without opening either (MTCI U2).

    `session` is the worker's, `tenants` speaks for tenants.
    """

    def __init__(self, session: VaultCalls, tenants: TenantSessions) -> None:
        self._session = session
        self._tenants = tenants

    def of(self, tenant_id: str, version: int) -> str:
        """Return the fingerprint of a version of the tenant's key, SHA-256 in hex, the same for good.

        The same for a key that lies under two names or was restored from a backup, and for nothing else. Raises
        KeyUnavailable for a version that is retired, and for a key that is missing or disabled.
        """
        request = {"input": FINGERPRINT_TEXT, "key_version": version}
        with key_errors():
            taken = self._tenants.session(tenant_id).write(f"transit/hmac/{ids.l2_key(tenant_id)}", request)
        # Without the version's number in front: one key may be the first version here and the second there.
        mac = encoded(_mac(taken["hmac"]))
        kept = self._session.write(f"transit/hmac/{FINGERPRINT_KEY}", {"input": mac, "key_version": "1"})
        return _mac(kept["hmac"]).hex()


def _mac(answer: str) -> bytes:
    return decoded(answer.rsplit(":", 1)[-1])
