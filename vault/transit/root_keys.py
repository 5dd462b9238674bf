"""The platform's root keys (L1) in Transit: one for each region, derived, never exportable.

Key derivation binds a wrap to its context, as for L2 keys (see `tenant_keys`). The worker creates the keys, wraps, and
unwraps when a tenant changes its root key. The crypto service can only wrap and unwrap (policies/worker.hcl,
policies/crypto.hcl).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from core import names as ids
from core.errors.keys import KeyUnavailable, WrongContext
from core.errors.platform import VaultRefused
from vault.auth.client import VaultClient
from vault.transit.keys import TransitKey, batch_results, decoded, encoded, ensure_key, key_errors, transit_key


class TransitRootKeys:
    """The platform's root keys (L1), one Transit key for each region, derived, never exportable.

    A wrap is Transit's text format, as bytes.
    """

    def __init__(self, session: VaultClient) -> None:
        self._session = session

    def ensure(self, region: str) -> TransitKey:
        """Return the region's key; create it if missing, enable it if disabled; raises ConflictingResource."""
        name = ids.root_key(region)
        return transit_key(name, ensure_key(self._session, name, "aes256-gcm96", derived=True))

    def wrap(self, root_key: str, context: bytes, inner: bytes) -> bytes:
        """Encrypt `inner`, bound to `context`; raises KeyUnavailable."""
        with self._detect_missing_key(root_key):
            answer = self._use("encrypt", root_key, {"plaintext": encoded(inner), "context": encoded(context)})
        return str(answer["ciphertext"]).encode("ascii")

    def unwrap(self, root_key: str, context: bytes, wrapped: bytes) -> bytes:
        """Decrypt; raises WrongContext when key or context differ from those of the encryption, KeyUnavailable."""
        item = {"ciphertext": _text(wrapped), "context": encoded(context)}
        return decoded(self._use("decrypt", root_key, item)["plaintext"])

    def wrap_all(self, root_key: str, items: Sequence[tuple[bytes, bytes]]) -> Sequence[bytes]:
        """Encrypt each item with its context in one call; raises as `wrap`. Only the worker's policy permits it."""
        batch = [{"plaintext": encoded(inner), "context": encoded(context)} for context, inner in items]
        with self._detect_missing_key(root_key):
            return [
                ciphertext.encode("ascii") for ciphertext in self._use_all("encrypt", root_key, batch, "ciphertext")
            ]

    def unwrap_all(self, root_key: str, items: Sequence[tuple[bytes, bytes]]) -> Sequence[bytes]:
        """Decrypt each item with its context in one call; raises as `unwrap` when one fails."""
        batch = [{"ciphertext": _text(wrapped), "context": encoded(context)} for context, wrapped in items]
        return [decoded(plaintext) for plaintext in self._use_all("decrypt", root_key, batch, "plaintext")]

    def _use(self, operation: str, root_key: str, data: dict[str, Any]) -> dict[str, Any]:
        with key_errors():
            return self._session.write(f"transit/{operation}/{root_key}", data)

    def _use_all(self, operation: str, root_key: str, batch: list[dict[str, str]], field: str) -> list[str]:
        if not batch:
            return []
        with key_errors():
            # Without this code a failed item makes the whole call fail without a reason.
            answer = self._use(operation, root_key, {"batch_input": batch, "partial_failure_response_code": 200})
            return batch_results(answer, field)

    @contextmanager
    def _detect_missing_key(self, root_key: str) -> Iterator[None]:
        """Distinguish a missing key from a denial.

        The server denies the use of a missing key with the same status. A process that may not read keys gets a second
        denial, which it raises.
        """
        try:
            yield
        except VaultRefused:
            if self._session.read(f"transit/keys/{root_key}") is None:
                raise KeyUnavailable from None
            raise


def _text(wrapped: bytes) -> str:
    try:
        return wrapped.decode("ascii")
    except UnicodeDecodeError:
        raise WrongContext from None
