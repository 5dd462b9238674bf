"""What the command prints, by where it is printed."""

import io
import sys

import pytest
from rich.table import Table

from cli import output
from cli.__main__ import main

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
    assert main(["protection", "protect", "--help"]) == 0
    assert "--no-plain-allowed " in capsys.readouterr().out
