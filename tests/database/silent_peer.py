"""The backends of a role, which a test can pause, and a network that drops all data."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from tests.database.fixtures import Field


def backends(field: Field, role: str) -> list[int]:
    with field.administrator() as administrator:
        rows = administrator.execute(
            "select pid from pg_stat_activity where usename = %s and datname = %s", [f"okcm_{role}", field.name]
        )
        return [pid for (pid,) in rows]


class Relay:
    """A TCP relay to a database that can drop all data, as a network does; it never closes a connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"postgresql://127.0.0.1:{self._listening.getsockname()[1]}{parts.path}"
        self._sockets: list[socket.socket] = []
        self._epoch = 0
        self._down = False
        threading.Thread(target=self._accept, daemon=True).start()

    @contextmanager
    def dropping(self) -> Iterator[None]:
        """Drop all data in the block; connections from before stay silent after it."""
        self._epoch += 1
        self._down = True
        try:
            yield
        finally:
            self._down = False

    def close(self) -> None:
        for one in (self._listening, *self._sockets):
            # `close` alone has no effect while another thread reads, and a backend within a login that receives nothing
            # blocks `drop database` for 60 s.
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                epoch = -1 if self._down else self._epoch
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink, epoch), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, epoch: int) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if epoch == self._epoch:
                    sink.sendall(data)
