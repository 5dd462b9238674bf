"""Real servers for every test that asks: one of each for the whole session, shared by all xdist workers.

A server that is wanted and does not come up fails the test; it never skips it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack import ports
from devstack.openbao import OpenBaoServer
from devstack.postgres import PostgresServer
from devstack.secrets import ensure_secrets
from devstack.temporal import TemporalServer
from tests.devstack.sharing import shared


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
