"""The tiers have the properties that CONTRIBUTING.md describes."""

import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.tiers import TIERS, NotAUnitTest, fail_skipped, tier_marks

ROOT = Path(__file__).parents[1]


def _connect() -> None:
    with socket.socket() as one:
        one.connect(("127.0.0.1", 9))


def _listen() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))


@pytest.mark.parametrize(
    "attempt",
    [
        _connect,
        _listen,
        lambda: subprocess.run(["true"], check=True),
        lambda: time.sleep(0.001),
    ],
    ids=["connect", "listen", "process", "sleep"],
)
def test_unit_test_that_uses_network_process_or_pause_fails(attempt: Callable[[], object]) -> None:
    with pytest.raises(NotAUnitTest, match="mark it `integration`"):
        attempt()


def test_thread_of_a_unit_test_is_restricted_as_well() -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(NotAUnitTest):
        pool.submit(_listen).result(30)


@pytest.fixture(scope="session")
def other_threads() -> Iterator[ThreadPoolExecutor]:
    """Threads that another test left running, such as those of a server."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(threading.get_ident).result(30)
        yield pool


def _serve() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_listen).result(30)
        pool.submit(time.sleep, 0.001).result(30)


@pytest.mark.unit
def test_threads_started_before_a_unit_test_may_listen_and_wait(other_threads: ThreadPoolExecutor) -> None:
    other_threads.submit(_serve).result(30)


@pytest.mark.integration
def test_integration_test_may_listen_and_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        time.sleep(0.001)


def test_every_selected_test_has_one_tier(request: pytest.FixtureRequest) -> None:
    assert [item.nodeid for item in request.session.items if len(tier_marks(item)) != 1] == []


def test_each_tier_belongs_to_a_make_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = dict(re.findall(r"^(test[a-z-]*): .* ##.*\n\t@\$\(PYTEST\) -n \S+ (.*)$", makefile, re.MULTILINE))
    assert targets == {
        "test-unit": "-m unit $(TESTS)",
        "test": '-m "not full" $(TESTS)',
        "test-full": "-m full $(TESTS)",
    }
    assert "test-full: test ##" in makefile
    assert set(TIERS) == {"unit", "integration", "e2e", "full"}


def test_skipped_test_fails() -> None:
    report = pytest.TestReport("a test", ("a file", 1, "a test"), {}, "skipped", ("a file", 1, "no server"), "setup")
    fail_skipped(report)
    assert report.failed
    assert "no server" in str(report.longrepr)
