"""The real servers of a test process, and the tier of every test.

Each pytest worker process starts a server when its first test requests it, and keeps it to the end. A server that does
not start fails the test; it never skips it.
"""

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

from database.connection.database import Database
from devstack.servers import process
from devstack.servers.base import Server as DevelopmentServer
from devstack.servers.postgres import PostgresServer
from devstack.servers.temporal import TemporalServer
from tests import ports, tiers, timing
from tests.database.fixtures import Field, Server, clone, configure, prepare
from tests.vault import server as vault_server

# Property tests have no deadline: the duration of an example means nothing on a busy machine.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

_MEMORY = Path("/dev/shm")
_NICENESS = 0
"""The priority of the servers: a development stack and the tests have a lower one, but every test waits for these."""
_ROOM = 8 * 1024**3
"""More than twice the files of a complete run."""


def pytest_configure(config: pytest.Config) -> None:
    """Give the tests the priority of a development stack, and avoid repeated compilation and disk access.

    With a higher priority, the tests of the other processes would delay the start of a stack by minutes.

    Containers often set PYTHONDONTWRITEBYTECODE; each of the hundreds of processes of a run, and each workflow in its
    sandbox, would then compile all its imports. Files are stored in memory if enough is free, unless TMPDIR is set. On
    a disk, the files of a database cost several times the CPU, and they only have to survive the death of a process.
    """
    process.lower_priority(os.getpid(), DevelopmentServer.niceness)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if "TMPDIR" not in os.environ and _is_roomy():
        os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)
    if folder := config.getoption("--timing"):
        config.pluginmanager.register(timing.Recorder(folder.resolve()))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import the modules of which `make test` would deselect every test."""
    is_short = config.getoption("markexpr") == "not full"
    return True if is_short and tiers.is_full_module(collection_path) else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect no garbage meanwhile: almost all objects stay, and each search for garbage visits them all."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Assign the tiers before `-m` selects by them; after the shuffle, sort by length and share installations."""
    tiers.assign(items)
    yield
    items.sort(key=tiers.turn)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> tiers.Scheduling:
    return tiers.Scheduling(config, log)


def pytest_collection_finish() -> None:
    """Exclude all objects that exist after the collection from garbage collection, since they stay to the end."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with tiers.enforced(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with tiers.enforced(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    tiers.fail_skipped(report)
    return report


def _is_roomy() -> bool:
    if not _MEMORY.is_dir() or os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC or shutil.disk_usage(_MEMORY).free < _ROOM:
        return False
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    return int(meminfo["MemAvailable"].split()[0]) * 1024 > _ROOM * 3 // 2


@pytest.fixture
def standard_logs() -> Iterator[None]:
    """Send logs to the standard library's logging, so that a test captures all and standard output has none."""
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A PostgreSQL; `admin_conninfo` connects as its superuser."""
    running = PostgresServer(tmp_path_factory.mktemp("postgres"), ports.free_port())
    running.niceness = _NICENESS
    running.prepare()
    running.start()
    running.wait_ready(60)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def server(postgres: PostgresServer) -> Server:
    """The same PostgreSQL with a password for each role of the product."""
    return configure(postgres)


@pytest.fixture(scope="session")
def template(server: Server) -> str:
    """The name of a migrated database without connections, to be cloned."""
    prepare(server, "okcm_template")
    return "okcm_template"


@pytest.fixture
def field(server: Server, template: str) -> Iterator[Field]:
    """A migrated, empty database for one test."""
    with clone(server, template) as one:
        yield one


@pytest.fixture
def worker(field: Field) -> Database:
    return field.open("worker")


@pytest.fixture(scope="session")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[vault_server.Server]:
    """An OpenBao in the product's desired state, shared by all tests of the process: tenant ids must be unique."""
    running = vault_server.start(tmp_path_factory.mktemp("openbao"))
    yield running
    running.kill()


@pytest.fixture(scope="session")
def temporal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TemporalServer]:
    """A Temporal with the product's search attributes, on which a test may advance a workflow's clock."""
    running = TemporalServer(tmp_path_factory.mktemp("temporal"), *ports.free_ports(3), time_skipping=True)
    running.niceness = _NICENESS
    running.prepare()
    running.start()
    running.wait_ready(90)
    yield running
    running.stop()


@pytest.fixture
def free_port() -> int:
    return ports.free_port()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--timing", type=Path, help="record durations in this folder (python -m tests.timing FOLDER)")
    parser.addoption("--long", action="store_true", help="run the long form of the chaos tests (make chaos)")
