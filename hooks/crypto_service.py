"""The crypto service, asked as the service whose folder this process was given."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from crypto.client import Client, Options, Retry

Result = TypeVar("Result")

_OPTIONS = Options(connect_seconds=2.0, answer_seconds=5.0, connections=4, retry=Retry(attempts=2))
"""An application waits for this, so it is told soon; what is in use is asked for again before it is needed."""


class CryptoService:
    """Safe to use from several threads; after a fork the child makes a connection of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._process = 0
        os.register_at_fork(after_in_child=self._forked)

    def ask(self, call: Callable[[Client], Result]) -> Result:
        """Return what the client returns; raises ClientError."""
        return call(self._connected())

    def _forked(self) -> None:
        """Another thread of the parent may have held the lock, and will never give it back here."""
        self._lock = threading.Lock()

    def _connected(self) -> Client:
        with self._lock:
            if self._client is None or self._process != os.getpid():
                self._client, self._process = Client.from_folder(self._folder, _OPTIONS), os.getpid()
            return self._client
