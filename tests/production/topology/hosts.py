"""Hosts on one machine: network namespaces on one bridge, and the programs that run in them.

`enter` moves the calling command into new namespaces for network, mounts and processes. All of them end with it,
so that a drill leaves nothing behind. Root needs no further right; another user gets these rights in a user namespace.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.programs import child, unprivileged

NETWORK = "10.77.0"
CLIENTS = f"{NETWORK}.1"
"""The address of the bridge, where the clients are."""
BALANCER = f"{NETWORK}.2"
"""The address that one of the two load balancers has."""
_INSIDE = "TOPOLOGY_NAMESPACES"
_RESTART_SECONDS = 1.0
_FORBIDDEN = """\
the drills need namespaces for users, network, mounts and processes, which this system forbids to this user
hint: run them as root, or permit user namespaces (docs/test-suite.md#production-drills)"""


def enter() -> None:
    """Start the calling command again in new namespaces, unless it runs there already; exit where they are forbidden.

    The first process of the namespace is a shell, because it reaps the orphans that a killed program leaves.
    """
    if os.environ.get(_INSIDE):
        return
    rights = [] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    inside = ["sh", "-c", '"$@" & wait $!', "sh", sys.executable, *sys.orig_argv[1:]]
    namespaces = ["unshare", *rights, "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*namespaces, "true"], check=False).returncode != 0:
        sys.exit(_FORBIDDEN)
    os.execvpe(namespaces[0], [*namespaces, *inside], os.environ | {_INSIDE: "1"})  # noqa: S606 - a fixed program


@contextmanager
def network() -> Iterator[None]:
    """Set up loopback and the bridge of the calling process's namespace."""
    for words in (
        "link set lo up",
        "link add okcm type bridge",
        f"address add {CLIENTS}/24 dev okcm",
        "link set okcm up",
    ):
        _ip(*words.split())
    yield


class Host:
    """A network namespace with one address on the bridge."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self.number, self.address, self._link = name, number, f"{NETWORK}.{number}", f"okcm{number}"
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        own = _namespace(os.getpid())
        while _namespace(self._holder.pid) in {own, ""} or self._command() != "sleep":
            time.sleep(0.01)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", str(self._holder.pid))
        _ip("link", "set", self._link, "master", "okcm", "up")
        for words in (f"address add {self.address}/24 dev eth0", "link set lo up", "link set eth0 up"):
            subprocess.run([*self.enter(), "ip", *words.split()], check=True)

    def enter(self) -> list[str]:
        """Return the beginning of a command that runs on this host."""
        return ["nsenter", f"--target={self._holder.pid}", "--net", "--"]

    def set_kernel(self, parameter: str, value: int) -> None:
        """Set a parameter of IPv4 on the host (sysctl)."""
        write = f"echo {value} > /proc/sys/net/ipv4/{parameter}"
        subprocess.run([*self.enter(), "sh", "-c", write], check=True)

    def has(self, address: str) -> bool:
        """Return whether the host has an address of the bridge besides its own."""
        shown = subprocess.run([*self.enter(), "ip", "-4", "address"], check=True, capture_output=True, text=True)
        return f" {address}/" in shown.stdout

    def cut_off(self) -> None:
        """Drop every packet from and to this host."""
        _ip("link", "set", self._link, "down")

    def reconnect(self) -> None:
        """Undo `cut_off`."""
        _ip("link", "set", self._link, "up")

    def pids(self) -> list[int]:
        """Return the processes on this host."""
        here = _namespace(self._holder.pid)
        return [pid for pid in _all_pids() if pid != self._holder.pid and _namespace(pid) == here]

    def _command(self) -> str:
        return Path(f"/proc/{self._holder.pid}/comm").read_text(encoding="utf-8").strip()


@dataclass
class Program:
    """A supervised program: it starts again a second after it ended, unless `stop` ended it."""

    name: str
    host: Host | None
    """None: beside the clients."""
    command: Sequence[str | Path]
    folder: Path
    """Its working directory."""
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    unprivileged: bool = False
    process: subprocess.Popen[bytes] | None = None
    wanted: bool = False
    ended: float = 0.0

    def start(self) -> None:
        self.wanted = True
        enter = [] if self.host is None else self.host.enter()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*enter, *child(unprivileged() if self.unprivileged else None), *map(str, self.command)],
                env=os.environ | {"HOME": str(self.folder)} | self.environment,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )

    def send(self, signal_number: int) -> None:
        """Send a signal to the program and all its descendants."""
        assert self.process is not None
        for pid in reversed(_tree(self.process.pid)):
            send(pid, signal_number)

    def terminate(self, seconds: float = 60) -> float:
        """Send SIGTERM to the main process only, as a service manager does; return the seconds until its end."""
        assert self.process is not None
        began, self.wanted = time.monotonic(), False
        self.process.terminate()
        self.process.wait(seconds)
        return time.monotonic() - began


class Supervisor:
    """Starts programs again when they end, as a service manager does."""

    def __init__(self) -> None:
        self.programs: dict[str, Program] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def start(self, program: Program) -> Program:
        """Start a program and supervise it from now."""
        self.programs[program.name] = program
        program.start()
        return program

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            for program in list(self.programs.values()):
                if not program.wanted or program.process is None or program.process.poll() is None:
                    program.ended = 0.0
                elif program.ended == 0.0:
                    program.ended = time.monotonic()
                elif time.monotonic() - program.ended > _RESTART_SECONDS:
                    program.ended = 0.0
                    program.start()


def send(pid: int, signal_number: int) -> None:
    """Send a signal to a process, which may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal_number)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:
        return ""


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for pid in _all_pids():
        try:
            parent = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(pid)
    found, rest = [root], [root]
    while rest:
        more = children.get(rest.pop(), [])
        found += more
        rest += more
    return found
