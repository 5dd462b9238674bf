"""Kill -9 of random processes of a whole installation, the supervisor included."""

import asyncio
import os
import random
import signal
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

from tests.e2e.platform.test_survival import processes_of
from tests.e2e.stack import Stack

_MEAN_PAUSE_SECONDS = 2.0
_SUPERVISOR = "devstack.stack"


async def kill_randomly(stack: Stack, choices: random.Random, kills: int) -> Counter[str]:
    """Kill `kills` processes, first choosing what kind of process; return the number of kills by kind."""
    killed: Counter[str] = Counter()
    while killed.total() < kills:
        await asyncio.sleep(choices.expovariate(1 / _MEAN_PAUSE_SECONDS))
        running = await asyncio.to_thread(_pids_by_kind, stack)
        if not running:
            continue
        kind = choices.choice(sorted(running))
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(choices.choice(running[kind]), signal.SIGKILL)
            killed[kind] += 1
        if kind == _SUPERVISOR:
            await asyncio.to_thread(start, stack)
    return killed


def start(stack: Stack) -> None:
    """Start the installation, as an operator who repeats `make up` until it is ready."""
    while stack.run("up").returncode:
        pass


def _pids_by_kind(stack: Stack) -> dict[str, list[int]]:
    found = defaultdict(list)
    for identity in processes_of(stack):
        with suppress(OSError):
            found[_kind(Path(f"/proc/{identity.pid}/cmdline").read_bytes())].append(identity.pid)
    found.pop("", None)
    return found


def _kind(command: bytes) -> str:
    """Return the kind of a process by its command line; empty for an ending process and for commands of the test."""
    words = command.rstrip(b"\0").decode(errors="replace").split("\0")
    if words[0].startswith("postgres: "):
        return "a child of postgres"
    if "-m" in words:
        return words[words.index("-m") + 1]
    return Path(words[0]).name
