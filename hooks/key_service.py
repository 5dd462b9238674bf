"""The crypto service, as the service whose folder this process was given: it opens column keys and is told of uses."""

import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from crypto.client import Client, ClientError, Options, Retry
from hooks.keys import CannotOpen
from hooks.uses import Uses

Result = TypeVar("Result")

_OPTIONS = Options(connect_seconds=2.0, answer_seconds=5.0, connections=4, retry=Retry(attempts=2))
"""An application waits for this, so it is told soon; a key is asked for again before it is needed."""


class ServiceKeySource:
    """Safe to use from several threads; after a fork the child makes a connection of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._process = 0
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        """Another thread of the parent may have held the lock, and will never give it back here."""
        self._lock = threading.Lock()

    def make(self, resource: str) -> str:
        return self._ask(lambda client: client.new_wrapped_data_key(resource))

    def open(self, wrapped: str, resource: str) -> bytes:
        return self._ask(lambda client: client.open_data_key(wrapped, resource))

    def tell(self, uses: list[dict[str, Any]]) -> float:
        """Tell what the program encrypted; return after how many seconds to tell again. Raises CannotOpen."""
        return float(self._ask(lambda client: client.heartbeat({"uses": uses}))["heartbeat_seconds"])

    def _ask(self, call: Callable[[Client], Result]) -> Result:
        try:
            return call(self._connected())
        except ClientError as refused:
            raise CannotOpen(refused.code, refused.detail, refused.hint) from None

    def _connected(self) -> Client:
        with self._lock:
            if self._client is None or self._process != os.getpid():
                self._client, self._process = Client.from_folder(self._folder, _OPTIONS), os.getpid()
            return self._client


@cache
def key_source(folder: Path) -> ServiceKeySource:
    """Return the one of this process, whose connections all its drivers share."""
    return ServiceKeySource(folder)


@cache
def uses(folder: Path) -> Uses:
    """Return the sums of this process, which all its drivers add to."""
    return Uses(key_source(folder).tell)
