"""One thread that alone speaks to a PKCS#11 module, and callers that wait no longer than agreed.

python-pkcs11 initialises a module for a single thread (C_Initialize without locking), being logged in is a state of the
whole process and token, and no call of PKCS#11 can be given a time limit. So calls queue here: a module that hangs
keeps this thread, and its callers go on with RootKeyTimeout.
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
    """Starts with the first call, in the process that makes it."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call] = SimpleQueue()
        self._lock = threading.Lock()
        self._process: int | None = None

    def run(self, function: Callable[[], T], timeout_seconds: float) -> T:
        """Return what `function` returns or raise what it raises; RootKeyTimeout when it is not done in time."""
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
