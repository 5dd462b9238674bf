"""Hears at once that the crypto service may decide otherwise than before, without asking it all the time.

The crypto service ends the connections of whom it no longer serves in the moment in which that is decided: the tenant
locked, the service disconnected, its certificate revoked, the root key taken away. So one connection is held on which
next to nothing is said. Its end says nothing but that it is time to ask; a server that stopped ends it too. One of its
processes may hear of a decision later than another, so it is asked again after the connection is there again.

The crypto service, asked as the service whose folder this process was given.

Column keys are wrapped and opened by the crypto service, which also says at once when there may be none any more.
"""

import os
import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from openkcm.field_encryption.key_cache import KeyErrorScope, KeyUnwrapError
from openkcm.sdk.client import Client, Options
from openkcm.sdk.errors import (
    AccessRefused,
    CertificateUnusable,
    CiphertextRefused,
    ClientError,
    KeyVersionRetired,
    RootKeyFailed,
)
from openkcm.sdk.identity import Identity, read_configuration
from openkcm.sdk.protocol import Retry

_STEADY_SECONDS = 2.0
"""A connection that lasted for so long may be opened again at once."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
"""Between two tries; each is a handshake and no more."""
_ASKED_AGAIN = 5.0
_SERVED = b"HTTP/1.1 200 "


class WatchConnection(Protocol):
    """A connection as sockets are."""

    def settimeout(self, value: float | None, /) -> None:
        """For whatever comes afterwards."""

    def sendall(self, data: bytes, /) -> None:
        """Raises OSError."""

    def recv(self, amount: int, /) -> bytes:
        """Return nothing once the other side has ended it. Raises OSError, TimeoutError."""

    def close(self) -> None:
        """Let it go."""


class HeldConnection:
    """A connection to the service's HTTPS front on which it is asked whether it serves, every few seconds.

    It would end without that. But whom it refuses already the service tells so, and lets go, only once something was
    said; and what is between the two may drop in silence a connection on which nothing is.
    """

    def __init__(self, line: WatchConnection, host: str, seconds: float = _ASKED_AGAIN) -> None:
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


class RevocationWatch:
    """Holds a connection for as long as what it tells is wanted; safe to use from several threads."""

    def __init__(self, connect: Callable[[], HeldConnection]) -> None:
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


Result = TypeVar("Result")

_OPTIONS = Options(connect_seconds=2.0, answer_seconds=5.0, connections=4, retry=Retry(attempts=2))
"""An application waits for this, so it is told soon; what is in use is asked for again before it is needed."""
_HOLD_SECONDS = 10.0
"""For a connection that nobody waits for."""


class _Used:
    """A client and how many are asking it; one that is left is closed by the last of them."""

    __slots__ = ("asking", "client", "left", "process")

    def __init__(self, client: Client) -> None:
        self.client, self.process = client, os.getpid()
        self.asking, self.left = 0, False


class CryptoService:
    """Safe to use from several threads; after a fork the child makes connections of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._used: _Used | None = None
        os.register_at_fork(after_in_child=self._forked)

    def ask(self, call: Callable[[Client], Result]) -> Result:
        """Return what the client returns; raises ClientError."""
        used = self._begin()
        try:
            return call(used.client)
        except AccessRefused:
            used.left = True
            raise
        finally:
            self._end(used)

    def tell(self, uses: list[dict[str, Any]]) -> float:
        """Tell what the program encrypted; return after how many seconds to tell again. Raises ClientError."""
        return float(self.ask(lambda client: client.heartbeat({"uses": uses}))["heartbeat_seconds"])

    def hold(self) -> HeldConnection:
        """Connect as the client does, with what is in the folder by now, to be told when that ends. Raises OSError."""
        try:
            place = urlsplit(str(read_configuration(self._folder)["https"]))
            context, host = Identity.from_folder(self._folder).context, str(place.hostname)
        except (CertificateUnusable, KeyError) as failed:
            raise OSError("the folder cannot be used") from failed
        plain = socket.create_connection((host, place.port or 443), timeout=_HOLD_SECONDS)
        return HeldConnection(context.wrap_socket(plain, server_hostname=host), host)

    def _forked(self) -> None:
        """Another thread of the parent may have held the lock, and will never give it back here."""
        self._lock = threading.Lock()

    def _begin(self) -> _Used:
        with self._lock:
            used = self._used
            if used is None or used.left or used.process != os.getpid():
                # Who was refused shows next time what is in the folder by then: a service that is connected again
                # has another certificate.
                used = self._used = _Used(Client.from_folder(self._folder, _OPTIONS))
            used.asking += 1
            return used

    def _end(self, used: _Used) -> None:
        with self._lock:
            used.asking -= 1
            done = used.left and not used.asking
            if done and self._used is used:
                self._used = None
        if done:
            used.client.close()


_ENDS = {
    AccessRefused: KeyErrorScope.ALL_KEYS,
    RootKeyFailed: KeyErrorScope.ALL_KEYS,
    CiphertextRefused: KeyErrorScope.THE_KEY,
    KeyVersionRetired: KeyErrorScope.THE_KEY,
}
"""Only what the crypto service itself has said no to; anything else may be nobody's decision."""


class ServiceKeySource:
    """Safe to use from several threads, and after a fork."""

    def __init__(self, service: CryptoService) -> None:
        self._service = service
        self._watch = RevocationWatch(service.hold)
        os.register_at_fork(after_in_child=self._watch.forked)

    def make(self, resource: str) -> str:
        return self._ask(lambda client: client.new_wrapped_data_key(resource))

    def open(self, wrapped: str, resource: str) -> bytes:
        opened = self._ask(lambda client: client.open_data_key(wrapped, resource))
        self._watch.want()
        return opened

    def when_changed(self, look: Callable[[], bool]) -> None:
        self._watch.tell(look)

    def _ask(self, call: Callable[[Client], Result]) -> Result:
        try:
            return self._service.ask(call)
        except ClientError as refused:
            ends = _ENDS.get(type(refused), KeyErrorScope.NOTHING)
            raise KeyUnwrapError(refused.code, refused.detail, refused.hint, ends) from None
