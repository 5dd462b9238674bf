"""Whether the key server answers, measured continuously in a separate thread, without a login and an audit record."""

import threading
import time
from collections.abc import Callable

from core.errors.platform import VaultUnavailable
from openkcm.errors import OpenKcmError
from vault.auth.client import VaultClient

OK = "ok"
_PROBE_SECONDS = 1.0
_SILENT_SECONDS = 3.0
"""A probe without a result for this time is a failure: a suspended server accepts connections and stays silent."""


class KeyServerProbe:
    """Asks `sys/health` every second. An active and a standby node are healthy, a sealed one is not.

    Thread-safe.
    """

    def __init__(self, client: VaultClient, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`client` is a session without an identity (`VaultClient.for_token("")`)."""
        self._client, self._monotonic = client, monotonic
        self._state, self._since = VaultUnavailable.code, monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="key-server", daemon=True)

    @property
    def state(self) -> str:
        """`ok`, or the code of the last failure; `vault_unavailable` also while a probe has no result."""
        return self._state if self._monotonic() - self._since < _SILENT_SECONDS else VaultUnavailable.code

    def start(self) -> None:
        """Start to probe; call it once."""
        self._thread.start()

    def stop(self) -> None:
        """End the probes, without waiting for a silent server."""
        self._stop.set()

    def probe(self) -> None:
        """Measure once."""
        try:
            self._client.request("GET", "sys/health?standbyok=true&perfstandbyok=true")
            state = OK
        except OpenKcmError as failed:
            state = failed.code
        self._state, self._since = state, self._monotonic()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.probe()
            self._stop.wait(_PROBE_SECONDS)
