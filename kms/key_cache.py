"""A cache of root keys that are ready for use; a change of a tenant drops its entries."""

import threading
from collections import OrderedDict
from collections.abc import Callable

from core.keys.encryption_context import EncryptionContext
from core.keys.root_keys import Credentials, Place, credentials_context
from kms.interfaces import RootKey
from kms.providers import RootKeyProviders

_MAX_ENTRIES = 131_072
"""Cached root keys; beyond it the least recently used ones are dropped.

Monitoring uses all keys in turn: if it used more, each check would decrypt the credentials again.
"""


class RootKeyCache:
    """The root keys of the platform and of customers; safe to share between threads."""

    def __init__(
        self,
        platform: Callable[[str], RootKey],
        customers: RootKeyProviders,
        reveal: Callable[[EncryptionContext, str], bytes],
    ) -> None:
        """`platform` returns the platform's root key of a region; `reveal` decrypts with a tenant's L2."""
        self._platform = platform
        self._customers = customers
        self._reveal = reveal
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[str, str], tuple[str, RootKey]] = OrderedDict()

    def platform(self, region: str) -> RootKey:
        """Return the platform's root key of a region."""
        return self._platform(region)

    def candidate(self, tenant_id: str, place: Place, credentials: Credentials) -> RootKey:
        """Return an unrecorded root key for a preflight; raises RootKeyRefused."""
        return self._customers.open(tenant_id, place, credentials)

    def held(self, tenant_id: str, root_key_id: str, place: Place, credentials: str) -> RootKey:
        """Return a customer's root key without a call to its server; `credentials` is a ciphertext under the L2.

        Raises: RootKeyRefused, KeyUnavailable, WrongContext, VaultUnavailable.
        """
        key = (tenant_id, root_key_id)
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and entry[0] == credentials:
                self._entries.move_to_end(key)
                return entry[1]
        plain = self._reveal(credentials_context(tenant_id, root_key_id), credentials)
        root_key = self._customers.open(tenant_id, place, Credentials.load(plain))
        with self._lock:
            self._entries[key] = (credentials, root_key)
            while len(self._entries) > _MAX_ENTRIES:
                self._entries.popitem(last=False)
        return root_key

    def forget(self, tenant_id: str) -> None:
        """Drop the cached root keys of a tenant."""
        with self._lock:
            for key in [key for key in self._entries if key[0] == tenant_id]:
                del self._entries[key]
