"""The process `python -m dashboard` and the checks of its load balancer."""

import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from config import secrets
from config.secrets import Role
from tests.concurrency import wait_until
from tests.database.fixtures import Field
from tests.database.schemas import outdate

pytestmark = pytest.mark.integration


@pytest.fixture
def environment(tmp_path: Path, free_port: int, field: Field) -> dict[str, str]:
    folder = tmp_path / "secrets"
    secrets.ensure_secrets(folder)
    (folder / secrets.database_password(Role.DASHBOARD)).write_text(field.server.passwords["dashboard"])
    (folder / secrets.context_key(Role.DASHBOARD)).write_text(field.key("dashboard").hex())
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OPENKCM_")}
    return inherited | {
        "OPENKCM_STATE_DIR": str(tmp_path),
        "OPENKCM_DATABASE_URL": field.url,
        "OPENKCM_TEMPORAL_PORT": "1",
        "OPENKCM_DASHBOARD_PORT": str(free_port),
        "OPENKCM_OIDC_METADATA_URL": "https://sign-on.example/.well-known/openid-configuration",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }


def test_readiness_names_what_is_wrong_while_the_process_is_alive(
    environment: dict[str, str], tmp_path: Path, free_port: int, field: Field
) -> None:
    def answer(path: str) -> tuple[int, dict[str, object]]:
        found = httpx2.get(f"http://127.0.0.1:{free_port}{path}", trust_env=False)
        return found.status_code, found.json()

    def is_alive() -> bool:
        try:
            return answer("/healthz") == (200, {"status": "ok"})
        except httpx2.HTTPError:
            return process.poll() is not None

    def is_refused_with(reason: str) -> bool:
        return answer("/readyz") == (503, {"status": "not_ready", "reasons": [reason]})

    migrate_again = outdate(field)
    process = subprocess.Popen([sys.executable, "-m", "dashboard"], cwd=tmp_path, env=environment)
    try:
        wait_until(is_alive)
        wait_until(lambda: is_refused_with("schema_outdated"))
        migrate_again()
        wait_until(lambda: answer("/readyz") == (200, {"status": "ready", "reasons": []}))
        with field.server.offline(field.name):
            wait_until(lambda: is_refused_with("database_unavailable"))
            assert is_alive()
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
