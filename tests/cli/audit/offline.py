"""The command on a machine without settings and network, with only a folder of files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]

# An audit hook of the interpreter rejects every use of a socket; replaced functions would miss some.
_SCRIPT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
def refuse(event, _arguments):
    if event.startswith("socket."):
        raise RuntimeError(f"network access: {{event}}")
sys.addaudithook(refuse)
from openkcm.cli.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def verify(folder: Path, *words: str, as_json: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `openkcm audit verify` in a folder with an empty environment; it must leave nothing behind."""
    before = sorted(folder.rglob("*"))
    flags = ["--json"] if as_json else []
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, "audit", "verify", *words, *flags],
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
    """Return the command's document; its exit status must match the outcome."""
    done = verify(folder, *words)
    document: dict[str, Any] = json.loads(done.stdout)
    statuses = {"intact": 0, "refuted": 1, "could-not-check": 3}
    assert done.returncode == statuses[document["outcome"]], done.stdout + done.stderr
    return document
