"""The process `python -m marketplace`, as its supervisor uses it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from config import secrets
from config.secrets import Role
from tests.concurrency import wait_until
from tests.marketplace.conftest import CURRENT, TOKEN

pytestmark = pytest.mark.integration


@pytest.fixture
def environment(tmp_path: Path, free_port: int) -> dict[str, str]:
    folder = tmp_path / "secrets"
    secrets.ensure_secret(folder, secrets.WEBHOOK_SECRETS, CURRENT)
    secrets.ensure_secret(folder, secrets.MARKETPLACE_TOKEN, TOKEN)
    secrets.ensure_secret(folder, secrets.database_password(Role.MARKETPLACE))
    secrets.ensure_secret(folder, secrets.context_key(Role.MARKETPLACE))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OPENKCM_")}
    return inherited | {
        "OPENKCM_SECRETS_DIR": str(folder),
        "OPENKCM_DATABASE_URL": "postgresql://127.0.0.1:1/openkcm",
        "OPENKCM_TEMPORAL_PORT": "1",
        "OPENKCM_MARKETPLACE_PORT": str(free_port),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }


def start(environment: dict[str, str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "marketplace"], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )


def test_process_serves_during_outages_and_stops_cleanly_on_sigterm(environment, tmp_path, free_port):
    process = start(environment, tmp_path)
    try:
        wait_until(lambda: answers(free_port) or process.poll() is not None)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    finally:
        process.kill()

    assert process.returncode == 0
    assert CURRENT not in log
    assert TOKEN not in log


def answers(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).json() == {"status": "ok"}
    except httpx2.HTTPError:
        return False


def test_missing_secret_ends_the_process_with_status_2_and_a_hint(environment, tmp_path):
    (tmp_path / "secrets" / secrets.MARKETPLACE_TOKEN).unlink()

    process = start(environment, tmp_path)
    _, log = process.communicate(timeout=60)

    assert process.returncode == 2
    assert "marketplace-token" in log
    assert "hint:" in log
