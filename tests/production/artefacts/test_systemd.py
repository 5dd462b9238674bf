"""The units of deploy/systemd: systemd accepts them, their exposure is low, and each has only its secrets."""

import re
import shutil
from pathlib import Path

import pytest

from config.settings import Settings
from tests.production.artefacts.hardening import COMMON, UNITS, UNPACKED, analyze, options
from tests.production.artefacts.processes import NAMES, module_of, secrets_of, stop_seconds

pytestmark = pytest.mark.integration  # starts a process

_EXPOSURE = 15
"""The highest exposure in tenths, as `systemd-analyze security` computes it: below 2.0 it says OK."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The file system of a host on which the units and their program are installed."""
    system = UNPACKED if UNPACKED.exists() else Path("/")
    shutil.copytree(system / "usr/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    shutil.copytree(UNITS, tmp_path / "etc/systemd/system")
    program = tmp_path / "opt/openkcm/bin/python"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return tmp_path


def test_every_process_has_a_unit():
    assert {unit.stem for unit in UNITS.glob("*.service")} == {f"openkcm-{name}" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_systemd_accepts_the_unit_and_computes_a_low_exposure(root, name):
    unit = f"openkcm-{name}.service"
    assert analyze(f"--root={root}", "verify", "--man=no", unit) == (0, "")
    status, report = analyze(
        f"--root={root}", "security", "--offline=true", f"--threshold={_EXPOSURE}", "--no-pager", unit
    )
    assert status == 0, report


def test_a_wrong_option_or_program_is_found(root):
    unit = root / "etc/systemd/system/openkcm-worker.service"
    text = unit.read_text()
    for former, wrong in (
        ("ExecStart=/opt/openkcm", "ExecStart=/opt/other"),
        ("RestrictRealtime", "RestrictRealTimes"),
    ):
        unit.write_text(text.replace(former, wrong))
        assert text != unit.read_text()
        status, report = analyze(f"--root={root}", "verify", "--man=no", unit.name)
        assert (status, report) != (0, "")


def test_without_the_common_options_the_exposure_is_too_high(root):
    shutil.rmtree(root / "etc/systemd/system/openkcm-.service.d")
    status, _ = analyze(
        f"--root={root}", "security", "--offline=true", f"--threshold={_EXPOSURE}", "openkcm-crypto.service"
    )
    assert status != 0


@pytest.mark.parametrize(("name", "process"), NAMES.items())
def test_unit_starts_the_process_with_its_secrets_and_no_others(name, process):
    unit = UNITS / f"openkcm-{name}.service"
    found = options(unit, *UNITS.glob(f"openkcm-{name}.service.d/*.conf"))
    assert found["ExecStart"] == [f"/opt/openkcm/bin/python -m {module_of(process)}"]
    assert sorted(found["LoadCredential"]) == sorted(
        f"{secret}:/etc/openkcm/secrets/{secret}" for secret in secrets_of(process)
    )
    assert "OPENKCM_SECRETS_DIR=%d" in COMMON["Environment"]


def test_only_the_worker_with_notifications_needs_their_secrets():
    unit = options(UNITS / "openkcm-worker.service")
    optional = {"callback-secret", "smtp-password"}
    assert {line.partition(":")[0] for line in unit["LoadCredential"]} == {*secrets_of("worker")} - optional


def test_systemd_waits_until_a_process_has_stopped():
    assert float(COMMON["TimeoutStopSec"][0]) >= stop_seconds(Settings(shutdown_notice_seconds=40))


def test_every_unit_has_a_separate_user():
    declared = re.findall(r"^u (\S+) ", (UNITS / "openkcm.sysusers.conf").read_text(), re.MULTILINE)
    assert COMMON["User"] == ["%N"]
    assert declared == [f"openkcm-{name}" for name in NAMES]
