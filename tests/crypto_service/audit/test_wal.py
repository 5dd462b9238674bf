"""The write-ahead log on a real disk: valid records, incomplete records, and a full disk."""

import asyncio
import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
import zlib
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors.compliance import AuditBacklogExceeded, AuditUnavailable
from core.services import CryptoOperation
from crypto_service.audit import wal
from crypto_service.audit.wal import (
    SHARED_BYTES,
    WalRecord,
    WalSegment,
    WriteAheadLog,
    decode,
    encode,
    journal_folder,
    lane_of,
    waiting_bytes,
    waiting_files,
    whole_part,
)
from crypto_service.interfaces import AuditEntry

ENTRY = AuditEntry("acme-corp-12345", "orders", CryptoOperation.GET, "key-1", "corr-1", "127.0.0.1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return journal_folder(tmp_path)


PROGRAM = """
import asyncio, os, resource, signal, sys
from pathlib import Path
from crypto_service.audit.wal import WriteAheadLog
from crypto_service.interfaces import AuditEntry
from core.errors.compliance import AuditUnavailable
from core.services import CryptoOperation

entry = AuditEntry("acme-corp-12345", "orders", CryptoOperation.GET, "key-1", "corr-1", "127.0.0.1")
journal = WriteAheadLog(Path(sys.argv[1]))
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program that has an `entry` and a `journal` in `folder`."""
    command = [sys.executable, "-c", PROGRAM + program, str(folder)]
    return subprocess.run(command, check=False, timeout=60, stdout=subprocess.PIPE, text=True)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def lines(folder: Path) -> list[WalRecord]:
    found = []
    for path in files(folder):
        found += [line for line in decode(whole_part(path.read_bytes()), 0) if isinstance(line, WalRecord)]
    return found


def test_new_folders_of_the_log_survive_a_power_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    flushed: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    state_dir = tmp_path / "new" / "state"
    journal_folder(state_dir)
    assert set(flushed) == {tmp_path, tmp_path / "new", state_dir}
    flushed.clear()
    journal_folder(state_dir)  # it may exist since an attempt that was killed before it flushed
    assert flushed == [state_dir]


@given(st.text(max_size=40), st.text(max_size=40), st.integers(0, 2**40), st.sampled_from(CryptoOperation))
def test_decode_returns_each_encoded_entry(subject: str, source: str, size: int, operation: CryptoOperation):
    entry = AuditEntry("acme-corp-12345", "orders", operation, subject, "corr", source, "", 3, size, size)
    assert list(decode(encode(entry, 1234), 77)) == [WalRecord(77, 1234, entry)]


def test_record_without_duration_decodes_to_duration_zero():
    fields = b'[1234,"acme-corp-12345","orders","get","key-1","corr-1","127.0.0.1","",1,32]'
    (line,) = decode(b"%08x %b\n" % (zlib.crc32(fields), fields), 0)
    assert line == WalRecord(0, 1234, replace(ENTRY, bytes=32))
    assert line.entry.microseconds == 0


@pytest.mark.parametrize("recorded", [False, True])
def test_record_that_names_its_subject_decodes_and_others_are_as_in_the_former_release(*, recorded: bool):
    entry = replace(ENTRY, names_subject=True, recorded=recorded)
    assert list(decode(encode(entry, 1234), 77)) == [WalRecord(77, 1234, entry)]
    former = encode(replace(ENTRY, recorded=recorded), 1234)
    assert former.endswith(b",0,%b]\n" % (b"true" if recorded else b"false"))


def test_entry_with_lone_surrogate_is_written():
    entry = AuditEntry("acme-corp-12345", "orders", CryptoOperation.GET, "key-\ud800", "corr")
    (line,) = decode(encode(entry, 1), 0)
    assert isinstance(line, WalRecord)
    assert line.entry.subject == "key-?"


@pytest.mark.parametrize("kept", range(len(encode(ENTRY, 1)) - 1))
def test_truncated_record_is_skipped(kept: int):
    written = encode(ENTRY, 1) + encode(ENTRY, 2)[:kept]
    assert [line.at for line in decode(whole_part(written), 0) if isinstance(line, WalRecord)] == [1]


def test_only_the_altered_record_is_skipped():
    first, second, third = (encode(ENTRY, at) for at in (1, 2, 3))
    altered = second.replace(b"key-1", b"key-2")
    found = list(decode(first + altered + third, 0))
    assert [line.at if isinstance(line, WalRecord) else None for line in found] == [1, None, 3]
    assert found[1] == len(first)


async def test_written_entry_is_readable_immediately_and_only_by_its_owner(folder: Path):
    journal = WriteAheadLog(folder)
    await journal.write([ENTRY, ENTRY])
    await journal.write([ENTRY])
    assert [line.entry for line in lines(folder)] == [ENTRY, ENTRY, ENTRY]
    assert journal.operations["get", ""] == 3
    (file,) = files(folder)
    assert (mode(file), mode(folder)) == (0o600, 0o700)
    with file.open("rb") as other:  # locked while its writer lives
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        journal.close()
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)


