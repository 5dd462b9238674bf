"""The production drills: see tests/production/topology. `--long` runs all of them with pauses of 30 s."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.production.topology import drills

pytestmark = pytest.mark.full
_ROOT = Path(__file__).parents[2]


def test_every_drill_ends_without_a_lost_record_or_tenant(pytestconfig: pytest.Config, record_property) -> None:
    form = [] if pytestconfig.getoption("--long") else ["--short"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.production.topology", *form],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    results = [line for line in lines if line["event"] == "drill"]
    for result in results:
        record_property(result["name"], f"{result['errors']} errors, recovered in {result['recovery_seconds']} s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(results) == (len(drills.SHORT) if form else len(drills.all_drills(30)))
    assert lines[-1]["lost"] == {}
    assert lines[-1]["inactive"] == []
