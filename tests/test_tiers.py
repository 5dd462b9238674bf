"""The tiers have the properties that CONTRIBUTING.md describes."""

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.tiers import LONG_MODULES, TIERS, NotAUnitTest, fail_skipped, is_full_module, tier_marks

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


@pytest.mark.parametrize(
    ("name", "text", "is_full"),
    [
        ("client/test_all.py", "pytestmark = pytest.mark.full", True),
        ("client/test_all.py", "pytestmark = [pytest.mark.full, pytest.mark.chaos]", True),
        ("client/test_one.py", "@pytest.mark.full", False),
        ("client/test_both.py", "pytestmark = pytest.mark.full\n\n\n@pytest.mark.unit", False),
        ("e2e/test_story.py", "def test_story():", True),
        ("e2e/test_story.py", "@pytest.mark.e2e", False),
        ("mutation/test_one.py", "pytest.param(1, marks=pytest.mark.integration)", False),
        ("e2e/conftest.py", "", False),
        ("client/test_one.py", "", False),
    ],
)
def test_module_is_full_if_no_test_has_another_tier(tmp_path: Path, name: str, text: str, is_full: bool) -> None:  # noqa: FBT001 - a parameter of a table
    path = tmp_path / name
    path.parent.mkdir()
    path.write_text(text, encoding="ascii")
    assert is_full_module(path) is is_full


@pytest.mark.parametrize("name", LONG_MODULES)
def test_long_module_exists(name: str) -> None:
    assert (ROOT / "tests" / name).is_file()


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


@pytest.mark.integration
def test_hanging_test_fails_with_its_stack_and_the_others_run(tmp_path: Path) -> None:
    (tmp_path / "test_hanging.py").write_text(
        "import threading\n\ndef test_hangs():\n    threading.Event().wait()\n\ndef test_other():\n    pass\n",
        encoding="ascii",
    )
    options = ["--rootdir", tmp_path, "-p", "no:randomly", "-n", "1", "-o", "faulthandler_timeout=1"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", *options, tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 1, run.stderr
    assert re.search(r"FAILED \S*test_hanging.py::test_hangs", run.stdout)
    assert "1 failed, 1 passed" in run.stdout
    assert "in test_hangs" in run.stderr


def test_every_test_has_a_deadline(pytestconfig: pytest.Config) -> None:
    assert 0 < float(pytestconfig.getini("faulthandler_timeout")) <= 600