@pytest.mark.integration
def test_written_entry_survives_a_kill(folder: Path):
    assert run("asyncio.run(journal.write([entry])); os.kill(os.getpid(), signal.SIGKILL)", folder).returncode == -9
    assert [line.entry for line in lines(folder)] == [ENTRY]


@pytest.mark.integration
def test_write_fails_while_the_disk_is_full_and_recovers(folder: Path):
    """In another process, for which the kernel limits the file size; this behaves like a full disk."""
    program = """
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

async def main():
    await journal.write([entry])
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal._lanes[''].file.size + 20, unlimited[1]))
    try:
        await journal.write([entry, entry])
    except AuditUnavailable:
        print("refused", journal.is_failing)
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    await journal.write([entry])
    print(journal.operations["get", ""], journal.is_failing)

asyncio.run(main())
"""
    assert run(program, folder).stdout.splitlines()[-2:] == ["refused True", "2 False"]
    assert [line.entry for line in lines(folder)] == [ENTRY, ENTRY]
    assert [file.read_bytes().count(b"\n") for file in files(folder)] == [1, 1]


async def test_write_fails_without_folder_and_when_too_many_bytes_wait(folder: Path):
    (folder / "0-old.journal").write_bytes(b"x" * 1000)
    assert waiting_bytes(folder) == 1000
    for journal in (WriteAheadLog(folder / "gone"), WriteAheadLog(folder, limit=1000)):
        with pytest.raises(AuditUnavailable):
            await journal.write([ENTRY])
        assert not journal.is_writable()
        assert journal.is_failing
    await WriteAheadLog(folder, limit=2000).write([ENTRY])


OTHER = replace(ENTRY, tenant_id="beta-inc-67890")
MEGABYTE = [replace(ENTRY, subject="x" * 512)] * 1_600
"""A megabyte of records, and a little more."""


def lanes(folder: Path) -> list[str]:
    return [lane_of(path.name) for path in files(folder)]


async def test_full_file_is_followed_by_another(folder: Path):
    journal = WriteAheadLog(folder)
    for _ in range(8):
        await journal.write([replace(entry, tenant_id="t-1") for entry in MEGABYTE[:1_500]])
        await journal.write([replace(entry, tenant_id="t-2") for entry in MEGABYTE[:10]])
    assert max(path.stat().st_size for path in files(folder)) < 8 * 1024 * 1024
    for _ in range(8):
        await journal.write([replace(entry, tenant_id="t-1") for entry in MEGABYTE])
    assert lanes(folder) == ["", "t-1", "t-1"]
    assert len(lines(folder)) == 8 * (1_500 + 10 + 1_600)


async def test_tenant_with_many_waiting_records_gets_its_own_files(folder: Path):
    journal = WriteAheadLog(folder)
    for _ in range(4):
        await journal.write(MEGABYTE)
        await journal.write([OTHER])
    shared, own = files(folder)
    assert (lane_of(shared.name), lane_of(own.name)) == ("", ENTRY.tenant_id)
    assert shared.stat().st_size > SHARED_BYTES
    assert own.read_bytes().count(OTHER.tenant_id.encode()) == 0
    assert shared.read_bytes().count(OTHER.tenant_id.encode()) == 4
    assert waiting_bytes(folder) == sum(path.stat().st_size for path in files(folder))


async def test_tenant_whose_records_wait_without_end_is_rejected_alone(folder: Path):
    """Two processes, while the database is down: the tenant gets half of the room, and the other half stays free."""
    limit = 32 * 1024 * 1024
    first, second = WriteAheadLog(folder, limit=limit), WriteAheadLog(folder, limit=limit)
    written = 0
    for _ in range(20):
        for journal in (first, second):
            with suppress(AuditBacklogExceeded):
                await journal.write(MEGABYTE)
                written += 1
            journal.maintain()
    assert 12 < written < 22
    assert first.rejections + second.rejections == 40 - written
    for journal in (first, second):
        with pytest.raises(AuditBacklogExceeded):
            await journal.write(MEGABYTE)
        await journal.write([OTHER])
    third = WriteAheadLog(folder, limit=limit)  # a process that starts meanwhile
    with pytest.raises(AuditBacklogExceeded):
        await third.write(MEGABYTE)
    await third.write([OTHER])


