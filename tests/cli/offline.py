"""The command on a machine that has nothing: no settings, no network, and a folder with two files in it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

# Whatever asks for a socket is stopped, by the interpreter itself and not by what we remembered to replace.
_SCRIPT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
def refuse(event, _arguments):
    if event.startswith("socket."):
        raise RuntimeError(f"nobody is asked for anything here: {{event}}")
sys.addaudithook(refuse)
from openkcm.cli.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def verify(folder: Path, *words: str, as_json: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `openkcm audit verify` in a folder with an empty environment; it must leave nothing behind."""
    before = sorted(folder.rglob("*"))
    more = ["--json"] if as_json else []
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, "audit", "verify", *words, *more],
        cwd=folder,
        env={},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert sorted(folder.rglob("*")) == before
    assert "Traceback" not in done.stderr
    return done


def verdict(folder: Path, *words: str) -> dict[str, Any]:
    """Return the command's one document; its exit status must say the same."""
    done = verify(folder, *words)
    document: dict[str, Any] = json.loads(done.stdout)
    statuses = {"intact": 0, "refuted": 1, "could-not-check": 3}
    assert done.returncode == statuses[document["outcome"]], done.stdout + done.stderr
    return document
