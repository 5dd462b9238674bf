"""`openkcm run` starts only programs in which columns and fields are protected."""

from pathlib import Path

import pytest

from openkcm.cli.__main__ import main


@pytest.fixture
def start(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Return the error output of `openkcm run`; an accepted program fails at the next check, for lack of a folder."""

    def report(*words: str) -> str:
        assert main(["run", "--folder", str(tmp_path / "none"), *words]) == 1
        return capsys.readouterr().err

    return report


@pytest.fixture
def script(tmp_path: Path):
    def write(text: str) -> str:
        file = tmp_path / "app"
        file.write_text(text)
        file.chmod(0o755)
        return str(file)

    return write


POLYGLOT = "#!/bin/sh\n'''exec' \"/a long/bin/python3.13\" \"$0\" \"$@\"\n' '''\n"
RELOCATABLE = "#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/'python' \"$0\" \"$@\"\n' '''\n"


@pytest.mark.parametrize(
    "text", ["#!/usr/bin/env python3\n", "#!/usr/bin/env -S python3.11 -u\n", POLYGLOT, RELOCATABLE]
)
def test_a_python_script_is_started(start, script, text):
    assert "is not the folder of a connected service" in start("--", script(text))


@pytest.mark.parametrize(
    "text",
    ["#!/bin/sh\nexec node app.js\n", "#!/usr/bin/env node python\n", "#!/usr/bin/env -S -i python3\n", "\x7fELF"],
)
def test_program_that_is_not_python_is_rejected_unless_it_is_a_launcher(start, script, text):
    refused = start("--", script(text), "--port", "1")
    assert "is not a Python program, so its data is not encrypted" in refused
    assert "add --launcher" in refused
    allowed = start("--launcher", "--", script(text))
    assert "warning" in allowed
    assert "is not the folder of a connected service" in allowed


@pytest.mark.parametrize(
    "words",
    [("-bS", "app.py"), ("-W", "ignore", "-I", "-c", "0"), ("--check-hash-based-pycs", "default", "-E", "app.py")],
)
def test_python_option_that_disables_the_protection_is_rejected(start, script, words):
    assert "does not load the encryption" in start("--", "python3", *words)
    assert "does not load the encryption" in start("--", script(f"#!/usr/bin/python3 {words[0]} {' '.join(words[1:])}"))


@pytest.mark.parametrize("words", [("-mIPython",), ("-Xdev", "-c", "S", "-I"), ("app.py", "-I"), ("-", "-S")])
def test_options_of_the_program_are_not_treated_as_python_options(start, words):
    assert "is not the folder of a connected service" in start("--", "python3", *words)
