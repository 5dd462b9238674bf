"""The only thread that calls a PKCS #11 module; its callers wait until a timeout.

python-pkcs11 initialises a module for a single thread (C_Initialize without locking), a login is a state of the whole
process and token, and PKCS #11 has no timeouts. So this thread executes all calls: a hanging module blocks only this
thread, and its callers get RootKeyTimeout.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from core.errors.keys import RootKeyTimeout

T = TypeVar("T")


@dataclass
class _Call:
    function: Callable[[], Any]
    ended: threading.Event = field(default_factory=threading.Event)
    abandoned: bool = False
    result: Any = None
    failure: Exception | None = None


class ModuleThread:
    """The thread of a module; the first call of a process starts it."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call] = SimpleQueue()
        self._lock = threading.Lock()
        self._process: int | None = None

    def run(self, function: Callable[[], T], timeout_seconds: float) -> T:
        """Return the result of `function` or raise its error; raises RootKeyTimeout after the timeout."""
        self._start()
        call = _Call(function)
        self._calls.put(call)
        if not call.ended.wait(timeout_seconds):
            call.abandoned = True
            raise RootKeyTimeout
        if call.failure is not None:
            raise call.failure
        return cast("T", call.result)

    def _start(self) -> None:
        with self._lock:
            if self._process != os.getpid():
                self._process = os.getpid()
                threading.Thread(target=self._work, name="pkcs11", daemon=True).start()

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            if call.abandoned:
                continue
            try:
                call.result = call.function()
            except Exception as failure:  # noqa: BLE001 - raised again where the caller waits
                call.failure = failure
            call.ended.set()
