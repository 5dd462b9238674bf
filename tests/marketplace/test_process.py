"""The process `python -m marketplace`, as its supervisor uses it."""

import json
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
from tests.database.fixtures import Field
from tests.database.schemas import outdate
from tests.marketplace.conftest import CURRENT, TOKEN, an_event, signed
from tests.ports import free_ports

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


@pytest.mark.parametrize("traces", [{}, {"OPENKCM_OTLP_ENDPOINT": "http://127.0.0.1:1"}], ids=["untraced", "traced"])
def test_process_serves_during_outages_and_stops_cleanly_on_sigterm(environment, tmp_path, free_port, traces):
    process = start(environment | traces, tmp_path)
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


@pytest.mark.parametrize(
    ("networks", "source"),
    [('["127.0.0.0/8"]', "203.0.113.9"), ('["192.0.2.0/24"]', "127.0.0.1"), ("[]", "127.0.0.1")],
    ids=["from its proxy", "from another address", "without proxies"],
)
def test_forwarded_address_is_the_source_only_if_a_proxy_sends_it(
    environment: dict[str, str], tmp_path: Path, free_port: int, field: Field, *, networks: str, source: str
) -> None:
    folder = tmp_path / "secrets"
    (folder / secrets.database_password(Role.MARKETPLACE)).write_text(field.server.passwords["marketplace"])
    (folder / secrets.context_key(Role.MARKETPLACE)).write_text(field.key("marketplace").hex())
    more = {"OPENKCM_DATABASE_URL": field.url, "OPENKCM_PROXY_NETWORKS": networks}
    process = start(environment | more, tmp_path)
    body = json.dumps(an_event()).encode()
    try:
        wait_until(lambda: answers(free_port) or process.poll() is not None)
        accepted = httpx2.post(
            f"http://127.0.0.1:{free_port}/v1/events",
            content=body,
            # A client can send this header too: the proxy appends the address of the client to it.
            headers=signed(body) | {"x-forwarded-for": "198.51.100.1, 203.0.113.9"},
            trust_env=False,
        )
        assert accepted.status_code == 202
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
    with field.open("worker").tenant_tx("acme-corp-12345") as tx:
        [stored] = tx.audit.records()
    assert json.loads(stored.record)["source"] == source


def test_status_token_is_replaced_without_an_interruption(
    environment: dict[str, str], tmp_path: Path, free_port: int, field: Field
) -> None:
    """Instances that start before, within and after the replacement."""
    folder = tmp_path / "secrets"
    (folder / secrets.database_password(Role.MARKETPLACE)).write_text(field.server.passwords["marketplace"])
    (folder / secrets.context_key(Role.MARKETPLACE)).write_text(field.key("marketplace").hex())
    processes = []

    def start_instance(port: int) -> int:
        address = {"OPENKCM_DATABASE_URL": field.url, "OPENKCM_MARKETPLACE_PORT": str(port)}
        process = start(environment | address, tmp_path)
        processes.append(process)
        wait_until(lambda: answers(port) or process.poll() is not None)
        return port

    def status(port: int, token: str) -> int:
        url = f"http://127.0.0.1:{port}/v1/tenants/unknown-corp"
        return httpx2.get(url, headers={"authorization": f"Bearer {token}"}, trust_env=False).status_code

    try:
        before = start_instance(free_port)
        secrets.add_new_values(folder, [secrets.MARKETPLACE_TOKEN])
        new = secrets.read_secret(folder, secrets.MARKETPLACE_TOKEN)
        ports = free_ports(2)
        within = start_instance(ports[0])
        assert [status(port, TOKEN) for port in (before, within)] == [404, 404]  # the marketplace has the former one
        assert [status(port, new) for port in (before, within)] == [401, 404]
        secrets.remove_former_values(folder, [secrets.MARKETPLACE_TOKEN])
        after = start_instance(ports[1])
        assert [status(port, new) for port in (within, after)] == [404, 404]  # the marketplace has the new one
        assert status(after, TOKEN) == 401
        assert status(within, f"{new} {TOKEN}") == 401
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_readiness_names_an_outdated_schema_and_events_are_retried(
    environment: dict[str, str], tmp_path: Path, free_port: int, field: Field
) -> None:
    folder = tmp_path / "secrets"
    (folder / secrets.database_password(Role.MARKETPLACE)).write_text(field.server.passwords["marketplace"])
    (folder / secrets.context_key(Role.MARKETPLACE)).write_text(field.key("marketplace").hex())
    migrate_again = outdate(field)
    process = start(environment | {"OPENKCM_DATABASE_URL": field.url}, tmp_path)
    try:
        wait_until(lambda: answers(free_port) or process.poll() is not None)
        wait_until(lambda: reasons(free_port) == (503, ["schema_outdated"]))
        body = json.dumps(an_event()).encode()
        with httpx2.Client(base_url=f"http://127.0.0.1:{free_port}", trust_env=False) as sender:
            refused = sender.post("/v1/events", content=body, headers=signed(body))
            assert (refused.status_code, refused.json()["code"]) == (503, "schema_outdated")
            assert refused.headers["retry-after"]
            migrate_again()
            wait_until(lambda: reasons(free_port) == (200, []))
            assert sender.post("/v1/events", content=body, headers=signed(body)).status_code == 202
        with field.server.offline(field.name):
            wait_until(lambda: reasons(free_port) == (503, ["database_unavailable"]))
            assert answers(free_port)
    finally:
        process.kill()
        process.communicate()


def reasons(port: int) -> tuple[int, list[str]]:
    answer = httpx2.get(f"http://127.0.0.1:{port}/readyz", trust_env=False)
    return answer.status_code, answer.json()["reasons"]


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
