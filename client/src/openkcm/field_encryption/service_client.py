"""The crypto service, called as the service whose folder this process was given, with immediate notice of revocations.

The crypto service wraps and unwraps column keys. It also closes the connections of a caller as soon as it must reject
the caller: tenant locked, service disconnected, certificate revoked, root key revoked. The client therefore holds one
nearly idle connection. Its end carries no further information: the client then asks for its keys again, since the end
of a server process looks the same. Another server process may apply a decision later, so the client asks once more
after the connection is restored.
"""

import os
import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
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
"""A connection that lasted this long may be replaced immediately."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
"""Between two attempts; each costs a handshake."""
_POLL_SECONDS = 5.0
_OK = b"HTTP/1.1 200 "


class WatchConnection(Protocol):
    """The part of the socket interface that is used."""

    def settimeout(self, value: float | None, /) -> None:
        """Set the timeout of the following calls."""

    def sendall(self, data: bytes, /) -> None:
        """Raises OSError."""

    def recv(self, amount: int, /) -> bytes:
        """Return no bytes after the peer has closed. Raises OSError, TimeoutError."""

    def close(self) -> None:
        """Close the connection."""


class HeldConnection:
    """A connection to the HTTPS server on which the client asks every few seconds whether it is served.

    The server reports a rejection of this client, and closes, only in response to a request. A network device may also
    drop an idle connection silently.
    """

    def __init__(self, connection: WatchConnection, host: str, seconds: float = _POLL_SECONDS) -> None:
        self._connection = connection
        self._request = f"GET /healthz HTTP/1.1\r\nhost: {host}\r\n\r\n".encode("ascii")
        self._seconds = seconds

    def wait(self) -> None:
        """Return when the connection is closed, rejected or not answered."""
        answered = False
        try:
            self._connection.settimeout(self._seconds)
            self._connection.sendall(self._request)
            while True:
                try:
                    if not self._connection.recv(16_384).startswith(_OK):
                        return
                    answered = True
                except TimeoutError:
                    if not answered:
                        return
                    answered = False
                    self._connection.sendall(self._request)
        except OSError:
            return

    def close(self) -> None:
        self._connection.close()


class RevocationWatch:
    """Holds a connection while its notice is needed; thread-safe."""

    def __init__(self, connect: Callable[[], HeldConnection]) -> None:
        """`connect` raises OSError."""
        self._connect = connect
        self._callbacks: list[Callable[[], bool]] = []
        self._starts = 0
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Start without a thread in a child process, which does not have the parent's."""
        self._lock = threading.Lock()
        self.thread: threading.Thread | None = None

    def subscribe(self, callback: Callable[[], bool]) -> None:
        """Call `callback` whenever the keys must be checked; it returns whether it needs further calls."""
        with self._lock:
            self._callbacks = [*self._callbacks, callback]

    def start(self) -> None:
        """Start the watch unless it runs."""
        with self._lock:
            self._starts += 1
            if self._callbacks and self.thread is None:
                thread = threading.Thread(target=self._run, name="openkcm-watch", daemon=True)
                with suppress(RuntimeError):  # no thread is available: the next start tries again
                    thread.start()
                    self.thread = thread

    def _run(self) -> None:
        pause = 0.0
        while True:
            began = time.monotonic()
            try:
                with closing(self._connect()) as held:
                    if not self._check():  # after connecting: a later decision closes the connection
                        return
                    held.wait()
                    if not self._check():
                        return
            except OSError:
                pass  # no notice; a caller that needs a key sends its own request
            lasted = time.monotonic() - began
            pause = 0.0 if lasted >= _STEADY_SECONDS else min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * pause))
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, no security purpose

    def _check(self) -> bool:
        """Call all callbacks and return whether to continue; a concurrent `start` always finds or gets a thread."""
        before = self._starts
        if any([callback() for callback in self._callbacks]):  # noqa: C419 - every callback must run
            return True
        with self._lock:
            if before != self._starts:
                return True
            self.thread = None
            return False


Result = TypeVar("Result")

_OPTIONS = Options(connect_seconds=2.0, answer_seconds=5.0, connections=4, retry=Retry(attempts=2))
"""An application waits for the result, so a failure is reported soon; keys in use are refreshed in advance."""
_HOLD_SECONDS = 10.0
"""For a connection that no caller waits for."""


class _ClientUse:
    """A client and its number of users; the last user closes a retired client."""

    __slots__ = ("client", "process", "retired", "users")

    def __init__(self, client: Client) -> None:
        self.client, self.process = client, os.getpid()
        self.users, self.retired = 0, False


class CryptoService:
    """Thread-safe; after a fork the child opens its own connections."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._used: _ClientUse | None = None
        os.register_at_fork(after_in_child=self._reset_after_fork)

    def ask(self, call: Callable[[Client], Result]) -> Result:
        """Return the result of `call`; raises ClientError."""
        used = self._begin()
        try:
            return call(used.client)
        except AccessRefused:
            used.retired = True
            raise
        finally:
            self._end(used)

    def report_usage(self, uses: list[dict[str, Any]]) -> float:
        """Report encrypted values; return the seconds until the next report. Raises ClientError."""
        return float(self.ask(lambda client: client.heartbeat({"uses": uses}))["heartbeat_seconds"])

    def hold(self) -> HeldConnection:
        """Connect with the present files of the folder, to notice when the server closes. Raises OSError."""
        try:
            place = urlsplit(str(read_configuration(self._folder)["https"]))
            context, host = Identity.from_folder(self._folder).context, str(place.hostname)
        except (CertificateUnusable, KeyError) as failed:
            raise OSError("the folder cannot be used") from failed
        plain = socket.create_connection((host, place.port or 443), timeout=_HOLD_SECONDS)
        return HeldConnection(context.wrap_socket(plain, server_hostname=host), host)

    def _reset_after_fork(self) -> None:
        """Replace the lock: another thread of the parent may have held it, and does not exist here."""
        self._lock = threading.Lock()

    def _begin(self) -> _ClientUse:
        with self._lock:
            used = self._used
            if used is None or used.retired or used.process != os.getpid():
                # After a rejection the files are loaded again: a service that was connected again has another
                # certificate.
                used = self._used = _ClientUse(Client.from_folder(self._folder, _OPTIONS))
            used.users += 1
            return used

    def _end(self, used: _ClientUse) -> None:
        with self._lock:
            used.users -= 1
            done = used.retired and not used.users
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
"""Only decisions of the crypto service end keys; other errors may be temporary."""


class ServiceKeySource:
    """Thread-safe and fork-safe."""

    def __init__(self, service: CryptoService) -> None:
        self._service = service
        self._watch = RevocationWatch(service.hold)
        os.register_at_fork(after_in_child=self._watch.reset_after_fork)

    def make(self, resource: str) -> str:
        return self._ask(lambda client: client.new_wrapped_data_key(resource))

    def open(self, wrapped: str, resource: str) -> bytes:
        unwrapped = self._ask(lambda client: client.open_data_key(wrapped, resource))
        self._watch.start()
        return unwrapped

    def when_changed(self, callback: Callable[[], bool]) -> None:
        self._watch.subscribe(callback)

    def _ask(self, call: Callable[[Client], Result]) -> Result:
        try:
            return self._service.ask(call)
        except ClientError as refused:
            ends = _ENDS.get(type(refused), KeyErrorScope.NOTHING)
            raise KeyUnwrapError(refused.code, refused.detail, refused.hint, ends) from None
