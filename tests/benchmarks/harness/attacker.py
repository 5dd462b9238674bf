"""A client that sends as fast as a server reads, in a separate process: it repeats its bytes and reads no response.

It does little itself, because it shares the processors with the server that it attacks.
"""

import base64
import json
import selectors
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[3]
_HANDSHAKE_SECONDS = 10.0
_RECEIVE = 262_144
_TICK_SECONDS = 0.1


@dataclass(frozen=True)
class Attack:
    """Bytes that `connections` repeat, or with `once` send one time and then keep their connection open.

    Without a `folder` (with `ca.pem`, `client.pem` and `client.key`) they are TCP connections that send nothing.
    """

    port: int
    connections: int
    data: bytes = b""
    folder: Path | None = None
    once: bool = False


@contextmanager
def attacking(attack: Attack) -> Iterator[dict[str, int]]:
    """Attack until the block ends; the yielded counts of bytes and connections are filled then."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=_ROOT,
        start_new_session=True,  # a separate share of the processors (autogroup of the scheduler)
    )
    assert process.stdin is not None
    document = {
        **vars(attack),
        "data": base64.b64encode(attack.data).decode(),
        "folder": str(attack.folder) if attack.folder else None,
    }
    process.stdin.write(json.dumps(document).encode() + b"\n")
    process.stdin.flush()
    counts: dict[str, int] = {}
    try:
        yield counts
    finally:
        output, _ = process.communicate()
        counts.update(json.loads(output or b"{}"))


# ── the process ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _Attacker:
    def __init__(self, document: dict[str, Any]) -> None:
        self._port, self._connections, self._once = document["port"], document["connections"], document["once"]
        self._data = memoryview(base64.b64decode(document["data"]))
        self._tls: ssl.SSLContext | None = None
        if document["folder"]:
            folder = Path(document["folder"])
            self._tls = ssl.create_default_context(cafile=folder / "ca.pem")
            self._tls.load_cert_chain(folder / "client.pem", folder / "client.key")
        self._selector = selectors.DefaultSelector()
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        self.counts = {"connections": 0, "bytes sent": 0, "bytes received": 0}

    def run(self) -> None:
        """Attack until stdin is closed."""
        while True:
            if len(self._selector.get_map()) <= self._connections:
                with suppress(OSError):
                    self._open()
            pause = 0.0 if len(self._selector.get_map()) <= self._connections else _TICK_SECONDS
            for key, events in self._selector.select(pause):
                if key.fileobj is sys.stdin:
                    return
                try:
                    self._serve(key, events)
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                    continue
                except OSError:
                    self._selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]  # a socket

    def _open(self) -> None:
        opened = socket.create_connection(("127.0.0.1", self._port), timeout=_HANDSHAKE_SECONDS)
        if self._tls is not None:
            opened = self._tls.wrap_socket(opened, server_hostname="localhost")
        opened.settimeout(0)
        self.counts["connections"] += 1
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._data else 0)
        self._selector.register(opened, wanted, [0])

    def _serve(self, key: selectors.SelectorKey, events: int) -> None:
        connection: socket.socket = key.fileobj  # type: ignore[assignment]  # only these are registered
        if events & selectors.EVENT_READ:
            received = connection.recv(_RECEIVE)
            if not received:
                raise ConnectionResetError
            self.counts["bytes received"] += len(received)
        if events & selectors.EVENT_WRITE:
            sent = connection.send(self._data[key.data[0] :])
            self.counts["bytes sent"] += sent
            key.data[0] += sent
            if key.data[0] == len(self._data):
                key.data[0] = 0
                if self._once:
                    self._selector.modify(connection, selectors.EVENT_READ, key.data)


def _main() -> None:
    attacker = _Attacker(json.loads(sys.stdin.readline()))
    began = time.monotonic()
    attacker.run()
    print(json.dumps(attacker.counts | {"seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    _main()
