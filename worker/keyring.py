"""Data keys for workflow payloads: one per tenant, wrapped by the tenant's own payload key in Transit.

Until a tenant's payload key exists its few payloads, which carry ids only, lie under the platform's key. From
`learn` on (or from the first payload of the tenant that is opened here) they lie under the tenant's, so deleting that
one Transit key makes every later payload of the tenant unreadable, in histories and in backups alike. Nothing here
asks Vault while a payload is written: an alarm can be raised in a workflow while Vault is down. Nothing is evicted
but on purpose, when a tenant has left: a tenant has one data key of a few hundred bytes, and forgetting it puts its
payloads back under the platform's.
"""

import asyncio
import threading
from dataclasses import dataclass

from core import names as ids
from vault.transit.payload_keys import TransitPayloadKeys

PLATFORM_KEY = "payloads-platform"


@dataclass(frozen=True, slots=True)
class DataKey:
    """32 bytes for AES-256-GCM, beside the same bytes wrapped by the Transit key `key_name`."""

    key_name: str
    wrapped: str
    plain: bytes


class Keyring:
    def __init__(self, keys: TransitPayloadKeys) -> None:
        self._keys = keys
        self._lock = threading.Lock()
        self._platform: DataKey | None = None
        self._current: dict[str, DataKey] = {}
        self._opened: dict[str, DataKey] = {}

    def open_platform_key(self) -> None:
        """Fetch the platform's data key; needed once, before the first payload is written."""
        plain, wrapped = self._keys.new_data_key(PLATFORM_KEY)
        self._platform = DataKey(PLATFORM_KEY, wrapped, plain)

    def learn(self, tenant_id: str, data_key: bytes, wrapped: str) -> None:
        """Use this data key for the tenant from now on; the first one learned stays."""
        self._keep(DataKey(ids.payload_key(tenant_id), wrapped, data_key))

    def forget(self, tenant_id: str) -> None:
        """Forget the tenant's data keys, whose Transit key is destroyed: nothing here opens its payloads any more."""
        name = ids.payload_key(tenant_id)
        with self._lock:
            self._current.pop(name, None)
            self._opened = {wrapped: key for wrapped, key in self._opened.items() if key.key_name != name}

    def current(self, tenant_id: str | None) -> DataKey:
        """Return the key to write a payload with; `tenant_id` is None for the platform's own workflows."""
        if self._platform is None:
            raise RuntimeError("open_platform_key was not called")
        if tenant_id is None:
            return self._platform
        with self._lock:
            return self._current.get(ids.payload_key(tenant_id), self._platform)

    async def open(self, key_name: str, wrapped: str) -> bytes:
        """Return the data key a payload was written with, from memory or from Vault."""
        with self._lock:
            known = self._opened.get(wrapped)
            if known is not None and known.key_name == key_name:
                return known.plain
        if self._platform is not None and (key_name, wrapped) == (self._platform.key_name, self._platform.wrapped):
            return self._platform.plain
        plain = await asyncio.to_thread(self._keys.open_data_key, key_name, wrapped)
        self._keep(DataKey(key_name, wrapped, plain))
        return plain

    def _keep(self, key: DataKey) -> None:
        with self._lock:
            if key.key_name != PLATFORM_KEY:
                self._current.setdefault(key.key_name, key)
            self._opened[key.wrapped] = key
