"""My auditor is handed an export, a report and a public key, and sees at home whether the report is true."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from config.public_keys import PublicKeys
from config.secrets import Role
from tenancy.audit import AuditName, fields_of
from tenancy.report_document import Form, read_report
from tests.cli.offline import verify
from tests.stories.connected import connect
from tests.stories.stack import Stack

FORMS = ("json", "html", "pdf")


@pytest.fixture(scope="module")
def service(stack: Stack, acme: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A service that encrypted something this month."""
    connected = connect(stack, acme, "microservice", "reported", tmp_path_factory.mktemp("reported") / "service")
    return connected.name


@pytest.fixture(scope="module")
def given(stack: Stack, acme: str, service: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the auditor is given: this month's report in every form, the export, the public key."""
    assert service
    made, home = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("auditor")
    for form in FORMS:
        out = made / f"report.{form}"
        answer = stack.command("report", acme, "--format", form, "--out", str(out), "--period", this_month())
        assert (answer["tenant_id"], answer["format"], answer["bytes"]) == (acme, form, out.stat().st_size)
    stack.command("audit", "export", acme, "--out", str(made / "audit.jsonl"))
    stack.command("audit", "public-key", "--out", str(made / "key.pem"))
    for file in made.iterdir():
        shutil.copy(file, home / file.name)
    return home


def this_month() -> str:
    return f"{datetime.now(UTC):%Y-%m}"


def confirm(home: Path, report: str, export: str = "audit.jsonl") -> dict[str, Any]:
    """Run the README's one command where there is nothing but the three files."""
    done = verify(home, export, "--report", report, "--public-key", "key.pem")
    document: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if document["report"]["confirmed"] else 1), done.stdout + done.stderr
    return document


@pytest.mark.parametrize("form", FORMS)
def test_a_stranger_confirms_the_report_with_three_files_and_one_command(acme, given, form):
    found = confirm(given, f"report.{form}")
    assert (found["intact"], found["problem"], found["signature"]) == (True, None, "verified")
    told = found["report"]
    assert (told["tenant_id"], told["signature"], told["differences"]) == (acme, "verified", [])
    report = read_report((given / f"report.{form}").read_bytes()).report
    assert "reported" in {one.service for one in report.stated.coverage}
    assert {"L1", "L2", "L3", "CA"} <= {one.level for one in report.stated.keys}
    assert report.counted.isolation_runs >= 1
    shown = verify(given, "audit.jsonl", "--report", f"report.{form}", "--public-key", "key.pem", as_json=False)
    assert shown.stdout.startswith(f"CONFIRMED: compliance report of {acme}")


def test_another_ones_report_or_key_and_a_changed_byte_are_refuted(given):
    file = (given / "report.json").read_bytes()
    (given / "altered.json").write_bytes(file.replace(b"in order", b"attentio", 1))
    assert not confirm(given, "altered.json")["intact"]
    export = (given / "audit.jsonl").read_bytes()
    (given / "altered.jsonl").write_bytes(
        export.replace(b'\\"outcome\\": \\"success\\"', b'\\"outcome\\": \\"failure\\"', 1)
    )
    refuted = confirm(given, "report.json", "altered.jsonl")
    assert refuted["problem"].startswith("the export: record")
    (given / "short.jsonl").write_bytes(export[: len(export) // 2])
    assert refuted["error"]["code"] == "report_refuted"
    assert confirm(given, "report.json", "short.jsonl")["problem"].startswith("the export: ")


def test_the_stream_says_who_asked_and_what_was_bound(stack, acme, given):
    report = read_report((given / "report.json").read_bytes()).report
    with stack.database().tenant_tx(acme) as tx:
        (made,) = tx.audit.records(report.stream.seq - 1, 1)
        records = [fields_of(one.record) for one in tx.audit.records(report.stream.seq - 50, 50)]
    assert fields_of(made.record)["name"] == AuditName.REPORT_MADE
    assert made.chain_hash.hex() == report.stream.chain_hash
    asked = [one for one in records if one["name"] == AuditName.REPORT_REQUESTED]
    assert report.report_id in {one["subject"] for one in asked}


def test_a_worker_that_is_killed_while_it_makes_a_report_leaves_one_report(stack, acme, tmp_path):
    out = tmp_path / "report.json"
    killed = threading.Event()

    def kill() -> None:
        time.sleep(1.0)  # the command has started and asked by then, or asks a worker that is just coming back
        os.kill(stack.pids()["worker"], signal.SIGKILL)
        killed.set()

    killer = threading.Thread(target=kill)
    killer.start()
    stack.command("report", acme, "--format", "json", "--out", str(out), "--period", this_month())
    killer.join()
    assert killed.is_set()
    report = read_report(out.read_bytes())
    keys = PublicKeys.on_record(stack.database().audit_keys())
    assert all(keys.check(one.key, one.message, one.signature).problem is None for one in report.signatures)
    with stack.database(Role.DASHBOARD).tenant_tx(acme) as tx:
        assert tx.reports.file(report.report.report_id, Form.JSON) == out.read_bytes()


def test_a_file_is_not_written_over_and_a_period_is_named_rightly(stack, acme, tmp_path):
    (tmp_path / "there.json").write_text("evidence")
    for words, code in (
        (("--out", str(tmp_path / "there.json")), "file_refused"),
        (("--out", str(tmp_path / "new.json"), "--period", "2026-13"), "period_refused"),
        (("--out", str(tmp_path / "new.json"), "--period", "2099"), "period_refused"),
    ):
        done: subprocess.CompletedProcess[str] = stack.run("report", acme, "--format", "json", *words, "--json")
        assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (1, code)
    assert (tmp_path / "there.json").read_text() == "evidence"
    assert not (tmp_path / "new.json").exists()
