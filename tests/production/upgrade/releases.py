"""The sources of two releases: a former one, and the next one with all changes that an upgrade has to withstand."""

import io
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
_PACKAGES = (
    *("core", "config", "database", "vault", "kms", "compliance", "activities", "workflows", "worker", "marketplace"),
    *("crypto_service", "dashboard", "cli", "devstack", "client"),
)
NEXT_SCHEDULE = "next-release"
NEXT_COLUMN = "next_release_note"
_MIGRATIONS = {
    # Exclusive locks on the table that every request reads.
    "9001_next_release.sql": f"alter table okcm.tenant add column {NEXT_COLUMN} text;\n",
    "9002_next_release_index.sql": "-- without transaction\n"
    "drop index concurrently if exists okcm.service_next_release;\n"
    "create index concurrently service_next_release on okcm.service (tenant_id, state);\n",
}
_SCHEDULE = '        _scheduled("notifications", DispatchNotifications.run, minutes=1),\n'


@dataclass(frozen=True)
class Release:
    """`build_id` is the setting of its workers; None without Worker Versioning."""

    folder: Path
    build_id: str | None


def present_release() -> Release:
    """Return this source tree as a release."""
    return Release(ROOT, "0.9.0")


def former_release(folder: Path, commit: str) -> Release:
    """Extract a commit; its workers may not know Worker Versioning."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return Release(folder, None)


def next_release(folder: Path, *, build_id: str | None) -> Release:
    """Copy this source tree and add migrations, a schedule and a higher release of the schedules."""
    for package in _PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in _MIGRATIONS.items():
        (folder / "database/schema/migrations" / name).write_text(text, encoding="utf-8")
    bootstrap = folder / "worker/bootstrap.py"
    source = bootstrap.read_text(encoding="utf-8")
    [former] = [line for line in source.splitlines(keepends=True) if line.startswith("RELEASE = ")]
    assert _SCHEDULE in source
    more = f'        _scheduled("{NEXT_SCHEDULE}", DeleteExpiredRows.run, minutes=60),\n'
    number = int(former.removeprefix("RELEASE = ")) + 1
    source = source.replace(former, f"RELEASE = {number}\n").replace(_SCHEDULE, _SCHEDULE + more)
    bootstrap.write_text(source, encoding="utf-8")
    return Release(folder, build_id)
