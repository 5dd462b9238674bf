"""A closed loop of requests over TLS, the same for every server: each connection waits for its response and repeats.

The load comes from `generator.c`, which is compiled here: it shares the processors with the measured server, and a
Python generator takes as long per request as the crypto service.
"""

import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from tests.benchmarks.report import spread

_SOURCE = Path(__file__).with_name("generator.c")
_PATIENCE_SECONDS = 20.0
_LONGEST_ANSWER = 65536
WARM_UP = 0.1
"""The generator's requests before a measurement, as a share of its duration."""


@dataclass(frozen=True)
class Target:
    """A server and its request. `ca` is the file of the server's CA, `client` the client certificate and its key."""

    port: int
    request: bytes
    protocol: Literal["http", "ttlv"]
    ca: Path
    client: tuple[Path, Path] | None = None
    server_name: str = "localhost"


@dataclass
class Load:
    """Measured latencies in milliseconds, and the duration."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds

    def summary(self) -> dict[str, float]:
        return {"requests/s": round(self.rate), **spread(self.latencies)}


def ask(target: Target, connections: int, seconds: float) -> Load:
    """Send requests over kept connections for `seconds`, after `WARM_UP` times that which does not count."""
    return _generate(target, connections, seconds, "kept")


def ask_connecting(target: Target, seconds: float) -> Load:
    """Send requests repeatedly, each over a separate connection."""
    return _generate(target, 1, seconds, "connecting")


def kept(connections: int) -> Callable[[Target, float], Load]:
    """Return `ask` over a number of connections, for `median_rounds`."""
    return lambda target, seconds: ask(target, connections, seconds)


def median_rounds(
    measure: Callable[[Target, float], Load], sides: Mapping[str, Target], rounds: int, seconds: float
) -> dict[str, Load]:
    """Measure the sides in turns and return the median round of each."""
    loads: dict[str, list[Load]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, target in sides.items():
            loads[side].append(measure(target, seconds))
    return {side: sorted(found, key=lambda load: load.rate)[len(found) // 2] for side, found in loads.items()}


def one(target: Target) -> bytes:
    """Send one request and return the first record of the response."""
    context = ssl.create_default_context(cafile=target.ca)
    if target.client is not None:
        context.load_cert_chain(*target.client)
    with (
        socket.create_connection(("127.0.0.1", target.port), timeout=_PATIENCE_SECONDS) as raw,
        context.wrap_socket(raw, server_hostname=target.server_name) as connection,
    ):
        connection.sendall(target.request)
        return connection.recv(_LONGEST_ANSWER)


def _generate(target: Target, connections: int, seconds: float, how: Literal["kept", "connecting"]) -> Load:
    command = [str(_generator()), str(target.port), str(connections), str(WARM_UP * seconds), str(seconds), how]
    command += [target.protocol, target.server_name, str(target.ca), *map(str, target.client or ())]
    done = subprocess.run(
        command, input=target.request, capture_output=True, check=False, timeout=2 * seconds + _PATIENCE_SECONDS
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode(errors="replace"))
    measured, *microseconds = map(float, done.stdout.split())
    return Load(measured, [taken / 1000 for taken in microseconds])


@cache
def _generator() -> Path:
    """Compile the generator for the life of this process."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError("no C compiler for the load generator: apt-get install gcc libc6-dev libssl-dev")
    folder = tempfile.TemporaryDirectory(prefix="openkcm-generator-")
    _FOLDERS.append(folder)
    program = Path(folder.name) / "generator"
    subprocess.run([compiler, "-O2", "-o", program, _SOURCE, "-lssl", "-lcrypto", "-pthread"], check=True)
    return program


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []
"""Removed when the process ends."""
