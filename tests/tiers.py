"""The tier of each test: by its marker, else by its folder or the servers it uses. CONTRIBUTING.md describes them."""

import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from xdist.scheduler import LoadFileScheduling

TIERS = ("unit", "integration", "e2e", "full")
_FULL_FOLDERS = {"e2e", "chaos", "mutation", "simulation"}
LONG_MODULES = (
    "database/platform/test_hot_queries.py",
    "devstack/stack/test_control.py",
    "activities/isolation/test_key_suite.py",
    "client/field_encryption/running/test_mongo_programs.py",
    "activities/root_keys/test_health.py",
    "activities/rotation/test_steps.py",
    "compliance/reports/render/test_pdf.py",
    "crypto_service/kmip/test_vectors.py",
    "workflows/test_recovery.py",
    "dashboard/services/test_page.py",
)
"""Modules of 15 to 60 CPU seconds, first: if such a module starts last, one process works while the others wait."""
_FULL_MARK = re.compile(r"^pytestmark = .*mark\.full\b", re.MULTILINE)
_OTHER_MARK = re.compile(r"mark\.(unit|integration|e2e)\b")
_SERVERS = {"postgres", "server", "vault", "temporal", "temporal_client", "stack", "stage", "mongo", "free_port"}
"""Fixtures that start a server, or that lead a test to one."""
_FORBIDDEN_EVENTS = {"socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.posix_spawn", "pty.spawn"}
"""Audit events (PEP 578) that a unit test must not cause."""
_start, _sleep = threading.Thread.start, time.sleep


class NotAUnitTest(BaseException):
    """A unit test used the network, a process or a pause; a BaseException, so that no handler hides it."""


_restricted: set[threading.Thread] = set()
"""The thread of the running unit test and the threads it started; servers of other tests continue meanwhile."""


def assign(items: Sequence[pytest.Item]) -> None:
    """Add the marker of its tier to each test that has none.

    Raises:
        pytest.UsageError: a test has two, or `make test` would not import its module although it is not full.
    """
    full_modules = {path for path in {item.path for item in items} if is_full_module(path)}
    for item in items:
        marked = tier_marks(item)
        if len(marked) > 1:
            raise pytest.UsageError(f"{item.nodeid} has the markers {' and '.join(sorted(marked))}: remove all but one")
        if item.path in full_modules and marked - {"full"}:
            raise pytest.UsageError(f"{item.nodeid} is not full as its module is: move it to another module")
        if not marked:
            item.add_marker(_default(item))


def is_full_module(path: Path) -> bool:
    """Return whether all tests of a module are full, from its text: the import of such modules takes seconds."""
    if not path.match("test_*.py"):
        return False
    text = path.read_text(encoding="utf-8")
    is_full = bool(_FULL_FOLDERS & set(path.parts) or _FULL_MARK.search(text))
    return is_full and not _OTHER_MARK.search(text)


def tier_marks(item: pytest.Item) -> set[str]:
    """Return the tiers of the nearest level (test, class, module) that names one."""
    for node in reversed(item.listchain()):
        if found := {mark.name for mark in node.own_markers} & set(TIERS):
            return found
    return set()


def turn(item: pytest.Item) -> int:
    """Return the position of its module: stories first, so that one installation serves them, then other long ones."""
    folders = _FULL_FOLDERS & set(item.path.parts)
    if "e2e" in folders:
        return 0
    return 1 if folders or item.path.as_posix().endswith(LONG_MODULES) else 2


def _default(item: pytest.Item) -> str:
    if _FULL_FOLDERS & set(item.path.parts):
        return "full"
    return "integration" if _SERVERS & set(getattr(item, "fixturenames", ())) else "unit"


class Scheduling(LoadFileScheduling):
    """A module stays in one worker process; outside the full tier the few stories share one installation as well."""

    def _split_scope(self, nodeid: str) -> str:
        scope: str = super()._split_scope(nodeid)
        is_short = self.config.getoption("markexpr") == "not full" and scope.startswith("tests/e2e/")
        return "tests/e2e" if is_short else scope


@contextmanager
def enforced(item: pytest.Item) -> Iterator[None]:
    """Make a unit test fail if it uses a server or waits.

    This applies to its set-up and itself, not to its tear-down: the last test of a process stops the servers of others.
    """
    if "unit" not in tier_marks(item):
        yield
        return
    _install_audit_hook()
    _restricted.add(threading.current_thread())
    try:
        with (
            mock.patch.object(time, "sleep", _refuse_sleep),
            mock.patch.object(threading.Thread, "start", _start_restricted),
        ):
            yield
    finally:
        _restricted.clear()


def fail_skipped(report: pytest.TestReport) -> None:
    """Turn a skip into a failure: a suite without its requirements has not passed."""
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, which counts as a failure here: {report.longrepr}"


def _start_restricted(thread: threading.Thread) -> None:
    if threading.current_thread() in _restricted:
        _restricted.add(thread)
    _start(thread)


def _refuse_sleep(seconds: float) -> None:
    if threading.current_thread() in _restricted:
        _refuse(f"sleeps {seconds} s")
    _sleep(seconds)


def _refuse(what: str) -> None:
    raise NotAUnitTest(f"a unit test {what}: give it a condition to wait for, or mark it `integration`")


def _install_audit_hook() -> None:
    if hasattr(sys, "_openkcm_unit_guard"):
        return
    restricted, forbidden = _restricted, _FORBIDDEN_EVENTS  # module globals are gone at the end of the interpreter

    def on_event(event: str, _arguments: tuple[Any, ...]) -> None:
        if restricted and event in forbidden and threading.current_thread() in restricted:
            _refuse(f"causes {event}")

    sys.addaudithook(on_event)
    sys._openkcm_unit_guard = True  # type: ignore[attr-defined]  # an audit hook cannot be removed
