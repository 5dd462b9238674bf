"""The write-ahead log and its shipper on a small disk that is full, with a real PostgreSQL."""

import asyncio
import fcntl
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors.compliance import AuditUnavailable
from core.errors.platform import DatabaseRefused
from core.services import CryptoOperation
from crypto_service.audit.shipper import AuditShipper
from crypto_service.audit.wal import RESERVED_BYTES, WriteAheadLog, free_bytes, journal_folder, waiting_bytes
from crypto_service.interfaces import AuditEntry
from crypto_service.processes.shipper_process import _send_reports
from crypto_service.server.metrics import Report
from tests.concurrency import wait_until
from tests.database.fixtures import Field

pytestmark = pytest.mark.integration
_DISK_BYTES = 28 * 1024 * 1024
ENTRY = AuditEntry("acme", "orders", CryptoOperation.MAC, "x" * 400, "corr-1", "127.0.0.1")
OTHER = AuditEntry("beta", "orders", CryptoOperation.MAC, "key-1", "corr-1", "127.0.0.1")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The folder of the log on a disk of a few megabytes, which another process mounts in a namespace."""
    disk = tmp_path / "disk"
    disk.mkdir()
    rights = [] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    mount = f'mount -t tmpfs -o size={_DISK_BYTES},mode=0700 none "$0" && echo mounted && exec sleep infinity'
    command = ["unshare", *rights, "--mount", "sh", "-c", mount, str(disk)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"mounted\n"
        yield journal_folder(Path(f"/proc/{holder.pid}/root{disk}"))
        holder.kill()


def fill(journals: list[WriteAheadLog]) -> int:
    """Write with all logs in turn until each rejects a single record; return the number of records."""
    written = 0
    for count in (50, 1):
        left = list(journals)
        while left:
            for journal in list(left):
                try:
                    asyncio.run(journal.write([ENTRY] * count))
                except AuditUnavailable:
                    left.remove(journal)
                else:
                    written += count
    return written


def fill_disk(folder: Path) -> Path:
    """Fill the disk completely, as another program does."""
    file = folder / "other"
    with file.open("wb", buffering=0) as filling, suppress(OSError):
        while True:
            filling.write(bytes(4096))
    return file


def used(field: Field) -> int:
    with field.administrator() as admin:
        query = "select coalesce(sum(count), 0) from okcm.usage_minute where tenant_id = 'acme' and operation = 'mac'"
        row = admin.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def a_shipper(field: Field, folder: Path) -> AuditShipper:
    return AuditShipper(folder, field.open("crypto", max_size=2))


def test_disk_that_the_journal_filled_is_emptied_by_the_shipper(tenants: Field, folder: Path) -> None:
    journals = [WriteAheadLog(folder), WriteAheadLog(folder)]
    written = fill(journals)
    assert waiting_bytes(folder) > (_DISK_BYTES - RESERVED_BYTES) * 0.9
    for journal in journals:
        assert journal.is_failing
        assert journal.rejections
        assert not journal.is_writable()
    shipper = a_shipper(tenants, folder)
    while shipper.once() is not None:
        pass
    assert used(tenants) == written
    assert waiting_bytes(folder) == 0
    for journal in journals:
        assert journal.is_writable()
        asyncio.run(journal.write([OTHER]))


def test_journal_leaves_the_reserve_free(folder: Path) -> None:
    journal = WriteAheadLog(folder)
    fill([journal])
    status = os.statvfs(folder)
    assert status.f_bavail * status.f_frsize > RESERVED_BYTES - 128 * 1024
    assert free_bytes(folder) < 64 * 1024


def test_idle_process_closes_its_file_on_a_full_disk(folder: Path) -> None:
    """Otherwise the shipper could not delete it."""
    idle = WriteAheadLog(folder)
    asyncio.run(idle.write([OTHER]))
    fill_disk(folder)
    assert not idle.is_writable()
    (path,) = folder.glob("*.journal")
    with path.open("rb") as closed:
        fcntl.flock(closed, fcntl.LOCK_SH | fcntl.LOCK_NB)


@contextmanager
def running(shipper: AuditShipper) -> Iterator[threading.Thread]:
    stop = threading.Event()
    thread = threading.Thread(target=shipper.run, args=(stop,))
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(30)


def test_shipper_continues_when_another_program_has_filled_the_disk(tenants: Field, folder: Path) -> None:
    asyncio.run(WriteAheadLog(folder).write([ENTRY] * 3))
    other = fill_disk(folder)
    shipper = a_shipper(tenants, folder)
    with running(shipper) as thread:
        wait_until(lambda: shipper.totals.failing_since > 0 or not thread.is_alive())
        assert thread.is_alive()
        assert used(tenants) == 0  # without a stored batch a crash would count it twice
        other.unlink()
        wait_until(lambda: used(tenants) == 3 and not shipper.totals.failing_since)


def test_records_are_set_aside_completely_or_not_at_all(tenants: Field, folder: Path) -> None:
    rejected = [replace(ENTRY, tenant_id="never-enabled", operation=CryptoOperation.GET)] * 500
    asyncio.run(WriteAheadLog(folder).write(rejected))
    shipper, kept = a_shipper(tenants, folder), folder / "undeliverable.jsonl"
    kept.write_bytes(b"[]\n")
    for _ in range(29):
        with pytest.raises(DatabaseRefused):
            shipper.once()
    other = fill_disk(folder)
    os.truncate(other, other.stat().st_size - 64 * 1024)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            shipper.once()
        assert kept.read_bytes() == b"[]\n"
    other.unlink()
    shipper.once()
    assert shipper.totals.set_aside == 500
    lines = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    assert [line[0] for line in lines[1:]] == ["never-enabled"] * 500


@pytest.mark.parametrize("step", [-3600, 3600])
def test_duration_of_a_failure_is_independent_of_clock_steps(
    tenants: Field, folder: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Otherwise a step backward would delay the alert, and a step forward cause one."""
    asyncio.run(WriteAheadLog(folder).write([ENTRY]))
    fill_disk(folder)
    shipper, stop = a_shipper(tenants, folder), threading.Event()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs, running(shipper):
        wait_until(lambda: shipper.totals.failing_since > 0)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + step)
        reporting = threading.Thread(target=_send_reports, args=(shipper, theirs, stop))
        reporting.start()
        report = Report.decode(ours.recv(65_536))
        stop.set()
        reporting.join(30)
    assert 0 <= report.gauges["openkcm_crypto_audit_shipping_failing_seconds", ()] < 60


def test_pending_bytes_are_measured_while_the_database_is_down(tenants: Field, folder: Path) -> None:
    shipper = a_shipper(tenants, folder)
    with tenants.server.offline(tenants.name):
        asyncio.run(WriteAheadLog(folder).write([ENTRY] * 3))
        with running(shipper):
            wait_until(lambda: shipper.totals.failing_since > 0)
            wait_until(lambda: shipper.totals.waiting_bytes == waiting_bytes(folder) > 0, seconds=10)
            assert 0 < shipper.totals.capacity_bytes - waiting_bytes(folder) <= _DISK_BYTES - RESERVED_BYTES
