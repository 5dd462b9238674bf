"""The crypto service, asked as the service whose folder this process was given."""

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from crypto.client import Client, Options
from crypto.client_calls import Retry
from crypto.client_errors import AccessRefused, CertificateUnusable
from crypto.client_identity import Identity, read_configuration
from hooks.watching import Held

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

    def hold(self) -> Held:
        """Connect as the client does, with what is in the folder by now, to be told when that ends. Raises OSError."""
        try:
            place = urlsplit(str(read_configuration(self._folder)["https"]))
            context, host = Identity.from_folder(self._folder).context, str(place.hostname)
        except (CertificateUnusable, KeyError) as failed:
            raise OSError("the folder cannot be used") from failed
        plain = socket.create_connection((host, place.port or 443), timeout=_HOLD_SECONDS)
        return Held(context.wrap_socket(plain, server_hostname=host), host)

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
