"""The drills on a system that forbids namespaces."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration
_ROOT = Path(__file__).parents[2]


def test_drills_name_the_right_that_they_lack(tmp_path: Path) -> None:
    forbidding = tmp_path / "unshare"
    forbidding.write_text("#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n")
    forbidding.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "tests.production.topology", "--short"],
        cwd=_ROOT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "run them as root, or permit user namespaces" in done.stderr
    assert "Traceback" not in done.stderr
