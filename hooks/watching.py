"""Hears at once that the crypto service may decide otherwise than before, without asking it all the time.

The crypto service ends the connections of whom it no longer serves in the moment in which that is decided: the tenant
locked, the service disconnected, its certificate revoked, the root key taken away. So one connection is held on which
next to nothing is said. Its end says nothing but that it is time to ask; a server that stopped ends it too. One of its
processes may hear of a decision later than another, so it is asked again after the connection is there again.
"""

import random
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Protocol

_STEADY_SECONDS = 2.0
"""A connection that lasted for so long may be opened again at once."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
"""Between two tries; each is a handshake and no more."""
_ASKED_AGAIN = 5.0
_SERVED = b"HTTP/1.1 200 "


class Line(Protocol):
    """A connection as sockets are."""

    def settimeout(self, value: float | None, /) -> None:
        """For whatever comes afterwards."""

    def sendall(self, data: bytes, /) -> None:
        """Raises OSError."""

    def recv(self, amount: int, /) -> bytes:
        """Return nothing once the other side has ended it. Raises OSError, TimeoutError."""

    def close(self) -> None:
        """Let it go."""


class Held:
    """A connection to the service's HTTPS front on which it is asked whether it serves, every few seconds.

    It would end without that. But whom it refuses already the service tells so, and lets go, only once something was
    said; and what is between the two may drop in silence a connection on which nothing is.
    """

    def __init__(self, line: Line, host: str, seconds: float = _ASKED_AGAIN) -> None:
        self._line = line
        self._question = f"GET /healthz HTTP/1.1\r\nhost: {host}\r\n\r\n".encode("ascii")
        self._seconds = seconds

    def wait(self) -> None:
        """Return when it was ended, refused, or not answered."""
        answered = False
        try:
            self._line.settimeout(self._seconds)
            self._line.sendall(self._question)
            while True:
                try:
                    if not self._line.recv(16_384).startswith(_SERVED):
                        return
                    answered = True
                except TimeoutError:
                    if not answered:
                        return
                    answered = False
                    self._line.sendall(self._question)
        except OSError:
            return

    def close(self) -> None:
        self._line.close()


class Watch:
    """Holds a connection for as long as what it tells is wanted; safe to use from several threads."""

    def __init__(self, connect: Callable[[], Held]) -> None:
        """`connect` raises OSError."""
        self._connect = connect
        self._looks: list[Callable[[], bool]] = []
        self._times_wanted = 0
        self.forked()

    def forked(self) -> None:
        """Begin anew in a child, where the thread of the parent is not."""
        self._lock = threading.Lock()
        self.thread: threading.Thread | None = None

    def tell(self, look: Callable[[], bool]) -> None:
        """Have `look` called whenever it is time to ask; it returns whether it wants to be told further."""
        with self._lock:
            self._looks = [*self._looks, look]

    def want(self) -> None:
        """Begin to watch unless that is done already."""
        with self._lock:
            self._times_wanted += 1
            if self._looks and self.thread is None:
                self.thread = threading.Thread(target=self._run, name="openkcm-watch", daemon=True)
                self.thread.start()

    def _run(self) -> None:
        pause = 0.0
        while True:
            began = time.monotonic()
            try:
                with closing(self._connect()) as held:
                    if not self._look():  # after connecting: what is decided from here on ends the connection
                        return
                    held.wait()
                    if not self._look():
                        return
            except OSError:
                pass  # silence; whoever needs a key meanwhile asks by himself
            lasted = time.monotonic() - began
            pause = 0.0 if lasted >= _STEADY_SECONDS else min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * pause))
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, guards nothing

    def _look(self) -> bool:
        """Ask, and return whether to go on. Whoever wants it meanwhile finds it going on, or over and begins anew."""
        before = self._times_wanted
        if any([look() for look in self._looks]):  # noqa: C419 - each of them must look
            return True
        with self._lock:
            if before != self._times_wanted:
                return True
            self.thread = None
            return False
