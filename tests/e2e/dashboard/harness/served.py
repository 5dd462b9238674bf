"""The dashboard alone on a real database: for stories that need neither workflows nor a key server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from config import secrets
from config.secrets import Role
from tests.concurrency import wait_until
from tests.dashboard.scene import Scene
from tests.database.fixtures import Field
from tests.e2e.outages import children_of, parent_of
from tests.pausing import paused
from tests.ports import free_port

_ROOT = Path(__file__).parents[4]
_START_SECONDS = 120


@dataclass(frozen=True, slots=True)
class ServedDashboard:
    """A running dashboard with the development sign-on, and the scene that it shows."""

    url: str
    folder: Path
    scene: Scene
    pid: int

    @contextmanager
    def hanging_database(self) -> Iterator[None]:
        """Halt every process of the database's server during the block."""
        with self.scene.field.administrator() as administrator:
            row = administrator.execute("select pg_backend_pid()").fetchone()
            assert row is not None
            postmaster = parent_of(row[0])
        with paused(postmaster, *children_of(postmaster)):
            yield


@contextmanager
def serve(field: Field, folder: Path, **settings: str) -> Iterator[ServedDashboard]:
    """Run the dashboard on a database, with additional settings, until the end of the block."""
    ensured = folder / "secrets"
    secrets.ensure_secrets(ensured)
    (ensured / secrets.database_password(Role.DASHBOARD)).write_text(field.server.passwords["dashboard"])
    (ensured / secrets.context_key(Role.DASHBOARD)).write_text(field.key("dashboard").hex())
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENKCM_")} | {
        "OPENKCM_STATE_DIR": str(folder),
        "OPENKCM_DATABASE_URL": field.url,
        "OPENKCM_TEMPORAL_PORT": "1",
        "OPENKCM_DASHBOARD_PORT": str(port),
        "PYTHONPATH": str(_ROOT),
        **settings,
    }
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([sys.executable, "-m", "devstack.dashboard"], cwd=folder, env=environment)
    with answering(process, f"{url}/readyz"):
        yield ServedDashboard(url, folder, Scene(field), process.pid)


@contextmanager
def answering(process: "subprocess.Popen[bytes]", url: str) -> Iterator[None]:
    """Wait until a server answers at an address, and kill it at the end of the block."""

    def is_ready() -> bool:
        assert process.poll() is None, f"{url}: the server ended with {process.returncode}"
        try:
            return httpx2.get(url, trust_env=False).is_success
        except httpx2.HTTPError:
            return False

    try:
        wait_until(is_ready, seconds=_START_SECONDS)
        yield
    finally:
        process.kill()
        process.wait()
