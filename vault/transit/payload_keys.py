"""The keys that wrap the data keys of workflow payloads: plain AES-GCM in Transit, one per tenant and the platform's.

They are not derived: the codec that opens a payload knows the key's name from the payload and nothing else. What ties
a payload to its place is the associated data of its own encryption, which is not Vault's business.
"""

from core import names as ids
from vault.auth.client import VaultClient
from vault.transit.keys import TransitKey, decoded, ensure_key, key_errors, transit_key

_DATA_KEY_BYTES = 32


class TransitPayloadKeys:
    """The Transit keys that wrap the data keys of workflow payloads."""

    def __init__(self, session: VaultClient) -> None:
        self._session = session

    def ensure(self, tenant_id: str) -> TransitKey:
        """Return the tenant's payload key, made if missing."""
        name = ids.payload_key(tenant_id)
        return transit_key(name, ensure_key(self._session, name, "aes256-gcm96", derived=False))

    def new_data_key(self, key_name: str) -> tuple[bytes, str]:
        """Return 32 random bytes and the same wrapped; raises KeyUnavailable when there is no such key."""
        with key_errors():
            answer = self._session.write(f"transit/datakey/plaintext/{key_name}", {"bits": _DATA_KEY_BYTES * 8})
        return decoded(answer["plaintext"]), str(answer["ciphertext"])

    def open_data_key(self, key_name: str, wrapped: str) -> bytes:
        """Return the data key; raises WrongContext when it was wrapped by another, KeyUnavailable without the key."""
        with key_errors():
            answer = self._session.write(f"transit/decrypt/{key_name}", {"ciphertext": wrapped})
        return decoded(answer["plaintext"])
