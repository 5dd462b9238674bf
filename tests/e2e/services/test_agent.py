"""An agent beside a service enrols it with an attestation, renews its certificate and sends heartbeats."""

import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from openkcm.sdk.client import Client
from tests.client.agent.conftest import assert_whole
from tests.commands import command_line
from tests.concurrency import wait_until
from tests.e2e.connected import Service, connect
from tests.e2e.stack import ROOT, Stack, other_machine


def run_once(words: list[str], folder: Path, attestation: str) -> "subprocess.CompletedProcess[str]":
    """Run `openkcm agent --once` for a folder, with the attestation on standard input."""
    words = [*words, "--once"]
    words[words.index("--out") + 1] = str(folder)
    command = command_line(words)
    return subprocess.run(
        command,
        cwd=ROOT,
        env=other_machine(),
        input=attestation,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def assert_encrypts(folder: Path) -> None:
    with Client.from_folder(folder) as kcm:
        assert kcm.decrypt(kcm.encrypt(b"a record", "orders/1"), "orders/1") == b"a record"


def agents_of(stack: Stack, service: Service) -> list[dict[str, Any]]:
    agents: list[dict[str, Any]] = stack.services(service.tenant_id)[service.name]["agents"]
    return agents


def test_agent_takes_over_a_folder_sends_heartbeats_renews_and_reports_a_revoked_certificate(
    stack: Stack, tenant: str, tmp_path: Path
) -> None:
    ledger = connect(stack, tenant, "postgresql", "ledger-db", tmp_path / "kcm")
    assert agents_of(stack, ledger) == []
    log, reloaded = tmp_path / "agent.log", tmp_path / "reloaded"
    words = ["--url", stack.settings.marketplace_url, "--service", ledger.name, "--kind", "postgresql"]
    words += ["--out", str(ledger.folder), "--reload-command", f"touch {reloaded}"]
    command = [sys.executable, "-m", "openkcm.cli", "agent", *words]
    with log.open("wb") as errors:
        agent = subprocess.Popen(command, cwd=ROOT, env=other_machine(), stderr=errors)
    try:
        # The agent takes over the folder and sends heartbeats.
        wait_until(lambda: bool(agents_of(stack, ledger)), log.read_text)
        [seen] = agents_of(stack, ledger)
        assert (seen["connected"], seen["problem"]) == (True, None)
        assert seen["certificate_not_after"] == ledger.certificate.not_valid_after_utc.isoformat()

        # A renewed certificate is fetched for the same key, and the service is reloaded.
        reloaded.unlink(missing_ok=True)
        first = ledger.certificate
        stack.command("service", "renew", tenant, ledger.name)
        agent.send_signal(signal.SIGHUP)
        wait_until(lambda: ledger.certificate != first, log.read_text)
        wait_until(reloaded.exists, log.read_text)
        assert ledger.certificate.public_key() == first.public_key()
        assert_whole(ledger.folder)
        with ledger.open_https(), ledger.open_kmip():
            pass

        # A revoked certificate is not renewed, and the log states the remedy.
        before = ledger.certificate
        ledger.disconnect()
        agent.send_signal(signal.SIGHUP)
        wait_until(lambda: "certificate_revoked" in log.read_text(), log.read_text)
        assert "create a join token on the Services page" in log.read_text()
        assert agent.poll() is None
        assert ledger.certificate == before
        assert_whole(ledger.folder)

        # The problem ends when the service is connected again.
        connect(stack, tenant, "postgresql", ledger.name, ledger.folder)
        agent.send_signal(signal.SIGHUP)
        wait_until(lambda: "problem is over" in log.read_text(), log.read_text)
        agent.terminate()
        assert agent.wait(60) == 0
    finally:
        agent.kill()
        agent.wait(60)


def test_join_token_enrols_one_service_once(stack: Stack, tenant: str, tmp_path: Path) -> None:
    made = stack.command("service", "join-token", tenant, "--kind", "microservice", "--name", "joined")
    program, *words = shlex.split(made["agent_command"])
    assert program == "openkcm"
    joined = run_once(words, tmp_path / "kcm", made["join_token"])
    assert joined.returncode == 0, joined.stderr
    assert_whole(tmp_path / "kcm")
    assert_encrypts(tmp_path / "kcm")
    second = run_once(words, tmp_path / "second", made["join_token"])
    assert second.returncode == 1
    assert "attestation_rejected" in second.stderr
    assert not (tmp_path / "second" / "client.pem").exists()
    for done in (joined, second):
        assert made["join_token"].split(".")[2] not in done.stdout + done.stderr
