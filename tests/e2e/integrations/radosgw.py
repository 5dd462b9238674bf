"""The Ceph Object Gateway of Debian's package with a store in a file instead of a cluster.

scripts/setup.sh unpacks it into .venv if the system has no gateway.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2

from tests.concurrency import wait_until
from tests.e2e.stack import ROOT
from tests.ports import free_port

_UNPACKED = ROOT / ".venv" / "radosgw"
_CONFIGURATION = """\
[global]
rgw backend store = dbstore
rgw config store = dbstore
dbstore db dir = {folder}
dbstore config uri = file:{folder}/config.db
rgw data = {folder}
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw thread pool size = 16
run dir = {folder}
log file = {folder}/rgw.log
admin socket = {folder}/rgw.asok
pid file = {folder}/rgw.pid
plugin dir = {libraries}/ceph
rgw crypt require ssl = false
{more}
"""


class Gateway:
    """`url` is the S3 endpoint; `stored` is the content of the store."""

    def __init__(self, folder: Path, more: str) -> None:
        """`more` is appended to the configuration."""
        self._folder, self._port = folder, free_port()
        self._configuration = folder / "ceph.conf"
        libraries = _UNPACKED / "usr/lib/x86_64-linux-gnu" if _UNPACKED.exists() else Path("/usr/lib/x86_64-linux-gnu")
        self._environment = os.environ | {"LD_LIBRARY_PATH": f"{libraries}:{libraries}/ceph"}
        text = _CONFIGURATION.format(folder=folder, port=self._port, libraries=libraries, more=more)
        self._configuration.write_text(text)

    @property
    def url(self) -> str:
        return f"http://localhost:{self._port}"

    @property
    def stored(self) -> bytes:
        return b"".join(file.read_bytes() for file in self._folder.glob("dbstore*"))

    @property
    def log(self) -> str:
        return (self._folder / "rgw.log").read_text(encoding="utf-8", errors="replace")

    def add_user(self, access_key: str, secret_key: str) -> None:
        """Create the first user; the tool sometimes hangs on a loaded machine and is then repeated."""
        keys = ("--access-key", access_key, "--secret-key", secret_key)
        words = ("user", "create", "--uid", access_key, "--display-name", access_key, *keys)
        for _ in range(3):
            with suppress(subprocess.TimeoutExpired):
                self._run("radosgw-admin", *words)
                return
            for file in (*self._folder.glob("dbstore*"), *self._folder.glob("config.db*")):
                file.unlink()
        raise AssertionError(self.log)

    @contextmanager
    def running(self) -> Iterator[None]:
        process = subprocess.Popen(self._command("radosgw", "-n", "client.rgw", "-f"), env=self._environment)
        try:
            wait_until(self._answers, lambda: self.log)
            yield
        finally:
            process.kill()
            process.wait(10)

    def _answers(self) -> bool:
        try:
            return httpx2.get(self.url, timeout=2).status_code == 200
        except httpx2.TransportError:
            return False

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            self._command(program, *words),
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def _command(self, program: str, *words: str) -> list[str]:
        found = _UNPACKED / "usr/bin" / program
        path = str(found) if found.exists() else shutil.which(program)
        assert path is not None, "radosgw is missing: scripts/setup.sh test"
        return [path, "-c", str(self._configuration), "--no-mon-config", *words]
