"""I connect a database once, and an agent beside it renews its certificate, tells it, and shows that it is there."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.agent.conftest import assert_whole
from tests.stories.connected import Service, connect
from tests.stories.stack import ROOT, Stack, wait_until


@pytest.fixture(scope="module")
def ledger(stack: Stack, acme: str, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """ACME's PostgreSQL, connected by the command."""
    return connect(stack, acme, "postgresql", "ledger-db", tmp_path_factory.mktemp("agent") / "kcm")


@pytest.fixture
def agent(stack: Stack, ledger: Service, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The agent as its machine's init system starts it: with an address, a folder, and no settings of ours."""
    words = ["--url", stack.settings.marketplace_url, "--service", ledger.name, "--kind", "postgresql"]
    words += ["--out", str(ledger.folder), "--reload-command", f"touch {tmp_path}/reloaded"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENKCM_", "KCM_"))}
    with (tmp_path / "agent.log").open("wb") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", "cli", "agent", *words], cwd=ROOT, env=environment, stderr=log
        )
    yield started
    if started.poll() is None:
        started.kill()
    started.wait(10)


def listed(stack: Stack, service: Service) -> dict[str, Any]:
    rows = stack.command("service", "list", service.tenant_id)["services"]
    return next(row for row in rows if row["service_id"] == service.name)


def leaf_of(service: Service) -> x509.Certificate:
    return x509.load_pem_x509_certificate((service.folder / "client.pem").read_bytes())


def test_an_agent_takes_over_the_folder_renews_and_is_seen_as_connected(
    stack: Stack, ledger: Service, agent: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    log = tmp_path / "agent.log"
    assert listed(stack, ledger)["agents"] == []
    wait_until(lambda: bool(listed(stack, ledger)["agents"]), log.read_text)
    [seen] = listed(stack, ledger)["agents"]
    assert (seen["connected"], seen["problem"]) == (True, None)
    assert seen["certificate_not_after"] == leaf_of(ledger).not_valid_after_utc.isoformat()
    (tmp_path / "reloaded").unlink(missing_ok=True)

    first = leaf_of(ledger)
    stack.command("service", "renew", ledger.tenant_id, ledger.name)
    agent.send_signal(signal.SIGHUP)
    wait_until(lambda: leaf_of(ledger) != first, log.read_text)
    wait_until((tmp_path / "reloaded").exists, log.read_text)
    assert leaf_of(ledger).public_key() == first.public_key()
    assert_whole(ledger.folder)
    with ledger.open_https(), ledger.open_kmip():
        pass

    agent.terminate()
    assert agent.wait(20) == 0


def test_a_disconnected_service_is_not_renewed_and_its_agent_says_what_to_do(
    stack: Stack, ledger: Service, agent: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    log = tmp_path / "agent.log"
    wait_until(lambda: "agent runs" in log.read_text(), log.read_text)
    before = leaf_of(ledger)
    ledger.disconnect()
    agent.send_signal(signal.SIGHUP)
    wait_until(lambda: "certificate_revoked" in log.read_text(), log.read_text)
    assert "make a join token on the Services page" in log.read_text()
    assert agent.poll() is None
    assert leaf_of(ledger) == before
    assert_whole(ledger.folder)

    connect(stack, ledger.tenant_id, "postgresql", ledger.name, ledger.folder)
    agent.send_signal(signal.SIGHUP)
    wait_until(lambda: "problem is over" in log.read_text(), log.read_text)
