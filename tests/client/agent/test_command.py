"""`openkcm agent` as a process: signals, single instance, exit status, and visibility of secrets."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.client.agent.conftest import Field, assert_whole
from tests.client.agent.control import SERVICE
from tests.concurrency import wait_until

ROOT = Path(__file__).parents[3]


pytestmark = pytest.mark.integration  # processes, and listeners on loopback


class Running:
    def __init__(self, field: Field, folder: Path, *words: str, proof: str | None = None, secret: str = "") -> None:
        self.log = folder / "agent.log"
        flags = ["--url", field.control.url, "--service", SERVICE, "--kind", "mongodb", "--out", str(field.folder)]
        flags += ["--join-token-file", proof or str(field.proof_file)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENKCM_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "openkcm.cli", "agent", *flags, *words],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdin is not None
        self.process.stdin.write(secret.encode())
        self.process.stdin.close()

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def said(self, event: str) -> bool:
        return any(line["event"] == event for line in self.lines())

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.kill()
        code = self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture
def start(field: Field, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def one(*words: str, **more: str) -> Running:
        running.append(Running(field, tmp_path, *words, **more))
        return running[-1]

    yield one
    for each in running:
        each.end()


def test_agent_runs_until_sigterm_checks_at_sighup_and_rejects_a_second_instance(field: Field, start):
    field.prove()
    first = start()
    wait_until(lambda: first.said("files written") and len(field.stage.heartbeats.reported) > 0)
    assert_whole(field.folder)

    second = start()
    assert second.process.wait(60) == 1
    assert "agent_running" in second.log.read_text()

    renewed = field.renew()
    first.process.send_signal(signal.SIGHUP)
    wait_until(lambda: field.leaf == renewed)
    first.process.terminate()
    assert first.process.wait(60) == 0
    assert first.said("agent stopped")


def test_token_from_standard_input_is_in_no_command_line_and_no_log(field: Field, start):
    proof = field.control.token()
    one = start(proof="-", secret=proof)
    wait_until(lambda: one.said("files written"))
    assert proof not in Path(f"/proc/{one.process.pid}/cmdline").read_text()
    assert proof not in Path(f"/proc/{one.process.pid}/environ").read_text()
    assert proof.split(".")[2] not in one.log.read_text()


def test_once_does_the_work_that_is_due_and_exits(field: Field, start):
    field.prove()
    one = start("--once")
    assert one.process.wait(60) == 0
    assert_whole(field.folder)
    renewed = field.renew()
    one = start("--once")
    assert one.process.wait(60) == 0
    assert field.leaf == renewed


def test_once_exits_with_status_1_and_reports_the_reason(field: Field, start, tmp_path: Path):
    one = start("--once")
    assert one.process.wait(60) == 1
    assert "attestation_missing" in one.log.read_text()
    field.prove()
    one = start("--once", "--reload-command", str(tmp_path / "none"))
    assert one.process.wait(60) == 1
    assert "reload_failed" in one.log.read_text()


@pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.full)])
def test_enrolment_killed_at_any_moment_completes_with_one_token(field: Field, start, step: int):
    field.prove()
    for tenths in range(4, 16, step):
        one = start("--once")
        try:
            one.process.wait(tenths / 10 + 0.5)
        except subprocess.TimeoutExpired:
            one.process.kill()
        if field.folder.exists():
            assert_whole(field.folder)
    one = start("--once")
    assert one.process.wait(60) == 0
    assert_whole(field.folder)
    assert len({sent["csr"] for sent in field.control.posts}) == 1


@pytest.mark.full
def test_running_agent_renews_short_certificates_despite_an_outage(field: Field, start):
    life = timedelta(seconds=60)
    field.control.life = life
    field.prove()
    one = start()
    wait_until(lambda: one.said("files written"))
    first = field.leaf
    field.control.stop()
    time.sleep(1)
    field.control.start()
    renewed = field.renew(life=life)
    wait_until(lambda: field.leaf == renewed)
    assert first.not_valid_after_utc > field.time.real()
    assert_whole(field.folder)
