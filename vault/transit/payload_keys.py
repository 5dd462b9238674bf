"""The Transit keys that wrap the data keys of workflow payloads: AES-GCM, one for each tenant and the platform's.

The key server rotates them every 90 days. No version is ever retired, so histories stay readable as long as they exist.

They are not derived, because the codec knows only the key's name, from the payload. The associated data of the
payload's encryption, outside Vault, binds a payload to its label.
"""

from core import names as ids
from vault.auth.client import VaultClient
from vault.setup import PAYLOAD_KEY_PERIOD
from vault.transit.keys import TransitKey, decoded, ensure_key, key_errors, transit_key

_DATA_KEY_BYTES = 32


class TransitPayloadKeys:
    """The Transit keys that wrap the data keys of workflow payloads."""

    def __init__(self, session: VaultClient) -> None:
        self._session = session

    def ensure(self, tenant_id: str) -> TransitKey:
        """Return the tenant's payload key; create it if missing."""
        name = ids.payload_key(tenant_id)
        record = ensure_key(self._session, name, "aes256-gcm96", derived=False, auto_rotate=PAYLOAD_KEY_PERIOD)
        return transit_key(name, record)

    def new_data_key(self, key_name: str) -> tuple[bytes, str]:
        """Return a new 32-byte data key and its wrap; raises KeyUnavailable when the key does not exist."""
        with key_errors():
            answer = self._session.write(f"transit/datakey/plaintext/{key_name}", {"bits": _DATA_KEY_BYTES * 8})
        return decoded(answer["plaintext"]), str(answer["ciphertext"])

    def open_data_key(self, key_name: str, wrapped: str) -> bytes:
        """Unwrap a data key; raises WrongContext for a wrap of another key, KeyUnavailable when the key is missing."""
        with key_errors():
            answer = self._session.write(f"transit/decrypt/{key_name}", {"ciphertext": wrapped})
        return decoded(answer["plaintext"])
