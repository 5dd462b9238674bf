"""Versions and states of all keys in Transit, for the comparison of the stores. Reads only."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from core import names as ids
from core.tenants.store_comparison import KeyState
from vault.auth.client import VaultClient

_AT_ONCE = 8
"""Transit has no read of several keys; a read takes about two milliseconds."""


class TransitKeyStates:
    def __init__(self, session: VaultClient) -> None:
        self._session = session

    def of_all_tenants(self) -> Mapping[str, KeyState]:
        """Return the keys of all tenants by name."""
        return self.of(name for name in self._session.list("transit/keys") if ids.tenant_of_key(name))

    def of(self, names: Iterable[str]) -> Mapping[str, KeyState]:
        """Return those of these keys that exist, by name."""
        listed = list(names)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = zip(listed, pool.map(self._state, listed), strict=True)
            return {name: state for name, state in found if state is not None}

    def _state(self, name: str) -> KeyState | None:
        record = self._session.read(f"transit/keys/{name}")
        if record is None:
            return None
        return KeyState(
            int(record["latest_version"]),
            int(record.get("min_decryption_version", 1)),
            max(int(record.get("min_available_version", 0)), 1),
            bool(record.get("soft_deleted")),
        )
