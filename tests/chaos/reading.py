"""A reader that continuously unwraps every service key of a tenant during changes and kills."""

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Self

from core.errors.keys import RootKeyUnreachable
from core.errors.platform import DatabaseUnavailable, VaultUnavailable
from openkcm.errors import OpenKcmError
from tests.chaos.field import REGION, Field
from tests.kms.opening import Estate, Opener, decrypt, encrypt

_PAUSE_SECONDS = 0.03
"""Between two rounds of the reader, so that the observed processes get CPU time."""
_OUTAGES: dict[str, tuple[type[OpenKcmError], ...]] = {
    # The platform's own root key is stored there, too.
    "openbao": (VaultUnavailable, RootKeyUnreachable),
    "postgres": (DatabaseUnavailable,),
}
"""The errors that a reader may get after the kill of a server; none for other servers."""


@dataclass
class Reader:
    """`with Reader(...)`: unwraps every service key in a loop, in a thread, and records errors.

    It encrypts in each round, before, during and after the change. A version must remain the same key. A version that
    exists at the beginning must remain, unless it is `replaced`.
    """

    settings_of: Field
    tenant_id: str
    estate: Estate
    killed: Collection[str]
    replaced: bool = False
    rounds: int = 0
    wrong: list[str] = field(default_factory=list)
    ciphertexts: list[tuple[tuple[str, int], bytes]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_why: object) -> None:
        self._enough.set()
        self._thread.join(30)

    def _read(self) -> None:
        expected = tuple(error for target in self.killed for error in _OUTAGES.get(target, ()))
        seen = dict(self.estate)
        with Opener(self.settings_of.settings) as opener:
            while not self._enough.is_set():
                try:
                    found = opener.open_all(self.tenant_id, REGION)
                except OpenKcmError as error:
                    if not isinstance(error, expected):
                        self.wrong.append(f"{error.code}: {error.message}")
                    time.sleep(_PAUSE_SECONDS)
                except Exception as unexpected:  # noqa: BLE001 - the test must report any error
                    self.wrong.append(repr(unexpected))
                    return
                else:
                    self.rounds += 1
                    if any(seen.setdefault(place, key) != key for place, key in found.items()):
                        self.wrong.append("a version has another key")
                    if not self.replaced and not self.estate.keys() <= found.keys():
                        self.wrong.append("an earlier version is missing")
                    place = max(found)
                    self.ciphertexts.append((place, encrypt(found[place], b"meanwhile")))
                    time.sleep(_PAUSE_SECONDS)

    def assert_no_errors(self, estate: Estate) -> None:
        """Assert that no error occurred, and that everything encrypted meanwhile decrypts with the present keys."""
        assert not self.wrong, self.wrong
        assert self.rounds > 1, "the reader did not run"
        for place, ciphertext in self.ciphertexts:
            if self.replaced and place not in estate:
                continue
            assert decrypt(estate[place], ciphertext) == b"meanwhile"
