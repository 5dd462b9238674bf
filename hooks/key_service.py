"""Column keys are wrapped and opened by the crypto service, as the service whose folder this process was given."""

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from crypto.client import (
    AccessRefused,
    CertificateUnusable,
    CiphertextRefused,
    Client,
    ClientError,
    KeyVersionRetired,
    Options,
    Retry,
    RootKeyFailed,
)
from crypto.client_identity import Identity, read_configuration
from hooks.keys import CannotOpen, Ends
from hooks.watching import Held, Watch

Result = TypeVar("Result")

_OPTIONS = Options(connect_seconds=2.0, answer_seconds=5.0, connections=4, retry=Retry(attempts=2))
"""An application waits for this, so it is told soon; a key is asked for again before it is needed."""
_HOLD_SECONDS = 10.0
"""For a connection that nobody waits for."""

_ENDS = {
    AccessRefused: Ends.ALL_KEYS,
    RootKeyFailed: Ends.ALL_KEYS,
    CiphertextRefused: Ends.THE_KEY,
    KeyVersionRetired: Ends.THE_KEY,
}
"""Only what the crypto service itself has said no to; anything else may be nobody's decision."""


class ServiceKeySource:
    """Safe to use from several threads; after a fork the child makes connections of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._process = 0
        self._watch = Watch(self._held)
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        """Another thread of the parent may have held the lock, and will never give it back here."""
        self._lock = threading.Lock()
        self._watch.forked()

    def make(self, resource: str) -> str:
        return self._ask(lambda client: client.new_wrapped_data_key(resource))

    def open(self, wrapped: str, resource: str) -> bytes:
        opened = self._ask(lambda client: client.open_data_key(wrapped, resource))
        self._watch.want()
        return opened

    def when_changed(self, look: Callable[[], bool]) -> None:
        self._watch.tell(look)

    def _held(self) -> Held:
        """Connect as the client does, with what is in the folder by now. Raises OSError."""
        try:
            place = urlsplit(str(read_configuration(self._folder)["https"]))
            context, host = Identity.from_folder(self._folder).context, str(place.hostname)
        except (CertificateUnusable, KeyError) as failed:
            raise OSError("the folder cannot be used") from failed
        plain = socket.create_connection((host, place.port or 443), timeout=_HOLD_SECONDS)
        return Held(context.wrap_socket(plain, server_hostname=host), host)

    def _ask(self, call: Callable[[Client], Result]) -> Result:
        client = self._connected()
        try:
            return call(client)
        except ClientError as refused:
            if isinstance(refused, AccessRefused):
                self._leave(client)
            ends = _ENDS.get(type(refused), Ends.NOTHING)
            raise CannotOpen(refused.code, refused.detail, refused.hint, ends) from None

    def _leave(self, client: Client) -> None:
        """Show next time what is in the folder by then: a service that is connected again has another certificate."""
        with self._lock:
            if self._client is client:
                self._client = None

    def _connected(self) -> Client:
        with self._lock:
            if self._client is None or self._process != os.getpid():
                self._client, self._process = Client.from_folder(self._folder, _OPTIONS), os.getpid()
            return self._client
