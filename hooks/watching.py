"""Hears at once that the crypto service may decide otherwise than before, without asking it all the time.

The crypto service ends the connections of whom it no longer serves in the moment in which that is decided: the tenant
locked, the service disconnected, its certificate revoked, the root key taken away. So one connection is held on which
nothing more is said. Its end says nothing but that it is time to ask; a server that stopped ends it too. One of its
processes may hear of a decision later than another, so it is asked again after the connection is there again.
"""

import random
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Protocol

_STEADY_SECONDS = 30.0
"""A connection that lasted for so long may be opened again at once; before that, pauses grow up to this."""
_FIRST_PAUSE = 0.5


class Held(Protocol):
    """An open connection."""

    def recv(self, amount: int, /) -> bytes:
        """Return nothing once the other side has ended it. Raises OSError."""

    def close(self) -> None:
        """Let it go."""


def watch(connect: Callable[[], Held], look: Callable[[], bool]) -> threading.Thread:
    """Have `look` called whenever it is time to ask, until it returns False; `connect` raises OSError."""
    thread = threading.Thread(target=_watch, args=(connect, look), name="openkcm-watch", daemon=True)
    thread.start()
    return thread


def _watch(connect: Callable[[], Held], look: Callable[[], bool]) -> None:
    pause = 0.0
    while True:
        began = time.monotonic()
        try:
            with closing(connect()) as held:
                if not look():  # after connecting: what is decided from here on ends the connection
                    return
                _until_ended(held)
                if not look():
                    return
        except OSError:
            pass  # silence; whoever needs a key meanwhile asks by himself
        lasted = time.monotonic() - began
        pause = 0.0 if lasted >= _STEADY_SECONDS else min(_STEADY_SECONDS, max(_FIRST_PAUSE, 2 * pause))
        time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, guards nothing


def _until_ended(held: Held) -> None:
    try:
        while held.recv(1024):
            pass
    except OSError:
        pass  # an end as well