async def test_each_tenant_that_writes_without_end_gets_the_same_room(folder: Path):
    journal = WriteAheadLog(folder, limit=48 * 1024 * 1024)
    tenants = [f"tenant-{number}" for number in range(3)]
    for _ in range(30):
        for tenant_id in tenants:
            with suppress(AuditBacklogExceeded):
                await journal.write([replace(entry, tenant_id=tenant_id) for entry in MEGABYTE])
            journal.maintain()
    await journal.write([OTHER])
    waiting = Counter[str]()
    for name, size in waiting_files(folder).items():
        waiting[lane_of(name)] += size
    assert all(8 < waiting[tenant_id] / 1024 / 1024 < 14 for tenant_id in tenants)


async def test_unreadable_folder_does_not_end_the_process(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Without a free descriptor a folder cannot be read; an open file can still be written."""
    journal = WriteAheadLog(folder)
    await journal.write([ENTRY])

    def exhausted(_folder: Path) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(wal.os, "scandir", exhausted)
        journal.maintain()
        await journal.write([ENTRY])
    assert len(lines(folder)) == 2


async def test_shipped_tenant_returns_to_the_shared_files(folder: Path):
    journal = WriteAheadLog(folder)
    for _ in range(4):
        await journal.write(MEGABYTE)
    journal.close()
    for path in files(folder):
        path.unlink()
    journal.maintain()
    await journal.write([ENTRY])
    assert lanes(folder) == [""]


async def test_old_file_is_closed_only_when_nothing_waits_before_it(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """While the database is down each process would otherwise leave a file for each minute."""
    monkeypatch.setattr(wal, "_ROTATED_SECONDS", 0.0)
    journal = WriteAheadLog(folder)
    await journal.write([ENTRY])
    for _ in range(5):
        journal.maintain()
        await journal.write([ENTRY])
    first, second = files(folder)
    first.unlink()
    journal.maintain()
    with second.open("rb") as closed:
        fcntl.flock(closed, fcntl.LOCK_SH | fcntl.LOCK_NB)


async def test_concurrent_writers_share_a_flush(folder: Path):
    flushes: list[int] = []

    def slow(descriptor: int) -> None:
        flushes.append(descriptor)
        os.fdatasync(descriptor)

    file = WalSegment(folder, sync=True, flush=slow)

    async def append_one() -> None:
        assert file.append(encode(ENTRY, 1))
        await file.until_safe()

    await asyncio.gather(*(append_one() for _ in range(50)))
    file.close()
    assert 1 <= len(flushes) <= 2
    assert len(lines(folder)) == 50


async def test_failed_flush_fails_all_waiting_writers(folder: Path):
    def broken(_descriptor: int) -> None:
        raise OSError(5, "input/output error")

    file = WalSegment(folder, sync=True, flush=broken)
    file.append(encode(ENTRY, 1))
    waiting = [asyncio.ensure_future(file.until_safe()) for _ in range(3)]
    file.close()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [OSError] * 3


async def test_flush_after_a_failed_one_confirms_no_record_of_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The kernel may have dropped the pages of a failed flush; the next flush then succeeds without them."""
    flushes: list[int] = []
    begun, fail = threading.Event(), threading.Event()

    def fails_once(descriptor: int) -> None:
        flushes.append(descriptor)
        if len(flushes) == 1:
            begun.set()
            fail.wait(60)
            raise OSError(errno.EIO, "input/output error")

    monkeypatch.setitem(WalSegment.__init__.__kwdefaults__, "flush", fails_once)
    journal = WriteAheadLog(folder, sync=True)
    writers = [asyncio.ensure_future(journal.write([ENTRY]))]
    await asyncio.to_thread(begun.wait, 60)
    writers += [asyncio.ensure_future(journal.write([ENTRY])) for _ in range(3)]
    await asyncio.sleep(0)  # they append while the flush runs, so that the next one is theirs
    fail.set()
    outcomes = await asyncio.gather(*writers, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [AuditUnavailable] * 4
    assert len(flushes) == 1
    await journal.write([OTHER])
    assert len(flushes) == 2
    _failed, current = files(folder)
    assert [line.entry for line in decode(current.read_bytes(), 0) if isinstance(line, WalRecord)] == [OTHER]


async def test_file_whose_flush_failed_is_not_flushed_again(folder: Path):
    flushes: list[int] = []

    def fails_once(descriptor: int) -> None:
        flushes.append(descriptor)
        if len(flushes) == 1:
            raise OSError(errno.EIO, "input/output error")

    file = WalSegment(folder, sync=True, flush=fails_once)
    for _ in range(2):
        file.append(encode(ENTRY, 1))
        with pytest.raises(OSError, match="input/output error"):
            await file.until_safe()
    file.close()
    assert len(flushes) == 1


async def test_log_works_with_sync(folder: Path):
    journal = WriteAheadLog(folder, sync=True)
    await asyncio.gather(*(journal.write([ENTRY]) for _ in range(20)))
    journal.close()
    assert len(lines(folder)) == 20
