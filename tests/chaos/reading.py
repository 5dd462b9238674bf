"""A reader that opens every service key of a tenant all the time, whatever is changed or killed."""

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
"""Between two rounds of the reader, so that those that are read about have a processor, too."""
_OUTAGES: dict[str, tuple[type[OpenKcmError], ...]] = {
    # The platform's own root key lies there, too.
    "openbao": (VaultUnavailable, RootKeyUnreachable),
    "postgres": (DatabaseUnavailable,),
}
"""What a reader may be told when which server was shot; nothing at all while others are down."""


@dataclass
class Reader:
    """`with Reader(...)`: opens every service key in a loop, in a thread, and keeps what went wrong.

    It encrypts in each round, before, during and after the change. A version must stay the same key; one that exists at
    the beginning must stay, unless it is `replaced`.
    """

    settings_of: Field
    tenant_id: str
    estate: Estate
    shot: Collection[str]
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
        told_of = tuple(error for target in self.shot for error in _OUTAGES.get(target, ()))
        seen = dict(self.estate)
        with Opener(self.settings_of.settings) as opener:
            while not self._enough.is_set():
                try:
                    found = opener.open_all(self.tenant_id, REGION)
                except OpenKcmError as told:
                    if not isinstance(told, told_of):
                        self.wrong.append(f"{told.code}: {told.message}")
                    time.sleep(_PAUSE_SECONDS)
                except Exception as unexpected:  # noqa: BLE001 - whatever it is, the test must hear of it
                    self.wrong.append(repr(unexpected))
                    return
                else:
                    self.rounds += 1
                    if any(seen.setdefault(place, key) != key for place, key in found.items()):
                        self.wrong.append("another key came out")
                    if not self.replaced and not self.estate.keys() <= found.keys():
                        self.wrong.append("a version of before is gone")
                    place = max(found)
                    self.ciphertexts.append((place, encrypt(found[place], b"meanwhile")))
                    time.sleep(_PAUSE_SECONDS)

    def assert_never_refused(self, estate: Estate) -> None:
        """Check that nothing went wrong, and that what was encrypted meanwhile opens with the keys as they are now."""
        assert not self.wrong, self.wrong
        assert self.rounds > 1, "nobody read"
        for place, ciphertext in self.ciphertexts:
            if self.replaced and place not in estate:
                continue
            assert decrypt(estate[place], ciphertext) == b"meanwhile"
