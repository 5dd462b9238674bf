"""Customers' key servers without keys or network: each root key responds after a pause, fails, or is silent.

They measure and test root key monitoring itself. Tests of a root key's security use real servers.
"""

import time
from collections import Counter
from dataclasses import dataclass

from core.errors.keys import RootKeyTimeout
from core.keys.encryption_context import EncryptionContext
from core.keys.root_keys import OpenBaoKeyRef

CIPHERTEXT, PLAINTEXT = b"canary", b"plain"
"""The canary ciphertext of each root key, and what it decrypts to."""


class SimulatedHolders:
    """The root keys of all tenants, in place of `RootKeyCache`."""

    def __init__(self, pause: float = 0.0, timeout: float = 1.0) -> None:
        """Take the seconds of each response, and those until a call to a silent server fails."""
        self.pause = pause
        self.timeout = timeout
        self.silent = ""
        """The address of a server that does not respond within the timeout."""
        self.fails: dict[str, Exception] = {}
        """Errors by tenant."""
        self.pause_of_failure = 0.0
        self.plaintext = PLAINTEXT
        self.checks = Counter[str]()
        """Calls by tenant."""

    def held(self, tenant_id: str, _root_key_id: str, place: OpenBaoKeyRef, _credentials: str) -> "_SimulatedRootKey":
        return _SimulatedRootKey(self, tenant_id, place.address)

    def forget(self, _tenant_id: str) -> None:
        pass


@dataclass(frozen=True)
class _SimulatedRootKey:
    holders: SimulatedHolders
    tenant_id: str
    address: str

    def unwrap(self, context: EncryptionContext, wrapped: bytes) -> bytes:
        assert (context.tenant_id, wrapped) == (self.tenant_id, CIPHERTEXT)
        self.holders.checks[self.tenant_id] += 1
        if self.address == self.holders.silent:
            time.sleep(self.holders.timeout)
            raise RootKeyTimeout
        time.sleep(self.holders.pause)
        failed = self.holders.fails.get(self.tenant_id)
        if failed is not None:
            time.sleep(self.holders.pause_of_failure)
            raise failed
        return self.holders.plaintext
