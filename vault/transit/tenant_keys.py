"""L2 tenant keys in Transit (MTCI U1, U2): one per tenant, derived, never exportable; and their fingerprints.

Why a ciphertext cannot be moved: the whole context is input of Transit's key derivation (HKDF-SHA256). So every context
has a separate AES-GCM key, and decryption with any other context fails authentication. The context is not sent as
`associated_data`, because Transit's `rewrap` ignores it: that binding would be lost in a rotation of the key.

The session of the process creates, rotates, retires and disables keys. Their use requires the tenant's identity, so
that no process has permissions for all L2 keys and the server's audit log names the tenant of every use.

A fingerprint is an HMAC that Transit computes with a key beside each key version (MTCI U2). Transit gives every version
of an AES key a second key of 256 random bits, only for `transit/hmac`. It belongs to the version for life: it is the
same under another name and after a restore, and no other version has it. So equal fingerprints mean one key in two
places. It is not the AES key: the same AES bytes *imported* twice have two fingerprints. Imports are therefore denied
by policy, detected in the key's record, and tested by isolation checks (docs/isolation.md).

The HMAC is computed with the tenant's identity over one text that the policy fixes. Before it is stored, a second HMAC
is computed with a key that only the worker may use. Two calls.
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
        """Return the tenant's key; create it if missing, enable it if disabled; one call unless it is disabled."""
        name = ids.l2_key(tenant_id)
        return transit_key(name, ensure_key(self._session, name, _KIND, derived=True))

    def encrypt(self, context: EncryptionContext, plaintext: bytes) -> str:
        """Encrypt under `context.l2_key`, bound to the whole context as the module describes."""
        try:
            answer = self._use("encrypt", context, {"plaintext": encoded(plaintext)})
        except VaultRefused:
            # An encrypt with a missing key counts as its creation, which the tenant's policy denies with the same 403
            # as any other denial; only then a read distinguishes them.
            if self._session.read(f"transit/keys/{context.l2_key}") is None:
                raise KeyUnavailable from None
            raise
        return str(answer["ciphertext"])

    def decrypt(self, context: EncryptionContext, ciphertext: str) -> bytes:
        """Decrypt; raises WrongContext when key or context differ from those of the encryption, KeyUnavailable."""
        return decoded(self._use("decrypt", context, {"ciphertext": ciphertext})["plaintext"])

    def new_wrapped_key(self, context: EncryptionContext) -> str:
        """Return a new 256-bit key encrypted under `context.l2_key`; raises KeyUnavailable without that key.

        Vault creates the key and returns it only encrypted; the tenant's policy permits no plaintext.
        """
        return str(self._use("datakey/wrapped", context, {})["ciphertext"])

    def disable(self, tenant_id: str) -> None:
        """Disable the key at once and reversibly; without effect if it does not exist."""
        disable_key(self._session, ids.l2_key(tenant_id))

    def newest(self, tenant_id: str) -> TransitKey:
        """Return the key with its newest version; raises KeyUnavailable when it does not exist."""
        return transit_key(ids.l2_key(tenant_id), self._record(tenant_id))

    def rotate(self, tenant_id: str, expected_version: int) -> TransitKey:
        """Create the next version if the newest is `expected_version`; return the key with its newest version.

        Two concurrent calls can create two versions, which does no harm.
        """
        now = self.newest(tenant_id)
        if now.version != expected_version:
            return now
        with key_errors():
            self._session.write(f"transit/keys/{now.name}/rotate")
        return self.newest(tenant_id)

    def rewrap(self, items: Sequence[tuple[EncryptionContext, str]]) -> Sequence[str]:
        """Return ciphertexts of one tenant under the newest version, each tested.

        Transit authenticates each ciphertext that it rewraps. A second rewrap of the results, which is discarded,
        therefore tests them without their plaintext.
        """
        if not items:
            return []
        rewrapped = self._rewrapped(items)
        self._rewrapped([(context, ciphertext) for (context, _), ciphertext in zip(items, rewrapped, strict=True)])
        return rewrapped

    def retire(self, tenant_id: str, oldest: int) -> None:
        """Disable encryption and decryption with versions before `oldest`; a higher minimum stays in force."""
        record = self._record(tenant_id)
        if int(record["min_decryption_version"]) < oldest or int(record["min_encryption_version"]) < oldest:
            least = max(oldest, int(record["min_decryption_version"]))
            self._session.write(
                f"transit/keys/{ids.l2_key(tenant_id)}/config",
                {"min_decryption_version": least, "min_encryption_version": least},
            )

    def enable_versions(self, tenant_id: str, oldest: int) -> None:
        """Enable decryption with the versions from `oldest`; a lower minimum stays in force."""
        if int(self._record(tenant_id)["min_decryption_version"]) > oldest:
            self._session.write(f"transit/keys/{ids.l2_key(tenant_id)}/config", {"min_decryption_version": oldest})

    def trim(self, tenant_id: str, oldest: int) -> None:
        """Delete the versions before `oldest` irreversibly; the server deletes only retired ones."""
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
        first = items[0][0]
        if len(items) > REWRAP_BATCH or any(
            (c.tenant_id, c.l2_key) != (first.tenant_id, first.l2_key) for c, _ in items
        ):
            raise ValueError("one call rewraps a batch of one tenant's ciphertexts")
        batch = [{"ciphertext": ciphertext, "context": encoded(context.encode())} for context, ciphertext in items]
        with key_errors():
            answer = self._tenants.session(first.tenant_id).write(
                f"transit/rewrap/{first.l2_key}", {"batch_input": batch}
            )
            return batch_results(answer, "ciphertext")

    def _use(self, operation: str, context: EncryptionContext, data: dict[str, Any]) -> dict[str, Any]:
        calls = self._tenants.session(context.tenant_id)
        with key_errors():
            return calls.write(f"transit/{operation}/{context.l2_key}", data | {"context": encoded(context.encode())})


FINGERPRINT_TEXT = encoded(b"openkcm tenant key fingerprint")
"""The only HMAC input that policies/tenant.hcl permits."""


class TransitFingerprints:
    """Fingerprints of tenant keys, which reveal equal keys without access to them (MTCI U2).

    `session` has the worker's identity, `tenants` the tenants' identities.
    """

    def __init__(self, session: VaultClient, tenants: TenantSessions) -> None:
        self._session = session
        self._tenants = tenants

    def of(self, tenant_id: str, version: int) -> str:
        """Return the constant fingerprint of a version of the tenant's key, SHA-256 in hex.

        It is equal for the same key under two names or after a restore, and only then. Raises KeyUnavailable for a
        retired version, and for a missing or disabled key.
        """
        request = {"input": FINGERPRINT_TEXT, "key_version": version}
        with key_errors():
            taken = self._tenants.session(tenant_id).write(f"transit/hmac/{ids.l2_key(tenant_id)}", request)
        # Without the version's prefix, because one key may be the first version here and the second elsewhere.
        mac = encoded(_mac(taken["hmac"]))
        kept = self._session.write(f"transit/hmac/{FINGERPRINT_KEY}", {"input": mac, "key_version": "1"})
        return _mac(kept["hmac"]).hex()


def _mac(answer: str) -> bytes:
    return decoded(answer.rsplit(":", 1)[-1])
