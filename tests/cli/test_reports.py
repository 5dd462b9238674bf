"""`openkcm audit verify --report` with only three files, and its text output."""

from pathlib import Path
from typing import Any

import pytest

from openkcm.verification.public_keys import PublicKeys
from openkcm.verification.reports.model import Report
from tests.cli.audit import offline
from tests.client.verification.reports.test_verify import a_page, a_print, an_export, document, export, report, stream
from tests.core.proving import KEYS, a_certificate
from tests.database.signing import Signer

WORDS = ("audit.jsonl", "--report", "report.json", "--public-key", "key.pem")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "audit.jsonl").write_bytes(export())
    (tmp_path / "key.pem").write_text(KEYS.file())
    (tmp_path / "report.json").write_bytes(document())
    (tmp_path / "report.html").write_bytes(a_page())
    (tmp_path / "report.pdf").write_bytes(a_print())
    return tmp_path


@pytest.fixture
def verify(folder: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that verifies files of the folder and returns exit status and document."""
    monkeypatch.chdir(folder)
    return lambda *words: run("verify", *words)


def falsified(**changed: Any) -> Report:
    return report().model_copy(update={"counted": report().counted.model_copy(update=changed)})


@pytest.mark.parametrize("form", ["json", "html", "pdf"])
def test_verify_confirms_a_report_from_three_files(verify, form):
    code, found = verify("audit.jsonl", "--report", f"report.{form}", "--public-key", "key.pem")
    assert (code, found["intact"], found["problem"], found["events"]) == (0, True, None, report().stream.seq)
    verified = found["report"]
    assert (verified["confirmed"], verified["format"], verified["signature"]) == (True, form, "verified")
    assert (verified["report_id"], verified["differences"]) == (report().report_id, [])


@pytest.mark.integration
def test_people_read_what_was_checked_and_what_was_not(folder):
    output = offline.verify(folder, *WORDS, as_json=False).stdout
    assert output.startswith("CONFIRMED: compliance report of acme-corp-12345, 2025-11-01")
    assert "signature: verified, by the key audit:1" in output
    assert f"bound to the stream by record {report().stream.seq}" in output
    output = offline.verify(folder, *WORDS[:3], as_json=False).stdout
    assert "signature: NOT CHECKED" in output


@pytest.mark.integration
def test_a_wrong_figure_is_reported_with_its_section_and_status_1(folder, verify):
    (folder / "report.json").write_bytes(document(falsified(denied_total=0)))
    code, found = verify(*WORDS)
    assert (code, found["intact"], found["error"]["code"]) == (1, False, "report_refuted")
    (first, *_) = found["report"]["differences"]
    assert first["section"] == "Access and refused attempts"
    assert (first["subject"], first["reported"]) == ("denied total", "0")
    printed = offline.verify(folder, *WORDS, as_json=False)
    assert "REFUTED" in printed.stdout
    assert "differs: Access and refused attempts, denied total" in printed.stdout


def test_a_signature_by_another_key_is_refuted_before_the_figures_are_derived(folder, verify):
    (folder / "report.json").write_bytes(document(signer=Signer()))
    code, found = verify(*WORDS)
    assert (code, found["report"]["signature"], found["report"]["differences"]) == (1, "refused", [])


def test_another_installations_key_and_an_older_export_refute_nothing(folder, verify):
    (folder / "other.pem").write_text(PublicKeys(Signer().public_keys()).file())
    code, found = verify(*WORDS[:-1], "other.pem")
    assert (code, found["outcome"], found["error"]["code"]) == (3, "could-not-check", "signing_key_unknown")
    (folder / "audit.jsonl").write_bytes(an_export(stream()[:-1]))
    code, found = verify(*WORDS)
    assert (code, found["outcome"], found["error"]["code"]) == (3, "could-not-check", "verification_incomplete")


def test_a_file_that_is_not_a_report_is_rejected(folder, verify):
    for content in (b"", b"{", b"%PDF-1.7\n", b"\x00" * 1000, a_certificate(), export()):
        (folder / "report.json").write_bytes(content)
        code, found = verify(*WORDS)
        assert (code, found["error"]["code"]) == (1, "report_refuted")
        assert found["problem"].startswith("the report: ")


def test_a_report_instead_of_the_export_is_rejected(verify):
    code, found = verify("report.json", *WORDS[1:])
    assert (code, found["problem"]) == (1, "the export: line 1 is not the header of an audit export")


@pytest.mark.integration
def test_control_characters_of_a_report_are_escaped_in_the_output(folder):
    hostile = report().model_copy(update={"tenant_id": "\x1b[31m\u202e"})
    (folder / "report.json").write_bytes(document(hostile))
    printed = offline.verify(folder, *WORDS, as_json=False)
    assert not {"\x1b", "\u202e"} & set(printed.stdout + printed.stderr)


def test_report_cannot_be_combined_with_against(verify):
    code, found = verify(*WORDS, "--against", "audit.jsonl")
    assert (code, found["error"]["code"]) == (2, "usage")
    code, found = verify("audit.jsonl", "--report", "missing", "--public-key", "key.pem")
    assert (code, found["error"]["code"]) == (3, "file_refused")
