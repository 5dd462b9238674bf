"""Real servers for every test that asks: one of each for the whole session, shared by all xdist workers.

A server that is wanted and does not come up fails the test; it never skips it.
"""

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack import ports
from devstack.openbao import OpenBaoServer
from devstack.postgres import PostgresServer
from devstack.secrets import ensure_secrets
from devstack.temporal import TemporalServer
from tests.devstack.sharing import shared

_MEMORY = Path("/dev/shm")
_ROOM = 8 * 1024**3
"""More than twice of what a whole run leaves behind."""


def pytest_configure() -> None:
    """Spare what costs most and tests nothing: compiling the same modules in every process, and the disk.

    Containers often set PYTHONDONTWRITEBYTECODE; each of the hundreds of processes that a run starts, and each workflow
    in its sandbox, would then compile all that it imports. Files are kept in memory where there is plenty, unless
    TMPDIR says where: on a disk, making and removing those of a database takes four times the CPU, and no test needs
    them to survive more than the death of a process.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if "TMPDIR" not in os.environ and _is_roomy():
        os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)


def pytest_collection_finish() -> None:
    """Take what is imported and collected by now, which stays to the end, out of each look for garbage."""
    gc.collect()
    gc.freeze()


def _is_roomy() -> bool:
    if not _MEMORY.is_dir() or os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC or shutil.disk_usage(_MEMORY).free < _ROOM:
        return False
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    return int(meminfo["MemAvailable"].split()[0]) * 1024 > _ROOM * 3 // 2


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one folder of this test session, the same in every xdist worker."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def postgres(session_folder: Path) -> Iterator[PostgresServer]:
    """An empty PostgreSQL; its superuser's way in is `admin_conninfo`."""
    with shared(session_folder / "postgres", 1, lambda folder, chosen: PostgresServer(folder, chosen[0])) as server:
        yield server


@pytest.fixture(scope="session")
def openbao(session_folder: Path) -> Iterator[OpenBaoServer]:
    """An OpenBao that initialised itself from the product's own stanzas; its secret files are in `secrets` beside."""

    def make(folder: Path, chosen: tuple[int, ...]) -> OpenBaoServer:
        ensure_secrets(folder / "secrets")
        return OpenBaoServer(folder, chosen[0], folder / "secrets")

    with shared(session_folder / "openbao", 1, make, neighbours=1) as server:
        yield server


@pytest.fixture(scope="session")
def temporal(session_folder: Path) -> Iterator[TemporalServer]:
    """A Temporal with the product's search attributes, on which a test may also move a workflow's clock."""

    def make(folder: Path, chosen: tuple[int, ...]) -> TemporalServer:
        port, ui_port, metrics_port = chosen
        return TemporalServer(folder, port, ui_port, metrics_port, time_skipping=True)

    with shared(session_folder / "temporal", 3, make) as server:
        yield server


@pytest.fixture
def free_port() -> int:
    return ports.free_port()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long form of the chaos tests (make chaos)")
