"""L2 tenant keys in Transit (MTCI U1, U2): one per tenant, derived, never exportable.

Why a ciphertext cannot be moved: the whole context goes into Transit's key derivation (HKDF-SHA256), so every context
has an AES-GCM key of its own and any other context fails authentication. It does not go into `associated_data`, which
Transit's `rewrap` ignores: a binding made there could not survive a rotation of the key.

Keys are made and disabled by the process's session. They are used only under the tenant's own identity, so that no
process holds a right to any L2 key and the server's audit names the tenant of every use.
"""

from typing import Any

from tenancy import ids
from tenancy.binding import Context
from tenancy.errors import KeyUnavailable, VaultRefused
from vault.interfaces import TransitKey
from vault.keys import decoded, disable_key, encoded, ensure_key, key_errors, transit_key
from vault.session import VaultCalls
from vault.tokens import TenantSessions


class TransitTenantKeys:
    """`interfaces.TenantKeys` over Transit."""

    def __init__(self, session: VaultCalls, tenants: TenantSessions) -> None:
        self._session = session
        self._tenants = tenants

    def ensure(self, tenant_id: str) -> TransitKey:
        """Return the tenant's key, made if missing, enabled if it was disabled; one call when it is not disabled."""
        name = ids.l2_key(tenant_id)
        return transit_key(name, ensure_key(self._session, name, "aes256-gcm96", derived=True))

    def encrypt(self, context: Context, plaintext: bytes) -> str:
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

    def decrypt(self, context: Context, ciphertext: str) -> bytes:
        """Raises WrongContext when key or context differ from encryption, KeyUnavailable when there is no key."""
        return decoded(self._use("decrypt", context, {"ciphertext": ciphertext})["plaintext"])

    def new_wrapped_key(self, context: Context) -> str:
        """Return 256 random bits encrypted under `context.l2_key`; raises KeyUnavailable when there is no key.

        The bits are made in Vault and leave it only encrypted; the tenant's policy has no path to the plain form.
        """
        return str(self._use("datakey/wrapped", context, {})["ciphertext"])

    def disable(self, tenant_id: str) -> None:
        """Make the key refuse everything, reversibly, at once. A key that does not exist is already disabled."""
        disable_key(self._session, ids.l2_key(tenant_id))

    def _use(self, operation: str, context: Context, data: dict[str, Any]) -> dict[str, Any]:
        calls = self._tenants.session(context.tenant_id)
        with key_errors():
            return calls.write(f"transit/{operation}/{context.l2_key}", data | {"context": encoded(context.encode())})
