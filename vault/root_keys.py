"""The platform's own root keys (L1) in Transit: one for each region, derived, never exportable.

Bound to their context by key derivation, like L2 keys (see `transit`). The worker makes them, wraps, and unwraps when a
tenant changes its root key; the crypto service wraps and unwraps and can do nothing else to them (policies/worker.hcl,
policies/crypto.hcl).
"""

from typing import Any

from tenancy import ids
from tenancy.errors import KeyUnavailable, VaultRefused, WrongContext
from vault.interfaces import TransitKey
from vault.keys import decoded, encoded, ensure_key, key_errors, transit_key
from vault.session import VaultCalls


class TransitRootKeys:
    """`interfaces.RootKeys` over Transit. What is wrapped is Transit's own text form, as bytes."""

    def __init__(self, session: VaultCalls) -> None:
        self._session = session

    def ensure(self, region: str) -> TransitKey:
        """Return the region's key, made if missing, enabled if it was disabled; raises ConflictingResource."""
        name = ids.root_key(region)
        return transit_key(name, ensure_key(self._session, name, "aes256-gcm96", derived=True))

    def wrap(self, root_key: str, context: bytes, inner: bytes) -> bytes:
        """Encrypt `inner` bound to `context`; raises KeyUnavailable."""
        try:
            answer = self._use("encrypt", root_key, context, {"plaintext": encoded(inner)})
        except VaultRefused:
            # A missing key is refused like everything else (see transit.encrypt); a process that may not look at keys
            # is refused once more, and says that it was refused.
            if self._session.read(f"transit/keys/{root_key}") is None:
                raise KeyUnavailable from None
            raise
        return str(answer["ciphertext"]).encode("ascii")

    def unwrap(self, root_key: str, context: bytes, wrapped: bytes) -> bytes:
        """Decrypt; raises WrongContext when key or context differ from wrapping, KeyUnavailable."""
        try:
            ciphertext = wrapped.decode("ascii")
        except UnicodeDecodeError:
            raise WrongContext from None
        return decoded(self._use("decrypt", root_key, context, {"ciphertext": ciphertext})["plaintext"])

    def _use(self, operation: str, root_key: str, context: bytes, data: dict[str, Any]) -> dict[str, Any]:
        with key_errors():
            return self._session.write(f"transit/{operation}/{root_key}", data | {"context": encoded(context)})
