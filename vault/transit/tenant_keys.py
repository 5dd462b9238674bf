"""L2 tenant keys in Transit (MTCI U1, U2): one per tenant, derived, never exportable.

Why a ciphertext cannot be moved: the whole context goes into Transit's key derivation (HKDF-SHA256), so every context
has an AES-GCM key of its own and any other context fails authentication. It does not go into `associated_data`, which
Transit's `rewrap` ignores: a binding made there could not survive a rotation of the key.

Keys are made, rotated, retired and disabled by the process's session. They are used only
under the tenant's own identity, so that no process holds a right to any L2 key and the server's audit names the tenant
of every use.

Fingerprints of tenant keys: an HMAC that Transit makes with what it keeps beside a version of a key (MTCI U2).

Transit gives every version of an AES key a second key, of 256 random bits, for `transit/hmac` alone. It stays with the
version for life: under another name and after a restore it is the same, and no other version has it. So equal
fingerprints mean one key in two places. It is not the AES key: the same AES bytes *imported* twice have two
fingerprints, which is why imports are refused by policy, looked for in the key's record, and tried for
(docs/isolation.md).

The HMAC is taken under the tenant's identity, of one text that the policy fixes, and goes through another HMAC under a
key that only the worker may use, before it is kept. Two calls.
"""

from collections.abc import Sequence
from typing import Any

from core import names as ids
from core.errors.keys import KeyUnavailable
from core.errors.platform import VaultRefused
from core.keys.encryption_context import EncryptionContext
from vault.auth.client import VaultClient
from vault.auth.tenant_tokens import TenantSessions
from vault.setup import FINGERPRINT_KEY
from vault.transit.keys import (
    REWRAP_BATCH,
    TransitKey,
    batch_results,
    decoded,
    disable_key,
    encoded,
    ensure_key,
    key_errors,
    require_key,
    transit_key,
)

_KIND = "aes256-gcm96"


class TransitTenantKeys:
    """L2 tenant keys (MTCI U1, U2): aes256-gcm96, derived, never exportable, upsert off."""

    def __init__(self, session: VaultClient, tenants: TenantSessions) -> None:
        self._session = session
        self._tenants = tenants

    def ensure(self, tenant_id: str) -> TransitKey:
        """Return the tenant's key, made if missing, enabled if it was disabled; one call when it is not disabled."""
        name = ids.l2_key(tenant_id)
        return transit_key(name, ensure_key(self._session, name, _KIND, derived=True))

    def encrypt(self, context: EncryptionContext, plaintext: bytes) -> str:
        """Encrypt under `context.l2_key`; see the module for why it is bound to the whole context."""
        try:
            answer = self._use("encrypt", context, {"plaintext": encoded(plaintext)})
        except VaultRefused:
            # An encrypt on a missing key counts as making one, which the tenant's policy refuses with the same 403
            # as everything else; only then is it worth asking.
            if self._session.read(f"transit/keys/{context.l2_key}") is None:
                raise KeyUnavailable from None
            raise
        return str(answer["ciphertext"])

    def decrypt(self, context: EncryptionContext, ciphertext: str) -> bytes:
        """Raises WrongContext when key or context differ from encryption, KeyUnavailable when there is no key."""
        return decoded(self._use("decrypt", context, {"ciphertext": ciphertext})["plaintext"])

    def new_wrapped_key(self, context: EncryptionContext) -> str:
        """Return 256 random bits encrypted under `context.l2_key`; raises KeyUnavailable when there is no key.

        The bits are made in Vault and leave it only encrypted; the tenant's policy has no path to the plain form.
        """
        return str(self._use("datakey/wrapped", context, {})["ciphertext"])

    def disable(self, tenant_id: str) -> None:
        """Make the key refuse everything, reversibly, at once. A key that does not exist is already disabled."""
        disable_key(self._session, ids.l2_key(tenant_id))

    def newest(self, tenant_id: str) -> TransitKey:
        """Return the key as it is, with its newest version; raises KeyUnavailable when there is none."""
        return transit_key(ids.l2_key(tenant_id), self._record(tenant_id))

    def rotate(self, tenant_id: str, expected_version: int) -> TransitKey:
        """Make the next version if the newest is still `expected_version`; return the key with its newest version.

        Two that do so at the same moment can make two versions, which does no harm.
        """
        now = self.newest(tenant_id)
        if now.version != expected_version:
            return now
        with key_errors():
            self._session.write(f"transit/keys/{now.name}/rotate")
        return self.newest(tenant_id)

    def rewrap(self, items: Sequence[tuple[EncryptionContext, str]]) -> Sequence[str]:
        """Return ciphertexts of one tenant under the newest version, each seen to open.

        Transit authenticates whatever it rewraps, so rewrapping the results once more, for nothing, is how they are
        opened without a plaintext that would have to be trusted to anybody.
        """
        if not items:
            return []
        rewrapped = self._rewrapped(items)
        self._rewrapped([(context, ciphertext) for (context, _), ciphertext in zip(items, rewrapped, strict=True)])
        return rewrapped

    def retire(self, tenant_id: str, oldest: int) -> None:
        """Let no version before `oldest` encrypt or decrypt. A key that is further already stays so."""
        record = self._record(tenant_id)
        if int(record["min_decryption_version"]) < oldest or int(record["min_encryption_version"]) < oldest:
            least = max(oldest, int(record["min_decryption_version"]))
            self._session.write(
                f"transit/keys/{ids.l2_key(tenant_id)}/config",
                {"min_decryption_version": least, "min_encryption_version": least},
            )

    def trim(self, tenant_id: str, oldest: int) -> None:
        """Delete the versions before `oldest` for good; the server does so only with those that are retired."""
        if int(self._record(tenant_id).get("min_available_version", 0)) < oldest:
            self._session.write(f"transit/keys/{ids.l2_key(tenant_id)}/trim", {"min_available_version": oldest})

    def _record(self, tenant_id: str) -> dict[str, Any]:
        name = ids.l2_key(tenant_id)
        record = self._session.read(f"transit/keys/{name}")
        if record is None:
            raise KeyUnavailable
        require_key(record, name, _KIND, derived=True)
        return record

    def _rewrapped(self, items: Sequence[tuple[EncryptionContext, str]]) -> list[str]:
        place = items[0][0]
        if len(items) > REWRAP_BATCH or any(
            (c.tenant_id, c.l2_key) != (place.tenant_id, place.l2_key) for c, _ in items
        ):
            raise ValueError("one call rewraps a batch of one tenant's ciphertexts")
        batch = [{"ciphertext": ciphertext, "context": encoded(context.encode())} for context, ciphertext in items]
        with key_errors():
            answer = self._tenants.session(place.tenant_id).write(
                f"transit/rewrap/{place.l2_key}", {"batch_input": batch}
            )
            return batch_results(answer, "ciphertext")

    def _use(self, operation: str, context: EncryptionContext, data: dict[str, Any]) -> dict[str, Any]:
        calls = self._tenants.session(context.tenant_id)
        with key_errors():
            return calls.write(f"transit/{operation}/{context.l2_key}", data | {"context": encoded(context.encode())})


FINGERPRINT_TEXT = encoded(b"openkcm tenant key fingerprint")
"""Stands in policies/tenant.hcl too, as the only input that is taken."""


class TransitFingerprints:
    """What tells two tenant keys apart without opening either (MTCI U2).

    `session` is the worker's, `tenants` speaks for tenants.
    """

    def __init__(self, session: VaultClient, tenants: TenantSessions) -> None:
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
