"""The shell commands in docs/audit.md and docs/reports.md verify a file without OpenKCM's code."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.client.verification.reports.test_verify import a_page, a_print
from tests.core.proving import KEYS, a_certificate, a_stream, an_export
from tests.database.signing import Signer

pytestmark = pytest.mark.integration  # runs programs


def examples(page: str) -> list[str]:
    text = (Path(__file__).parents[3] / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


CHAIN, SIGNER_OF, SHRED = examples("audit.md")
(REPORT,) = examples("reports.md")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "audit.jsonl").write_bytes(an_export(5, signed=4))
    (tmp_path / "certificate.json").write_bytes(a_certificate(a_stream(5)))
    (tmp_path / "key.pem").write_text(KEYS.file())
    return tmp_path


def run(folder: Path, lines: str) -> tuple[bool, str]:
    done = subprocess.run(["sh", "-e"], input=lines, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("lines", [CHAIN, SHRED], ids=["chain", "shred"])
def test_genuine_file_verifies(folder: Path, lines: str) -> None:
    assert run(folder, lines) == (True, "Verified OK\n")


@pytest.mark.parametrize(("form", "file"), [("pdf", a_print()), ("html", a_page())], ids=["pdf", "html"])
def test_genuine_report_verifies_and_a_changed_one_does_not(folder: Path, form: str, file: bytes) -> None:
    lines = REPORT.replace("acme-corp-12345 pdf", f"acme-corp-12345 {form}")
    (folder / "report.pdf").write_bytes(file)
    assert run(folder, lines) == (True, "Verified OK\n")
    (folder / "report.pdf").write_bytes(file.replace(b"1", b"2", 1))
    held, output = run(folder, lines)
    assert not held
    assert "Verification failure" in output


def test_an_altered_record_breaks_the_chain(folder: Path) -> None:
    altered = an_export(5, signed=4).replace("Schlüssel 2".encode(), "Schlüssel 3".encode())
    (folder / "audit.jsonl").write_bytes(altered)
    held, output = run(folder, CHAIN)
    assert not held
    assert "AssertionError" in output


@pytest.mark.parametrize("lines", [CHAIN, SHRED], ids=["chain", "shred"])
def test_file_signed_with_another_key_does_not_verify(folder: Path, lines: str) -> None:
    (folder / "audit.jsonl").write_bytes(an_export(5, signer=Signer()))
    (folder / "certificate.json").write_bytes(a_certificate(signer=Signer()))
    held, output = run(folder, lines)
    assert not held
    assert "Verification failure" in output


def test_signing_key_is_found_by_name_with_the_same_fingerprint(folder: Path) -> None:
    other = Signer("audit-checkpoints:2")
    keys = KEYS.file().replace("audit:1", "audit-checkpoints:1")
    (folder / "key.pem").write_text(type(KEYS)(other.public_keys()).file() + keys)
    held, output = run(folder, SIGNER_OF)
    assert held
    assert output.strip().endswith(KEYS.fingerprint("audit:1"))
