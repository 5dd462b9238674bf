"""Containers from an unpacked image, with the rights that the pods of the chart have and the filter of the units.

The root file system is read-only, the user is the image's, no capability is left, and each container sees only the
folders that it is given. The network is the host's, so that it reaches servers on loopback. Needs root.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.production.artefacts.hardening import FAMILIES, allowed_calls

_ENTER = Path(__file__).with_name("enter.py")
_NAMESPACES = ("--mount", "--pid", "--ipc", "--uts", "--propagation=private", "--fork", "--kill-child")


@dataclass(frozen=True)
class Mount:
    """A folder or file of the host, and where a container sees it."""

    source: Path
    destination: str
    writable: bool = False


@dataclass(frozen=True)
class Image:
    """An image that umoci unpacked: its root file system and its configuration."""

    root: Path
    user: tuple[int, int]
    environment: Mapping[str, str]
    command: Sequence[str]

    @classmethod
    def unpack(cls, layout: Path, tag: str, root: Path) -> "Image":
        subprocess.run(["umoci", "raw", "unpack", "--image", f"{layout}:{tag}", root], check=True, capture_output=True)
        (manifest,) = json.loads((layout / "index.json").read_text())["manifests"]
        config = _blob(layout, _blob(layout, manifest["digest"])["config"]["digest"])["config"]
        user, _, group = config["User"].partition(":")
        environment = dict(line.split("=", 1) for line in config["Env"])
        return cls(root, (int(user), int(group)), environment, [*config["Entrypoint"], *config["Cmd"]])

    def start(
        self,
        folder: Path,
        name: str,
        command: Sequence[str],
        mounts: Sequence[Mount] = (),
        variables: Mapping[str, str] | None = None,
    ) -> "Container":
        """Start a container; its log is `folder/name.log`."""
        specification = folder / f"{name}.json"
        wanted = {
            "root": str(self.root),
            "user": self.user,
            "command": list(command),
            "environment": {**self.environment, **(variables or {})},
            "mounts": [asdict(one) | {"source": str(one.source)} for one in mounts],
            "calls": sorted(allowed_calls()),
            "families": FAMILIES,
        }
        specification.write_text(json.dumps(wanted))
        return Container(
            ["unshare", *_NAMESPACES, sys.executable, str(_ENTER), str(specification)], folder / f"{name}.log"
        )


class Container:
    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait(self, seconds: float) -> tuple[int, str]:
        """Return the exit status and the log."""
        return self.process.wait(timeout=seconds), self.log

    def terminate(self) -> None:
        """Send SIGTERM to the first process of the container."""
        parent = self.process.pid
        (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)

    def end(self) -> None:
        """End the container if it still runs."""
        if self.process.poll() is None:
            self.process.kill()  # unshare then ends its child
            self.process.wait(timeout=60)


def _blob(layout: Path, digest: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((layout / "blobs" / digest.replace(":", "/")).read_text())
    return read
