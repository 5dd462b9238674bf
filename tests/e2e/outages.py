"""Outages of servers of the stack: a server is killed or halted during a test."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from devstack.servers import process
from tests.concurrency import wait_until
from tests.e2e.stack import Stack
from tests.pausing import pause, paused, resume


def children_of(pid: int) -> list[int]:
    """Return the child processes of `pid`."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


@contextmanager
def down(stack: Stack, component: str) -> Iterator[None]:
    """Kill a component and halt its supervisor during the block, so that it is restarted only afterwards."""
    victim = process.identify(stack.pids()[component])
    assert victim is not None
    supervisor = parent_of(victim.pid)
    # Sessions of PostgreSQL survive a killed postmaster for some time; SIGQUIT ends them immediately.
    how = signal.SIGQUIT if component == "postgres" else signal.SIGKILL
    pause(supervisor)
    try:
        os.kill(victim.pid, how)
        assert process.wait_until_gone([victim], 10)
        yield
    finally:
        resume(supervisor)
        wait_until(lambda: _is_ready(stack, component, victim.pid), lambda: f"{component} did not restart")
        # A process clears its caches when it reads changes again, up to a second after the restart of the database.
        wait_until(lambda: all_read_changes(stack), lambda: "the crypto service does not read changes")


@contextmanager
def hanging(stack: Stack, component: str) -> Iterator[None]:
    """Halt a component during the block: it accepts connections but does not respond."""
    with paused(stack.pids()[component]):
        yield


def parent_of(pid: int) -> int:
    """Return the parent process of `pid`."""
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])


def _is_ready(stack: Stack, component: str, before: int) -> bool:
    found = {one["name"]: one for one in stack.components()}[component]
    return found["state"] == "ready" and found["pid"] != before


def all_read_changes(stack: Stack, since: datetime | None = None) -> bool:
    """Return whether every serving process of the crypto service, that is, all but the shipper, reads changes.

    With `since`, whether each has completed a read that began after that time of the database.
    """
    reading = "application_name = 'openkcm-crypto-feed' and query like '%%cache_changes%%'"
    done = "(%s::timestamptz is null or (query_start > %s and state = 'idle'))"
    with stack.owner() as owner:
        query = f"select count(*) from pg_stat_activity where {reading} and {done}"
        found = owner.execute(query, [since, since]).fetchone()
    assert found is not None
    return int(found[0]) == len(children_of(stack.pids()["crypto"])) - 1


def wait_until_changes_are_read(stack: Stack) -> None:
    """Wait until no change that is committed now can still clear a cache of the crypto service."""
    with stack.owner() as owner:
        row = owner.execute("select clock_timestamp()").fetchone()
    assert row is not None
    wait_until(lambda: all_read_changes(stack, row[0]), lambda: "the crypto service does not read changes")
