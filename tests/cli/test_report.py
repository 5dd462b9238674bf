"""`openkcm audit verify --report` where there is nothing but three files, and what it says to people."""

import json
from pathlib import Path
from typing import Any

import pytest

from tenancy.report import Report
from tests.cli import offline
from tests.database.signing import Signer
from tests.tenancy.proving import KEYS, a_certificate
from tests.tenancy.test_report_verify import a_page, a_print, document, export, report

WORDS = ("audit.jsonl", "--report", "report.json", "--public-key", "key.pem")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "audit.jsonl").write_bytes(export())
    (tmp_path / "key.pem").write_text(KEYS.file())
    (tmp_path / "report.json").write_bytes(document())
    (tmp_path / "report.html").write_bytes(a_page())
    (tmp_path / "report.pdf").write_bytes(a_print())
    return tmp_path


def said(folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = offline.verify(folder, *words)
    return done.returncode, json.loads(done.stdout)


def lying(**changed: Any) -> Report:
    return report().model_copy(update={"counted": report().counted.model_copy(update=changed)})


@pytest.mark.parametrize("form", ["json", "html", "pdf"])
def test_a_report_is_confirmed_by_three_files_and_one_command(folder, form):
    code, found = said(folder, "audit.jsonl", "--report", f"report.{form}", "--public-key", "key.pem")
    assert (code, found["intact"], found["problem"], found["events"]) == (0, True, None, report().stream.seq)
    told = found["report"]
    assert (told["confirmed"], told["format"], told["signature"]) == (True, form, "verified")
    assert (told["report_id"], told["differences"]) == (report().report_id, [])


def test_people_are_told_what_was_checked_and_what_was_not(folder):
    told = offline.verify(folder, *WORDS, as_json=False).stdout
    assert told.startswith("CONFIRMED: compliance report of acme-corp-12345, 2025-11-01")
    assert "signature: verified, by the key audit:1" in told
    assert f"record {report().stream.seq} bound it to the stream" in told
    told = offline.verify(folder, *WORDS[:3], as_json=False).stdout
    assert "signature: NOT CHECKED" in told


def test_a_figure_that_does_not_follow_is_named_with_both_and_the_exit_status_says_so(folder):
    (folder / "report.json").write_bytes(document(lying(denied_total=0)))
    code, found = said(folder, *WORDS)
    assert (code, found["intact"], found["error"]["code"]) == (1, False, "report_refuted")
    (first, *_) = found["report"]["differences"]
    assert first["section"] == "Access and refused attempts"
    assert (first["subject"], first["reported"]) == ("denied total", "0")
    told = offline.verify(folder, *WORDS, as_json=False)
    assert "REFUTED" in told.stdout
    assert "differs: Access and refused attempts, denied total" in told.stdout


def test_somebody_elses_signature_is_refuted_before_anything_is_counted(folder):
    (folder / "report.json").write_bytes(document(signer=Signer()))
    code, found = said(folder, *WORDS)
    assert (code, found["report"]["signature"], found["report"]["differences"]) == (1, "refused", [])


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"%PDF-1.7\n", b"\x00" * 1000, a_certificate(), export()],
    ids=["nothing", "a brace", "a PDF", "zeros", "a certificate", "an export"],  # their bytes differ in each process
)
def test_a_file_that_is_no_report_is_told_so(folder, content):
    (folder / "report.json").write_bytes(content)
    code, found = said(folder, *WORDS)
    assert (code, found["error"]["code"]) == (1, "report_refuted")
    assert found["problem"].startswith("the report: ")


def test_a_report_in_the_place_of_the_export_is_told_so(folder):
    code, found = said(folder, "report.json", *WORDS[1:])
    assert (code, found["problem"]) == (1, "the export: line 1 is not the header of an audit export")


def test_what_a_hostile_report_says_reaches_no_terminal_as_it_is(folder):
    hostile = report().model_copy(update={"tenant_id": "\x1b[31m\u202e"})
    (folder / "report.json").write_bytes(document(hostile))
    told = offline.verify(folder, *WORDS, as_json=False)
    assert not {"\x1b", "\u202e"} & set(told.stdout + told.stderr)


def test_a_report_is_checked_against_an_export_and_nothing_else_at_once(folder):
    done = offline.verify(folder, *WORDS, "--against", "audit.jsonl")
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (2, "usage")
    code, found = said(folder, "audit.jsonl", "--report", "missing", "--public-key", "key.pem")
    assert (code, found["error"]["code"]) == (1, "file_refused")
