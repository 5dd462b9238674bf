"""The service is notified by a signal or a command, never through a shell; an error names the cause."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from openkcm.agent.errors import ReloadFailed
from openkcm.agent.reload import Command, PidFile
from openkcm.errors import InvalidName

pytestmark = pytest.mark.integration  # processes


def test_the_process_in_the_pid_file_gets_the_signal(tmp_path: Path):
    script = "import signal,sys\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))\n"
    script += "print('up', flush=True)\nsignal.pause()"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        service.stdout.readline()
        file = tmp_path / "service.pid"
        file.write_text(f"{service.pid}\n/var/lib/postgresql/data\n1700000000\n")
        PidFile(file, "USR1").notify(tmp_path)
        assert service.wait(60) == 7
    with pytest.raises(ReloadFailed):
        PidFile(file, "USR1").notify(tmp_path)


def test_invalid_pid_file_signals_no_process(tmp_path: Path):
    file = tmp_path / "service.pid"
    for text in ("", "nonsense", "0", "1", "-1", "99999999999999999999"):
        file.write_text(text)
        with pytest.raises(ReloadFailed):
            PidFile(file, "HUP").notify(tmp_path)
    with pytest.raises(ReloadFailed):
        PidFile(tmp_path / "none", "HUP").notify(tmp_path)


def test_unknown_signal_name_is_rejected(tmp_path: Path):
    with pytest.raises(InvalidName):
        PidFile(tmp_path, "HURRY")
    assert PidFile(tmp_path, "SIGHUP")._signal is signal.SIGHUP


def test_command_runs_without_a_shell_and_without_the_attestation(tmp_path: Path):
    out = tmp_path / "out"
    arguments = "repr((sys.argv[1:], 'OPENKCM_JWT' in os.environ, os.environ['OPENKCM_FOLDER']))"
    script = f"import os,sys; open({str(out)!r},'w').write({arguments})"
    line = f"{sys.executable} -c \"{script}\" '$HOME;true' b"
    Command(line, dict(os.environ) | {"OPENKCM_JWT": "x"}).notify(tmp_path)
    assert out.read_text() == repr((["$HOME;true", "b"], False, str(tmp_path)))


def test_failed_command_raises_its_status(tmp_path: Path):
    with pytest.raises(ReloadFailed, match="status 3"):
        Command(f"{sys.executable} -c 'raise SystemExit(3)'", {}).notify(tmp_path)
    with pytest.raises(ReloadFailed, match="could not be run"):
        Command(str(tmp_path / "none"), {}).notify(tmp_path)
    for nothing in ("", "'"):
        with pytest.raises(InvalidName):
            Command(nothing, {})
