"""Copies of audit records in a real PostgreSQL: no release is lost with the disk, and none is recorded twice."""

import asyncio
import multiprocessing
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from core.errors.platform import DatabaseUnavailable
from crypto_service.audit.copies import CopiedJournal
from crypto_service.audit.wal import WriteAheadLog
from crypto_service.interfaces import AuditEntry
from crypto_service.server.executor import FairExecutor
from tests.crypto_service.running.test_shipper import ENCRYPT, GET, a_shipper, crypto_records, entry, used
from tests.database.fixtures import Field


def write_at_once(field: Field, folder: Path, *messages: list[AuditEntry]) -> WriteAheadLog:
    """Write messages concurrently, as connections do."""

    async def write() -> WriteAheadLog:
        threads, journal = FairExecutor(4), WriteAheadLog(folder)
        copied = CopiedJournal(journal, field.open("crypto", max_size=4), threads)
        try:
            await asyncio.gather(*map(copied.write, messages))
        finally:
            threads.close()
        return journal

    return asyncio.run(write())


def released(field: Field, tenant: str = "acme") -> list[object]:
    return sorted(record["subject"] for record in crypto_records(field, tenant) if record["name"] != "crypto.used")


def test_releases_survive_the_loss_of_the_disk(tenants: Field, folder: Path):
    write_at_once(
        tenants, folder, *([entry(GET, f"key-{n}")] for n in range(40)), [entry(GET, "theirs", tenant="beta")]
    )
    shutil.rmtree(folder)
    assert released(tenants) == sorted(f"key-{n}" for n in range(40))
    assert released(tenants, "beta") == ["theirs"]


def test_copied_release_is_recorded_and_counted_once(tenants: Field, folder: Path):
    batch = [entry(GET, "key-1"), entry(ENCRYPT), entry(GET, "other", refused="object_not_found")]
    write_at_once(tenants, folder, batch).close()
    assert released(tenants) == ["key-1"]
    a_shipper(tenants, folder).once()
    assert released(tenants) == ["key-1", "other"]
    assert used(tenants) == 2


class _KilledJournal(WriteAheadLog):
    """A log whose process is killed in the write: before the record is durable or after it, before the response."""

    def __init__(self, folder: Path, *, is_durable: bool) -> None:
        super().__init__(folder)
        self._is_durable = is_durable

    async def write(self, entries: Sequence[AuditEntry]) -> None:
        if self._is_durable:
            await super().write(entries)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("is_durable", [False, True], ids=["before the log", "after the log"])
def test_release_of_a_killed_process_is_recorded_once(tenants: Field, folder: Path, *, is_durable: bool):
    def release() -> None:
        async def write() -> None:
            journal = _KilledJournal(folder, is_durable=is_durable)
            copied = CopiedJournal(journal, tenants.open("crypto", max_size=1), FairExecutor(1))
            await copied.write([entry(GET, "key-1"), entry(ENCRYPT)])

        asyncio.run(write())

    process = multiprocessing.get_context("fork").Process(target=release)
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    a_shipper(tenants, folder).once()
    assert released(tenants) == ["key-1"]
    write_at_once(tenants, folder, [entry(GET, "key-2")]).close()
    a_shipper(tenants, folder).once()
    assert released(tenants) == ["key-1", "key-2"]


def test_nothing_is_released_without_the_database(tenants: Field, folder: Path):
    with tenants.server.offline(tenants.name), pytest.raises(DatabaseUnavailable):
        write_at_once(tenants, folder, [entry(GET)])
    assert list(folder.glob("*.journal")) == []
    write_at_once(tenants, folder, [entry(ENCRYPT)])


def test_failure_of_one_transaction_does_not_reject_the_next(tenants: Field, folder: Path):
    async def write() -> None:
        threads = FairExecutor(4)
        copied = CopiedJournal(WriteAheadLog(folder), tenants.open("crypto", max_size=4), threads)
        with tenants.server.offline(tenants.name):
            failed = await asyncio.gather(*(copied.write([entry(GET)]) for _ in range(3)), return_exceptions=True)
        assert {type(one) for one in failed} == {DatabaseUnavailable}
        await copied.write([entry(GET, "after")])
        threads.close()

    asyncio.run(write())
    assert released(tenants) == ["after"]
