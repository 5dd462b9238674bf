"""Whether a process that needs the database for each request should receive requests."""

import threading

import structlog

from core.errors.platform import DatabaseUnavailable
from database.connection.database import Database
from openkcm.errors import OpenKcmError

_CHECK_SECONDS = 1.0
_CONFIRM_SECONDS = 0.2
_FAILURES = 2
"""Failed checks in a row after which no caller tries the database: one can fail on a busy machine."""
_NOT_CHECKED = "not_checked"

log = structlog.get_logger()


class DatabaseReadiness:
    """Checks in a separate thread, so that a request for readiness costs no connection and never waits."""

    def __init__(self, database: Database) -> None:
        self.faults: tuple[str, ...] = (_NOT_CHECKED,)
        """The codes of what is wrong; the process is ready without one."""
        self._failures = 0
        self._reason = ("", "")
        self._database = database
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="readiness", daemon=True)

    def start(self) -> None:
        """Start to check; call it once."""
        self._thread.start()

    def stop(self) -> None:
        """End the checks; the database may be closed afterwards."""
        self._stop.set()
        self._thread.join()

    def answer(self) -> tuple[int, dict[str, object]]:
        """Return HTTP status and JSON object for `/readyz`."""
        faults = self.faults
        return (503 if faults else 200), {"status": "not_ready" if faults else "ready", "reasons": list(faults)}

    @property
    def is_unavailable(self) -> bool:
        """Whether several checks in a row have failed."""
        return self._failures >= _FAILURES

    def require(self) -> None:
        """Raise DatabaseUnavailable if several checks in a row have failed, without a call to the database."""
        if self.is_unavailable:
            raise DatabaseUnavailable(*self._reason)

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._check()
            self._stop.wait(_CONFIRM_SECONDS if 0 < self._failures < _FAILURES else _CHECK_SECONDS)

    def _check(self) -> None:
        faults: tuple[str, ...] = ()
        message = ""
        try:
            self._database.require_ready()
        except OpenKcmError as failed:
            faults, message = (failed.code,), failed.message
            self._reason = failed.message, failed.hint
            self._failures += 1
        else:
            self._failures = 0
        if faults != self.faults:
            self.faults = faults
            (log.error if faults else log.info)("readiness changed", faults=faults, message=message)
