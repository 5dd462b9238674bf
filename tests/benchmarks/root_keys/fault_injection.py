"""Outages of servers of the stack, for as long as a benchmark needs them."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from devstack.servers import process
from tests.benchmarks.harness.stack import Stack
from tests.pausing import pause, resume

_GONE_SECONDS = 10.0


@contextmanager
def without(stack: Stack, components: Sequence[str]) -> Iterator[float]:
    """Kill these components and yield the time; their supervisor is paused until the end of the block."""
    pids = stack.pids()
    victims = {name: process.identify(pids[name]) for name in components}
    supervisor = _parent_of(pids[components[0]])
    pause(supervisor)
    killed = time.monotonic()
    try:
        for name, victim in victims.items():
            assert victim is not None
            # PostgreSQL's sessions outlive a killed postmaster for a while; SIGQUIT ends them with it.
            os.kill(victim.pid, signal.SIGQUIT if name == "postgres" else signal.SIGKILL)
        assert process.wait_until_gone([victim for victim in victims.values() if victim], _GONE_SECONDS)
        yield killed
    finally:
        resume(supervisor)


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])
