"""Connections of the platform's own services, kept open from one tenant to the next.

They are the control of attacks whose own connections are new each time. A handshake costs the service's loop more than
all that is asked over it, and a sweep over thousands of tenants would make customers' services wait for ours.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fronts.interfaces import Identity
from fronts.sides import Address, Side

KEPT_SECONDS = 60.0
"""For how long one is used, from when it was opened: that the doors let the service in is shown at least so often."""


@dataclass(frozen=True, slots=True)
class _Kept:
    side: Side
    until: float

    @property
    def good(self) -> bool:
        return time.monotonic() < self.until and self.side.is_open()


class KeptSides:
    """Used from several threads; each has a side to itself while it uses it."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._idle: list[_Kept] = []
        self._turn = threading.Lock()

    @contextmanager
    def of(self, identity: Identity) -> Iterator[Side]:
        """Yield the doors for an identity; one in whose use something failed is not kept. Raises as `Side`."""
        kept = self._take(identity)
        if kept is None:
            kept = _Kept(Side(self._address, identity), time.monotonic() + KEPT_SECONDS)
        try:
            yield kept.side
        except BaseException:
            kept.side.close()
            raise
        with self._turn:
            self._idle.append(kept)

    def _take(self, identity: Identity) -> _Kept | None:
        """Return one that is open and was not lent, and close all that are no longer good."""
        with self._turn:
            for stale in [one for one in self._idle if not one.good]:
                self._idle.remove(stale)
                stale.side.close()
            found = next((one for one in self._idle if one.side.identity == identity), None)
            if found is not None:
                self._idle.remove(found)
            return found
