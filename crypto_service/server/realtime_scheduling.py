"""Real-time scheduling of the crypto service where the system permits it, suspended under sustained load.

A response takes a fraction of a millisecond. If the fair scheduler also runs background work, about one response in
thirty waits some milliseconds for another process, which customers notice. With real-time scheduling (sched(7),
SCHED_RR) it does not wait.

Other processes are not starved. The kernel signals a thread that is busy for `_BUSY_MICROSECONDS` without a pause
(RLIMIT_RTTIME), and the process then runs with normal priority for `_NORMAL_SECONDS`. A thread that pauses more often
keeps its priority; the kernel reserves 5 % for all other threads, which is enough to execute a manual lock. Threads
that compute have normal priority: otherwise one tenant's long computation would end the priority for all tenants.
"""

import asyncio
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

_LOWEST = 1
_BUSY_MICROSECONDS = 60_000
"""The loop sleeps much more often while tenants have work (turns.py); a thread that does not has a defect."""
_NORMAL_SECONDS = 1.0

_normal_threads: set[int] = set()

log = structlog.get_logger()


def keep_normal_priority() -> None:
    """Exclude the calling thread from real-time scheduling; it must exist until its process ends."""
    _normal_threads.add(threading.get_native_id())
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@contextmanager
def realtime_priority(loop: asyncio.AbstractEventLoop) -> Iterator[bool]:
    """Use real-time scheduling for the threads of this process while the block runs on `loop`.

    Yield whether it is permitted: to root, with CAP_SYS_NICE, or with a limit of RLIMIT_RTPRIO of 1.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
    timer: asyncio.TimerHandle | None = None

    def raise_priority() -> None:
        # Set each time, because the kernel raises the limit by a second with each signal.
        resource.setrlimit(resource.RLIMIT_RTTIME, (_BUSY_MICROSECONDS, hard))
        _schedule(os.SCHED_RR, _LOWEST)

    def lower_priority() -> None:
        nonlocal timer
        _schedule(os.SCHED_OTHER, 0)
        if timer is not None:
            timer.cancel()
        timer = loop.call_later(_NORMAL_SECONDS, raise_priority)

    # Installed first: without a handler the signal ends the process.
    loop.add_signal_handler(signal.SIGXCPU, lower_priority)
    try:
        raise_priority()
        allowed = True
    except PermissionError:
        allowed = False
    log.info("real-time scheduling", allowed=allowed)
    try:
        yield allowed
    finally:
        if timer is not None:
            timer.cancel()
        _schedule(os.SCHED_OTHER, 0)
        resource.setrlimit(resource.RLIMIT_RTTIME, (hard, hard))
        loop.remove_signal_handler(signal.SIGXCPU)


def _schedule(policy: int, priority: int) -> None:
    threads = {int(thread.name) for thread in Path("/proc/self/task").iterdir()} - _normal_threads
    for thread in threads:
        with suppress(ProcessLookupError):  # the thread has just ended
            os.sched_setscheduler(thread, policy, os.sched_param(priority))
