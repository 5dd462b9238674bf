"""TCP relay to PORT on loopback that delays each direction by half: `python delay_relay.py PORT MILLISECONDS`.

Prints its port and ends with its standard input. Its own overhead is added to all measured sides alike.
"""

import os
import queue
import socket
import sys
import threading
import time
from contextlib import suppress

_LOOPBACK = "127.0.0.1"
_CHUNK = 1 << 18


def serve(target: int, milliseconds: float) -> None:
    os.sched_setaffinity(
        0, {min(os.sched_getaffinity(0))}
    )  # a processor other than that of the programs (two_sides); set before the threads start
    listening = socket.create_server((_LOOPBACK, 0))
    print(listening.getsockname()[1], flush=True)
    threading.Thread(target=_accept, args=(listening, target, milliseconds / 2000), daemon=True).start()
    sys.stdin.read()


def _accept(listening: socket.socket, target: int, seconds: float) -> None:
    while True:
        near, _ = listening.accept()
        far = socket.create_connection((_LOOPBACK, target))
        for one, other in ((near, far), (far, near)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
            threading.Thread(target=_take, args=(one, waiting, seconds), daemon=True).start()
            threading.Thread(target=_give, args=(other, waiting), daemon=True).start()


def _take(source: socket.socket, waiting: "queue.SimpleQueue[tuple[float, bytes]]", seconds: float) -> None:
    while True:
        chunk = b""
        with suppress(OSError):
            chunk = source.recv(_CHUNK)
        waiting.put((time.perf_counter() + seconds, chunk))
        if not chunk:
            return


def _give(sink: socket.socket, waiting: "queue.SimpleQueue[tuple[float, bytes]]") -> None:
    while True:
        due, chunk = waiting.get()
        left = due - time.perf_counter()
        if left > 0:
            time.sleep(left)
        with suppress(OSError):
            if not chunk:
                sink.shutdown(socket.SHUT_RDWR)
                return
            sink.sendall(chunk)


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]))
