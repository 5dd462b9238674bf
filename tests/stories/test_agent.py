"""An agent beside my service has it connected by a proof, renews its certificate, and shows that it is there."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509

from crypto.client import Client
from tests.agent.conftest import assert_whole
from tests.stories.connected import Service, connect
from tests.stories.enrolling import Issuer
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
    with (tmp_path / "agent.log").open("wb") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", "cli", "agent", *words], cwd=ROOT, env=elsewhere(), stderr=log
        )
    yield started
    if started.poll() is None:
        started.kill()
    started.wait(10)


def elsewhere() -> dict[str, str]:
    """The environment of a machine that knows nothing of this installation."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("OPENKCM_", "KCM_"))}


def run_once(words: list[str], proof: str) -> "subprocess.CompletedProcess[str]":
    """Do once what an agent has to do, with its proof on standard input."""
    command = [sys.executable, "-m", "cli", *words, "--once"]
    return subprocess.run(
        command, cwd=ROOT, env=elsewhere(), input=proof, capture_output=True, text=True, timeout=240, check=False
    )


def assert_encrypts(folder: Path) -> None:
    with Client.from_folder(folder) as kcm:
        assert kcm.decrypt(kcm.encrypt(b"a record", "orders/1"), "orders/1") == b"a record"


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


def test_the_command_that_comes_with_a_join_token_connects_a_service_and_nobody_else(
    stack: Stack, acme: str, tmp_path: Path
) -> None:
    made = stack.command("service", "join-token", acme, "--kind", "microservice", "--name", "joined")
    program, *words = shlex.split(made["agent_command"])
    assert program == "openkcm"
    words[words.index("--out") + 1] = str(tmp_path / "kcm")

    joined = run_once(words, made["join_token"])
    assert joined.returncode == 0, joined.stderr
    assert_whole(tmp_path / "kcm")
    assert_encrypts(tmp_path / "kcm")
    words[words.index("--out") + 1] = str(tmp_path / "thief")
    thief = run_once(words, made["join_token"])
    assert thief.returncode == 1
    assert "proof_refused" in thief.stderr
    assert not (tmp_path / "thief" / "client.pem").exists()
    for told in (joined, thief):
        assert made["join_token"].split(".")[2] not in told.stdout + told.stderr


def test_the_platforms_word_connects_a_service_through_its_agent(
    stack: Stack, acme: str, platform: Issuer, tmp_path: Path
) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text(httpx.get(f"{stack.settings.marketplace_url}/.well-known/openkcm").json()["ca"])
    words = ["agent", "--url", stack.settings.marketplace_url, "--service", "vouched-for", "--kind", "postgresql"]
    words += ["--out", str(tmp_path / "kcm"), "--jwt-file", "-", "--ca-file", str(ca_file)]
    joined = run_once(words, platform.token(acme, "vouched-for"))
    assert joined.returncode == 0, joined.stderr
    assert_encrypts(tmp_path / "kcm")
