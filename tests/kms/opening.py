"""Unwraps service keys as the crypto service does, with its code, role and identity, and without a cache.

with Opener(settings) as opener:
    before = opener.open_all(TENANT, REGION)       # (service, version) → L3
    ciphertext = opener.encrypt(before["orders", 1])
"""

import asyncio
import os
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from config.settings import Settings
from core import names as ids
from core.keys.rotation import KeyState
from core.tenants.lifecycle import State
from crypto_service import wiring
from crypto_service.interfaces import ClientIdentity
from crypto_service.keys.key_cache import ServiceKeyCache
from crypto_service.keys.lock_checks import LockCheckedTenantKeys, LockChecks
from database.connection.database import Database
from kms.key_cache import RootKeyCache
from kms.platform import PlatformRootKey
from kms.providers import RootKeyProviders
from vault.auth.client import VaultSession
from vault.auth.tenant_tokens import InlineTenants
from vault.tenant_locks import TenantLocks
from vault.transit.root_keys import TransitRootKeys
from worker.wiring import reach

Result = TypeVar("Result")
Estate = dict[tuple[str, int], bytes]
"""Every version of a service key that decrypts callers' ciphertexts, unwrapped."""


class _Here:
    """A `BlockingExecutor` that runs the work directly, and `Invalidations` without subscribers."""

    async def run(self, _tenant_id: str, work: Callable[[], Result]) -> Result:
        return work()

    def subscribe(self, forget: Callable[[str | None], None]) -> None:
        """Ignore the subscriber, because no key is cached."""

    async def opened(self, _tenant_id: str, _service: str, _version: int) -> None:
        pass


class Opener:
    """A crypto service's key access, for one thread."""

    def __init__(self, settings: Settings, database: Database | None = None) -> None:
        self._known = wiring.read_credentials(settings)
        self._settings = settings
        self.database = database or wiring.open_database(settings, self._known, 2)
        self._keyring = self._new_keyring()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.database.close()

    def open(self, tenant_id: str, region: str, service: str, version: int) -> bytes:
        """Return an L3; raises the errors that the crypto service returns to its callers."""
        caller = ClientIdentity(tenant_id, service, ids.l2_key(tenant_id), region, "", State.ACTIVE)
        try:
            return asyncio.run(self._keyring.key(caller, version)).material
        except BaseException:
            self._keyring = self._new_keyring()  # the cache keeps a failure for half a second; a new one calls again
            raise

    def open_all(self, tenant_id: str, region: str) -> Estate:
        with self.database.tenant_tx(tenant_id) as tx:
            keys = tx.services.keys()
        return {
            (key.service, key.version): self.open(tenant_id, region, key.service, key.version)
            for key in keys
            if key.state in {KeyState.ACTIVE, KeyState.DEACTIVATED}
        }

    def _new_keyring(self) -> ServiceKeyCache:
        known, settings, here = self._known, self._settings, _Here()
        vault = VaultSession(settings.vault_url, "crypto", known.vault_secret)
        tenant_keys = LockCheckedTenantKeys(
            vault,
            InlineTenants(vault, known.identity_pem, "crypto"),
            LockChecks(TenantLocks(vault), here, here, cache_seconds=0),
        )
        root_keys = TransitRootKeys(vault)
        shelf = RootKeyCache(
            lambda region: PlatformRootKey(root_keys, region), RootKeyProviders(reach(settings)), tenant_keys.decrypt
        )
        return ServiceKeyCache(self.database, tenant_keys, shelf, here, here, cache_seconds=0, opened=here.opened)


def encrypt(key: bytes, plaintext: bytes) -> bytes:
    nonce = os.urandom(12)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, None)


def decrypt(key: bytes, ciphertext: bytes) -> bytes:
    return AESGCM(key).decrypt(ciphertext[:12], ciphertext[12:], None)
