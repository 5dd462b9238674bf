"""Whoever serves goes first where that is allowed, and is one of many again while more is asked than fits."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.integration

PROGRAM = """
import asyncio, json, os, resource, sys, threading, time
import uvloop
import pytest

from crypto_service.server.realtime_scheduling import precedence

def of_all():
    return sorted({os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")})

def busy(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass

async def main():
    seen, stop = {}, threading.Event()
    with precedence(asyncio.get_running_loop()) as allowed:
        started_later = threading.Thread(target=stop.wait)
        started_later.start()
        seen["at rest"] = of_all()
        for _ in range(50):
            busy(0.001)
            await asyncio.sleep(0.001)
        seen["busy now and then"] = of_all()
        # Two turns of the loop: it hears of signals when it looks for what has come.
        for _ in range(2):
            busy(0.2)
            await asyncio.sleep(0)
        seen["without rest"] = of_all()
        await asyncio.sleep(1.5)
        seen["at rest again"] = of_all()
        busy(0.2)
        await asyncio.sleep(0.1)
        seen["without rest again"] = of_all()
    seen["after"], seen["limit"] = of_all(), resource.getrlimit(resource.RLIMIT_RTTIME)[0] == resource.RLIM_INFINITY
    await asyncio.sleep(1.2)
    busy(0.2)
    seen["later"] = of_all()
    stop.set()
    print(json.dumps([allowed, seen]))

if len(sys.argv) > 1:
    resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
    if os.geteuid() == 0:
        os.setuid(int(sys.argv[1]))
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""
FIRST, FAIR, NOBODY = os.SCHED_RR, os.SCHED_OTHER, 65534


def seen(*arguments: str) -> tuple[bool, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], check=True, capture_output=True, text=True, timeout=120
    )
    allowed, told = json.loads(done.stdout.splitlines()[-1])
    return allowed, told


def is_allowed() -> bool:
    """Ask the system itself, in a process of its own."""
    program = "import os; os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))"
    return subprocess.run([sys.executable, "-c", program], check=False, stderr=subprocess.DEVNULL).returncode == 0


def test_it_goes_first_but_while_it_is_busy_without_rest():
    allowed, told = seen()
    assert allowed == is_allowed()
    first = [FIRST] if allowed else [FAIR]
    assert told == {
        "at rest": first,
        "busy now and then": first,
        "without rest": [FAIR],
        "at rest again": first,
        "without rest again": [FAIR],
        "after": [FAIR],
        "limit": True,
        "later": [FAIR],
    }


def test_whoever_may_not_serves_like_anybody():
    allowed, told = seen(str(NOBODY))
    assert not allowed
    assert {tuple(policies) for name, policies in told.items() if name != "limit"} == {(FAIR,)}
