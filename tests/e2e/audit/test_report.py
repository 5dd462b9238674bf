"""An auditor with an export, a report and a public key verifies the report without the service."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from config.secrets import Role
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import AuditName, fields_of
from openkcm.verification.public_keys import PublicKeys
from openkcm.verification.reports.signed_file import ReportFormat, read_report
from tests.cli.audit.offline import verify
from tests.concurrency import wait_until
from tests.e2e.connected import command_until_done, connect, rejection_code
from tests.e2e.stack import Stack

FORMS = ("json", "html", "pdf")


@pytest.fixture(scope="module")
def auditor_folder(stack: Stack, tenant: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the auditor: this month's report in every format, the export, and the public key."""
    home = tmp_path_factory.mktemp("auditor")
    connect(stack, tenant, "microservice", "ledger", tmp_path_factory.mktemp("reported") / "service")
    for form in FORMS:
        out = home / f"report.{form}"
        words = ("report", "create", tenant, "--format", form, "--out", str(out), "--period", this_month())
        answer = command_until_done(stack, *words)
        assert (answer["tenant_id"], answer["format"], answer["bytes"]) == (tenant, form, out.stat().st_size)
    stack.command("audit", "export", tenant, "--out", str(home / "audit.jsonl"))
    stack.command("audit", "public-key", "--out", str(home / "key.pem"))
    return home


def this_month() -> str:
    return f"{datetime.now(UTC):%Y-%m}"


@pytest.mark.parametrize("form", FORMS)
def test_an_auditor_verifies_the_report_with_three_files_and_one_command(tenant, auditor_folder, form):
    words = ("audit.jsonl", "--report", f"report.{form}", "--public-key", "key.pem")
    done = verify(auditor_folder, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["intact"], found["problem"], found["signature"]) == (True, None, "verified")
    verified = found["report"]
    assert (verified["tenant_id"], verified["signature"], verified["differences"]) == (tenant, "verified", [])
    report = read_report((auditor_folder / f"report.{form}").read_bytes()).report
    assert "ledger" in {one.service for one in report.stated.coverage}
    assert {"L1", "L2", "L3", "CA"} <= {one.level for one in report.stated.keys}
    assert report.counted.isolation_runs >= 1
    shown = verify(auditor_folder, *words, as_json=False)
    assert shown.stdout.startswith(f"CONFIRMED: compliance report of {tenant}")


def test_the_stream_records_the_request_and_the_report(stack, tenant, auditor_folder):
    report = read_report((auditor_folder / "report.json").read_bytes()).report
    made = stack.stream(tenant, report.stream.seq - 1)[0]
    assert fields_of(made.record)["name"] == AuditName.REPORT_MADE
    assert made.chain_hash.hex() == report.stream.chain_hash
    requests = [one["subject"] for one in stack.events(tenant) if one["name"] == AuditName.REPORT_REQUESTED]
    assert report.report_id in requests


def test_a_report_is_created_once_when_the_worker_is_killed_meanwhile(stack, tenant, tmp_path):
    out = tmp_path / "report.json"

    def requested() -> int:
        return [one["name"] for one in stack.events(tenant)].count(AuditName.REPORT_REQUESTED)

    before, worker = requested(), stack.pids()["worker"]
    with ThreadPoolExecutor(1) as beside:
        words = ("report", "create", tenant, "--format", "json", "--out", str(out), "--period", this_month())
        answer = beside.submit(command_until_done, stack, *words)
        wait_until(lambda: requested() > before, lambda: "no report was requested")
        os.kill(worker, signal.SIGKILL)
        answer.result()
    wait_until(lambda: stack.pids().get("worker", worker) != worker, lambda: "the worker was not restarted")
    report = read_report(out.read_bytes())
    keys = PublicKeys.from_database(PlatformQueries(stack.database()).audit_keys())
    assert all(keys.check(one.key, one.message, one.signature).problem is None for one in report.signatures)
    with stack.database(Role.DASHBOARD).tenant_tx(tenant) as tx:
        assert tx.reports.file(report.report.report_id, ReportFormat.JSON) == out.read_bytes()


def test_existing_file_and_illegal_period_are_rejected(stack, tenant, tmp_path):
    (tmp_path / "there.json").write_text("evidence")
    for words, code in (
        (("--out", str(tmp_path / "there.json")), "file_refused"),
        (("--out", str(tmp_path / "new.json"), "--period", "2026-13"), "period_refused"),
        (("--out", str(tmp_path / "new.json"), "--period", "2099"), "period_refused"),
    ):
        assert rejection_code(stack, "report", "create", tenant, "--format", "json", *words) == code
    assert (tmp_path / "there.json").read_text() == "evidence"
    assert not (tmp_path / "new.json").exists()
