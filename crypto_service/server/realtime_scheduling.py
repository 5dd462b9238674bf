"""Precedence at the processors where the system allows it, given up whenever there is more to do than fits.

An answer here takes a fraction of a millisecond. Where the fair scheduler runs background work beside it, every
thirtieth or so waits some milliseconds for somebody else's turn to end: of no use to anybody, and what customers see.
With real-time scheduling (sched(7), SCHED_RR) it does not wait.

Nobody is starved by that: whoever is busy for `_RESTLESS_MICROSECONDS` on end, because so much is asked, is told by the
kernel (RLIMIT_RTTIME) and is one of many again for `_FAIR_SECONDS`. Whoever rests more often and little each time stays
first; what the kernel keeps for all others then, 5 %, is what a kill switch can count on.
"""

import asyncio
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

_LOWEST = 1
_RESTLESS_MICROSECONDS = 20_000
_FAIR_SECONDS = 1.0

log = structlog.get_logger()


@contextmanager
def precedence(loop: asyncio.AbstractEventLoop) -> Iterator[bool]:
    """Take precedence with all threads that this process has and starts, for as long as the block runs on `loop`.

    Yields whether it is allowed: to root, with CAP_SYS_NICE, or with a limit of RLIMIT_RTPRIO of 1.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
    again: asyncio.TimerHandle | None = None

    def take() -> None:
        # Anew each time: the kernel raises it by a second when it has told.
        resource.setrlimit(resource.RLIMIT_RTTIME, (_RESTLESS_MICROSECONDS, hard))
        _schedule(os.SCHED_RR, _LOWEST)

    def give_up_for_a_while() -> None:
        nonlocal again
        _schedule(os.SCHED_OTHER, 0)
        if again is not None:
            again.cancel()
        again = loop.call_later(_FAIR_SECONDS, take)

    # Before anything can be told: a process that does not listen for it is ended by it.
    loop.add_signal_handler(signal.SIGXCPU, give_up_for_a_while)
    try:
        take()
        allowed = True
    except PermissionError:
        allowed = False
    log.info("precedence at the processors", allowed=allowed)
    try:
        yield allowed
    finally:
        if again is not None:
            again.cancel()
        _schedule(os.SCHED_OTHER, 0)
        resource.setrlimit(resource.RLIMIT_RTTIME, (hard, hard))
        loop.remove_signal_handler(signal.SIGXCPU)


def _schedule(policy: int, priority: int) -> None:
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it has just ended
            os.sched_setscheduler(int(thread.name), policy, os.sched_param(priority))
