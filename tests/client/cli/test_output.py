"""Output of the command on a terminal, in a pipe, and to a full disk."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from cli.__main__ import main
from openkcm.cli import output

LONG = "x" * 300


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("terminal", "whole"), [(False, True), (True, False)])
def test_only_a_terminal_cuts_a_table(monkeypatch, terminal, whole) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    table = Table("name", "state")
    table.add_row(LONG, "ready")
    output.answer({}, as_json=False, show=lambda console: console.print(table))
    assert (LONG in stream.getvalue()) is whole


def test_piped_help_does_not_cut_the_longest_option(capsys) -> None:
    assert main(["service", "protect-field", "--help"]) == 0
    assert "--no-plaintext-allowed " in capsys.readouterr().out


def run(*words: str, out: Any = subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "openkcm.cli", "audit", "verify", *words]
    return subprocess.run(
        command, env=os.environ | environment, stdout=out, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )


@pytest.mark.integration
def test_closed_pipe_ends_the_command_by_sigpipe() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as out:
        done = run("missing", "--json", out=out)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")


@pytest.mark.integration
def test_full_disk_is_an_error_and_not_a_result() -> None:
    with Path("/dev/full").open("w") as out:
        done = run("missing", "--json", out=out)
    assert done.returncode == 3
    assert done.stderr == "error output_failed: standard output cannot be written: No space left on device\n"


@pytest.mark.integration
def test_characters_that_the_encoding_lacks_are_escaped() -> None:
    done = run("Łódź", "--json", PYTHONIOENCODING="latin-1")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (3, "file_refused")
    assert error["message"].startswith("Łódź cannot be read")
    assert run("--help", PYTHONIOENCODING="ascii").returncode == 0
