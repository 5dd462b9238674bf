"""The restrictions of the systemd units for a container: their system call filter, and no new executable memory.

systemd itself expands the filter, so that the processes of the image run under what the units allow.
"""

import functools
import os
import re
import socket
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tests.production.artefacts.processes import ROOT

UNITS = ROOT / "deploy" / "systemd"
UNPACKED = (ROOT / ".venv" / "systemd").resolve()
"""systemd as scripts/setup.sh unpacks it on a host without systemd."""
_NO_EXECUTABLE_MEMORY = (
    "import ctypes, os, sys\n"
    "assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0\n"  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)


def options(*files: Path) -> dict[str, list[str]]:
    """Return the options of unit files: name → values."""
    found = defaultdict(list)
    for file in files:
        for name, value in re.findall(r"^(\w+)=(.*)$", file.read_text(encoding="utf-8"), re.MULTILINE):
            found[name].append(value)
    return found


def analyze(*arguments: str) -> tuple[int, str]:
    """Run systemd-analyze; return its status and output."""
    program = UNPACKED / "usr/bin/systemd-analyze" if UNPACKED.exists() else "systemd-analyze"
    libraries = ":".join(str(found) for pattern in ("*", "*/systemd") for found in UNPACKED.glob(f"usr/lib/{pattern}"))
    environment = os.environ | {"LD_LIBRARY_PATH": libraries, "SYSTEMD_COLORS": "0"}
    done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


COMMON = options(*UNITS.glob("openkcm-.service.d/*.conf"))
FAMILIES = {name: int(getattr(socket, name)) for name in COMMON["RestrictAddressFamilies"][0].split()}


def without_executable_memory(command: Sequence[str]) -> list[str]:
    """Return a command that starts `command` as MemoryDenyWriteExecute=yes does."""
    return ["/usr/bin/python3", "-c", _NO_EXECUTABLE_MEMORY, *command]


def allowed_calls() -> set[str]:
    """Return the calls that the units allow, without `socket`: RestrictAddressFamilies limits its arguments."""
    allowed: set[str] = set()
    for value in COMMON["SystemCallFilter"]:
        names = _expand(value.removeprefix("~"))
        allowed = allowed - names if value.startswith("~") else allowed | names
    return allowed - {"socket"}


@functools.cache
def _expand(name: str) -> frozenset[str]:
    if not name.startswith("@"):
        return frozenset({name})
    status, text = analyze("syscall-filter", "--no-pager", name)
    assert status == 0, text
    found = (line.strip() for line in text.splitlines()[1:])
    return frozenset().union(*(_expand(one) for one in found if one and not one.startswith("#")))
