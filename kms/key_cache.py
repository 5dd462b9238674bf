"""Root keys ready for use, whoever holds them; what a process keeps of them is dropped when a tenant changes."""

import threading
from collections import OrderedDict
from collections.abc import Callable

from core.keys.encryption_context import EncryptionContext
from core.keys.root_keys import Credentials, Place, credentials_context
from kms.interfaces import RootKey
from kms.providers import RootKeyProviders

_MOST = 8192
"""Root keys kept ready; beyond it those that were not asked for the longest are forgotten."""


class RootKeyCache:
    """Every root key that a process may use, by who holds it.

    Safe to share between threads.
    """

    def __init__(
        self,
        platform: Callable[[str], RootKey],
        customers: RootKeyProviders,
        reveal: Callable[[EncryptionContext, str], bytes],
    ) -> None:
        """Take the platform's root key by region, and what decrypts under a tenant's L2."""
        self._platform = platform
        self._customers = customers
        self._reveal = reveal
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], tuple[str, RootKey]] = OrderedDict()

    def platform(self, region: str) -> RootKey:
        """Return the platform's own of a region."""
        return self._platform(region)

    def candidate(self, tenant_id: str, place: Place, credentials: Credentials) -> RootKey:
        """Return one that is not on record, to be tried; raises RootKeyRefused."""
        return self._customers.open(tenant_id, place, credentials)

    def held(self, tenant_id: str, root_key_id: str, place: Place, credentials: str) -> RootKey:
        """Return one that a customer holds; `credentials` is their ciphertext under the tenant's L2.

        Raises: RootKeyRefused, KeyUnavailable, WrongContext, VaultUnavailable; nothing is asked of the customer yet.
        """
        key = (tenant_id, root_key_id)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept[0] == credentials:
                self._kept.move_to_end(key)
                return kept[1]
        plain = self._reveal(credentials_context(tenant_id, root_key_id), credentials)
        opened = self._customers.open(tenant_id, place, Credentials.load(plain))
        with self._lock:
            self._kept[key] = (credentials, opened)
            while len(self._kept) > _MOST:
                self._kept.popitem(last=False)
        return opened

    def forget(self, tenant_id: str) -> None:
        """Drop what is kept ready of a tenant."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == tenant_id]:
                del self._kept[key]
