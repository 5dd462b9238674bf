"""The lines in docs/reports.md by which anybody can check a signature of a report without our code do what they say."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.tenancy.proving import KEYS
from tests.tenancy.test_report_verify import a_page, a_print

pytestmark = pytest.mark.integration  # runs programs

PAGE = Path(__file__).parents[2] / "docs/reports.md"
(LINES,) = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run(folder: Path, file: bytes, lines: str = LINES) -> tuple[int, str]:
    (folder / "key.pem").write_text(KEYS.file())
    (folder / "report.pdf").write_bytes(file)
    done = subprocess.run(["sh", "-e"], input=lines, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("form", ["pdf", "html"])
def test_a_true_file_verifies_and_a_changed_one_does_not(tmp_path, form):
    file = a_print() if form == "pdf" else a_page()
    lines = LINES.replace("acme-corp-12345 pdf", f"acme-corp-12345 {form}")
    assert run(tmp_path, file, lines) == (0, "Verified OK\n")
    code, said = run(tmp_path, file.replace(b"1", b"2", 1), lines)
    assert (code, "Verification failure" in said) == (1, True)
