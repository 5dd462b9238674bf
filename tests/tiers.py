"""The tier of each test: its marker, or else its folder or the servers it uses. CONTRIBUTING.md describes the tiers."""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from xdist.scheduler import LoadFileScheduling

TIERS = ("unit", "integration", "e2e", "full")
_FULL_FOLDERS = {"stories", "chaos", "breaches", "lives"}
_SERVERS = {"postgres", "server", "vault", "temporal", "temporal_client", "stack", "stage", "mongo", "free_port"}
"""Fixtures that start a server, or that lead a test to one."""
_FORBIDDEN_EVENTS = {"socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.posix_spawn", "pty.spawn"}
"""Audit events (PEP 578) of what a unit test does not do."""
_start, _sleep = threading.Thread.start, time.sleep


class NotAUnitTest(BaseException):
    """A unit test used the network, a process or a pause; a BaseException, so that no handler hides it."""


_guarded: set[threading.Thread] = set()
"""The thread of the unit test that is running, and those it started: servers of other tests go on meanwhile."""


def assign(items: Sequence[pytest.Item]) -> None:
    """Add the marker of its tier to each test that has none.

    Raises:
        pytest.UsageError: a test has two.
    """
    for item in items:
        marked = tier_marks(item)
        if len(marked) > 1:
            raise pytest.UsageError(f"{item.nodeid} has the markers {' and '.join(sorted(marked))}: remove all but one")
        if not marked:
            item.add_marker(_default(item))


def tier_marks(item: pytest.Item) -> set[str]:
    """Return the tiers of the nearest level (test, class, module) that names one."""
    for node in reversed(item.listchain()):
        if found := {mark.name for mark in node.own_markers} & set(TIERS):
            return found
    return set()


def is_short(item: pytest.Item) -> bool:
    """Return whether the test is of a module without long tests; sorts those with long ones first."""
    return not (_FULL_FOLDERS & set(item.path.parts))


def _default(item: pytest.Item) -> str:
    if _FULL_FOLDERS & set(item.path.parts):
        return "full"
    return "integration" if _SERVERS & set(getattr(item, "fixturenames", ())) else "unit"


class Scheduling(LoadFileScheduling):
    """A module stays in one worker process; outside the full tier the few stories share one installation as well."""

    def _split_scope(self, nodeid: str) -> str:
        scope: str = super()._split_scope(nodeid)
        is_short = self.config.getoption("markexpr") == "not full" and scope.startswith("tests/stories/")
        return "tests/stories" if is_short else scope


@contextmanager
def enforced(item: pytest.Item) -> Iterator[None]:
    """Make whatever needs a server or waits fail in a unit test.

    For its set-up and itself, not for its tear-down: the last test of a process stops the servers of the others.
    """
    if "unit" not in tier_marks(item):
        yield
        return
    _watch()
    _guarded.add(threading.current_thread())
    try:
        with (
            mock.patch.object(time, "sleep", _refuse_sleep),
            mock.patch.object(threading.Thread, "start", _start_guarded),
        ):
            yield
    finally:
        _guarded.clear()


def fail_skipped(report: pytest.TestReport) -> None:
    """Turn a skip into a failure: a suite that lacks what it needs is not green."""
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, which counts as a failure here: {report.longrepr}"


def _start_guarded(thread: threading.Thread) -> None:
    if threading.current_thread() in _guarded:
        _guarded.add(thread)
    _start(thread)


def _refuse_sleep(seconds: float) -> None:
    if threading.current_thread() in _guarded:
        _refuse(f"sleeps {seconds} s")
    _sleep(seconds)


def _refuse(what: str) -> None:
    raise NotAUnitTest(f"a unit test {what}: give it a condition to wait for, or mark it `integration`")


def _watch() -> None:
    if hasattr(sys, "_openkcm_unit_guard"):
        return
    guarded, forbidden = _guarded, _FORBIDDEN_EVENTS  # the module's own names are gone when the interpreter ends

    def on_event(event: str, _arguments: tuple[Any, ...]) -> None:
        if guarded and event in forbidden and threading.current_thread() in guarded:
            _refuse(f"causes {event}")

    sys.addaudithook(on_event)
    sys._openkcm_unit_guard = True  # type: ignore[attr-defined]  # an audit hook cannot be removed
