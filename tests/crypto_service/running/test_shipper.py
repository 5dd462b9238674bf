"""Shipping of log files to a real PostgreSQL: every record exactly once, despite crashes and rejections."""

import asyncio
import fcntl
import json
import threading
import time
import zlib
from collections import Counter
from contextlib import suppress
from datetime import date
from pathlib import Path

import pytest

from core.errors.platform import DatabaseRefused, DatabaseUnavailable
from core.services import CryptoOperation
from crypto_service.audit import shipper as shipper_module
from crypto_service.audit.shipper import AuditShipper
from crypto_service.audit.wal import WriteAheadLog, encode
from crypto_service.interfaces import AuditEntry
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.usage import Days
from openkcm.contract.audit_events import verify_chain
from tests.concurrency import wait_until
from tests.crypto_service.disk import disk
from tests.database.fixtures import Field

GET, ENCRYPT, CREATE = CryptoOperation.GET, CryptoOperation.ENCRYPT, CryptoOperation.CREATE
EPOCH_MS = 1_795_000_000_000


def entry(operation: CryptoOperation, subject: str = "key-1", tenant: str = "acme", **more: object) -> AuditEntry:
    return AuditEntry(tenant, "orders", operation, subject, "corr-1", "127.0.0.1", **more)


def append(journal: WriteAheadLog, *entries: AuditEntry) -> None:
    """Write entries as the service does, with one write for each tenant."""
    for tenant_id in dict.fromkeys(entry.tenant_id for entry in entries):
        asyncio.run(journal.write([entry for entry in entries if entry.tenant_id == tenant_id]))


def write(folder: Path, *entries: AuditEntry) -> WriteAheadLog:
    journal = WriteAheadLog(folder)
    append(journal, *entries)
    return journal


def crypto_records(field: Field, tenant: str = "acme") -> list[dict[str, object]]:
    with field.open("worker", max_size=1).tenant_tx(tenant) as tx:
        stored = tx.audit.records()
        assert verify_chain(stored) is not None
    records = [json.loads(one.record) for one in stored]
    return [record for record in records if record["name"].startswith("crypto.")]


def used(field: Field, tenant: str = "acme") -> int:
    with field.administrator() as admin:
        query = "select coalesce(sum(count), 0) from okcm.usage_minute where tenant_id = %s and operation <> 'encrypt'"
        row = admin.execute(query, [tenant]).fetchone()
    assert row is not None
    return int(row[0])


def a_shipper(field: Field, folder: Path) -> AuditShipper:
    return AuditShipper(folder, field.open("crypto", max_size=2))


def test_releases_changes_and_rejections_are_events_and_other_uses_are_counted(tenants: Field, folder: Path):
    refused = entry(GET, "other", refused="object_not_found")
    uses = [entry(ENCRYPT, f"row-{number}", bytes=10) for number in range(50)]
    write(folder, entry(GET), entry(CREATE, "key-2"), refused, *uses)
    shipper = a_shipper(tenants, folder)
    shipper.once()
    assert shipper.totals.lines == 53

    records = crypto_records(tenants)
    assert [(record["name"], record["outcome"], record["subject"]) for record in records] == [
        ("crypto.key_released", "success", "key-1"),
        ("crypto.key_changed", "success", "key-2"),
        ("crypto.refused", "refused", "other"),
        ("crypto.used", "success", "orders"),
    ]
    assert records[2]["details"]["code"] == "object_not_found"
    assert records[3]["details"]["count"] == "50"
    assert records[3]["details"]["bytes"] == "500"
    with tenants.open("crypto", max_size=1).tenant_tx("acme") as tx:
        seen = tx.services.get("orders")
    assert seen is not None
    assert seen.last_seen_at is not None


def test_repeated_shipping_adds_nothing(tenants: Field, folder: Path):
    write(folder, entry(GET, "mine"), entry(ENCRYPT), entry(GET, "theirs", tenant="beta"))
    for _ in range(3):  # as if each process died after the commit and before the checkpoint
        shipper = a_shipper(tenants, folder)
        shipper.once()
        assert shipper.totals.lines == 3
    assert [record["subject"] for record in crypto_records(tenants)] == ["mine", "orders"]
    assert [record["subject"] for record in crypto_records(tenants, "beta")] == ["theirs"]
    assert used(tenants) == 1


def test_power_failure_after_a_batch_counts_nothing_twice(tenants: Field, folder: Path):
    """Everything that was not flushed to disk is lost, after the batch is committed in the database."""
    with disk(folder) as disk_of_folder:
        journal = WriteAheadLog(folder, sync=True)
        asyncio.run(journal.write([entry(CryptoOperation.MAC)] * 3))
        a_shipper(tenants, folder).once()
        asyncio.run(journal.write([entry(CryptoOperation.MAC)]))
        disk_of_folder.lose_power()
    journal.close()
    after = a_shipper(tenants, folder)
    while after.once() is not None:
        pass
    assert used(tenants) == 4


def test_draft_of_a_new_log_file_is_not_deleted(folder: Path, tenants: Field):
    draft = folder / ".1-1-aaaa.journal"
    draft.touch()
    assert a_shipper(tenants, folder).once() is None
    assert draft.exists()


def test_damaged_record_is_kept_for_an_operator(tenants: Field, folder: Path):
    write(folder, *(entry(GET, f"key-{number}") for number in range(3))).close()
    [path] = folder.glob("*.journal")
    data = path.read_bytes()
    first, second, _third = data.splitlines(keepends=True)
    damaged = second.replace(b"key-1", b"key-9")
    path.write_bytes(data.replace(second, damaged))
    shipper = a_shipper(tenants, folder)
    with disk(folder) as disk_of_folder:
        shipper.once()
        disk_of_folder.lose_power()
    assert [record["subject"] for record in crypto_records(tenants)] == ["key-0", "key-2"]
    assert not path.exists()
    assert (folder / f"{path.name}.{len(first)}.damaged").read_bytes() == damaged
    assert shipper.totals.damaged == 1


def test_interrupted_batch_is_repeated_with_the_same_range(tenants: Field, folder: Path):
    """Acme's part is committed, then the database fails; later records must not change the ids."""
    journal = write(folder, *[entry(CryptoOperation.MAC)] * 3, *[entry(CryptoOperation.MAC, tenant="beta")] * 2)

    class Dying(Database):
        def tenant_tx(self, tenant_id: str) -> TenantTransaction:
            if tenant_id == "beta":
                raise DatabaseUnavailable
            return super().tenant_tx(tenant_id)

    server = tenants.server
    dying = Dying(tenants.url, "crypto", server.passwords["crypto"], server.context_keys["crypto"], max_size=1)
    with pytest.raises(DatabaseUnavailable):
        AuditShipper(folder, dying).once()
    dying.close()
    assert (used(tenants, "acme"), used(tenants, "beta")) == (3, 0)

    append(journal, entry(CryptoOperation.MAC), entry(CryptoOperation.MAC, tenant="beta"))
    after = a_shipper(tenants, folder)
    after.once()
    assert (used(tenants, "acme"), used(tenants, "beta")) == (3, 2)
    after.once()
    assert (used(tenants, "acme"), used(tenants, "beta")) == (4, 3)
    assert len([record for record in crypto_records(tenants) if record["name"] == "crypto.used"]) == 2


def test_file_is_deleted_only_after_its_writer_ended(tenants: Field, folder: Path):
    journal = write(folder, entry(GET))
    shipper = a_shipper(tenants, folder)
    shipper.once()
    shipper.once()
    assert len(list(folder.glob("*.journal"))) == 1
    journal.close()
    shipper.once()
    shipper.once()
    assert list(folder.glob("*.journal")) == []


def test_records_of_a_killed_process_are_shipped_except_damaged_and_incomplete_ones(tenants: Field, folder: Path):
    left = folder / "00001-7-dead.journal"
    bad = encode(entry(GET, "bad"), EPOCH_MS).replace(b"bad", b"BAD")
    whole, torn = encode(entry(GET, "with\0nul"), EPOCH_MS), encode(entry(GET, "torn"), EPOCH_MS)[:40]
    left.write_bytes(bad + whole + torn)
    shipper = a_shipper(tenants, folder)
    shipper.once()
    shipper.once()
    # PostgreSQL rejects NUL in text.
    assert [record["subject"] for record in crypto_records(tenants)] == ["with\N{REPLACEMENT CHARACTER}nul"]
    assert shipper.totals.damaged == 1
    assert not left.exists()


def test_records_are_kept_while_the_database_is_down(tenants: Field, folder: Path):
    journal = write(folder, entry(GET, "before"))
    shipper = a_shipper(tenants, folder)
    with tenants.server.offline(tenants.name):
        with pytest.raises(DatabaseUnavailable):
            shipper.once()
        asyncio.run(journal.write([entry(GET, "meanwhile")]))
    until_shipped(shipper)
    assert [record["subject"] for record in crypto_records(tenants)] == ["before", "meanwhile"]


def test_uses_and_rate_limited_requests_of_several_processes_are_summed(tenants: Field, folder: Path):
    for _ in range(3):
        write(folder, *[entry(ENCRYPT)] * 10, *[entry(GET, refused="too_many_requests")] * 20)
    write(folder, entry(GET, tenant="beta", refused="too_many_requests"))
    a_shipper(tenants, folder).once()
    counts: Counter[str] = Counter()
    for record in crypto_records(tenants):
        counts[record["name"]] += int(record["details"]["count"])
    assert sorted(counts.values()) == [30, 60]
    assert len(crypto_records(tenants)) <= 4  # one of each per second


def test_records_above_the_batch_size_are_shipped_in_several_batches(tenants: Field, folder: Path):
    journal = write(folder, *[entry(GET, f"key-{number}") for number in range(16_000)])
    journal.close()
    shipper = a_shipper(tenants, folder)
    first = shipper.once()
    assert first is not None
    assert first.full
    assert 0 < shipper.totals.lines < 16_000
    until_shipped(shipper)
    assert shipper.totals.lines == 16_000
    with tenants.open("worker", max_size=1).tenant_tx("acme") as tx:
        head = tx.audit.head()
    assert head is not None
    assert head.seq > 16_000


class Unavailable(Database):
    """A database that is unavailable at first."""

    unavailable = True

    def tenant_tx(self, tenant_id: str) -> TenantTransaction:
        if self.unavailable:
            raise DatabaseUnavailable
        return super().tenant_tx(tenant_id)


def unavailable(field: Field) -> Unavailable:
    server = field.server
    return Unavailable(field.url, "crypto", server.passwords["crypto"], server.context_keys["crypto"], max_size=1)


def test_backlog_is_shipped_without_pauses_also_after_a_restart(
    tenants: Field, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """The batch that a former process stored is no reason to wait: more than it may wait by now."""
    monkeypatch.setattr(shipper_module, "_TICK_SECONDS", 3600.0)
    write(folder, *[entry(CryptoOperation.MAC)] * 3)
    database = unavailable(tenants)
    with pytest.raises(DatabaseUnavailable):
        AuditShipper(folder, database).once()
    database.close()
    write(folder, *[entry(CryptoOperation.MAC)] * 30_000)
    at_report: list[int] = []
    stop = threading.Event()
    shipper = AuditShipper(folder, tenants.open("crypto", max_size=1), lambda: at_report.append(used(tenants)))
    shipping = threading.Thread(target=shipper.run, args=(stop,))
    shipping.start()
    try:
        wait_until(lambda: at_report, seconds=30)
    finally:
        stop.set()
        shipping.join(30)
    assert set(at_report) == {30_003}


def test_batch_that_was_retried_is_no_proof_that_nothing_waits(tenants: Field, folder: Path):
    database = unavailable(tenants)
    journal = write(folder, *[entry(CryptoOperation.MAC)] * 3)
    shipper = AuditShipper(folder, database)
    with pytest.raises(DatabaseUnavailable):
        shipper.once()
    append(journal, *[entry(CryptoOperation.MAC)] * 4)
    database.unavailable = False
    batch = shipper.once()
    database.close()
    assert batch is not None
    assert batch.full


def test_records_of_a_tenant_with_many_waiting_ones_delay_no_other(tenants: Field, folder: Path):
    """Beta's records, written last, are in the first batch, and those of its lane too."""
    journal = write(folder, *[entry(GET, "mine", tenant="beta")])
    for _ in range(4):
        append(journal, *[entry(ENCRYPT, "x" * 512)] * 10_000)
    append(journal, entry(GET, "after", tenant="beta"))
    lane = folder / "99999999999999999999-1-aa@beta.journal"
    lane.write_bytes(encode(entry(GET, "in the lane", tenant="beta"), EPOCH_MS))
    shipper = a_shipper(tenants, folder)
    first = shipper.once()
    assert first is not None
    assert first.full
    assert [record["subject"] for record in crypto_records(tenants, "beta")][-1] == "in the lane"
    while "after" not in {record["subject"] for record in crypto_records(tenants, "beta")}:
        shipper.once()
    assert shipper.totals.lines < 25_000
    journal.close()
    until_shipped(shipper)
    assert shipper.totals.lines == 40_003
    assert list(folder.glob("*.journal")) == []


def test_each_of_many_lanes_is_served(tenants: Field, folder: Path):
    """More lanes than one batch has: the rest follows, also when the first ones always have more."""
    for number in range(40):
        lane = folder / f"{number:020d}-1-aa@tenant-{number:02d}.journal"
        lane.write_bytes(encode(entry(GET, f"key-{number}"), EPOCH_MS))
    with (folder / f"{0:020d}-1-aa@tenant-00.journal").open("ab") as file:
        file.write(encode(entry(ENCRYPT), EPOCH_MS) * 20_000)
    shipper = a_shipper(tenants, folder)
    for _ in range(3):
        assert shipper.once() is not None
    served = {record["subject"] for record in crypto_records(tenants)}
    assert served == {"orders", *(f"key-{number}" for number in range(40))}
    assert list(folder.glob("*@tenant-00.journal"))


def test_rejected_records_are_set_aside_and_the_others_shipped(tenants: Field, folder: Path):
    write(folder, entry(GET, "nowhere", tenant="never-enabled"), entry(GET, "mine"))
    shipper = a_shipper(tenants, folder)
    for _ in range(40):
        with suppress(Exception):
            shipper.once()
    assert [record["subject"] for record in crypto_records(tenants)] == ["mine"]
    kept = (folder / "undeliverable.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)[0] for line in kept] == ["never-enabled"]
    assert shipper.totals.set_aside == 1


def test_records_set_aside_follow_a_torn_line_of_a_crash_on_a_new_line(tenants: Field, folder: Path):
    kept = folder / "undeliverable.jsonl"
    kept.write_text('["earlier", {}]\n["torn", {"nam', encoding="utf-8")
    write(folder, entry(GET, "nowhere", tenant="never-enabled"))
    shipper = a_shipper(tenants, folder)
    for _ in range(30):
        with suppress(DatabaseRefused):
            shipper.once()
    assert shipper.totals.set_aside == 1
    earlier, torn, added = kept.read_text(encoding="utf-8").splitlines()
    assert (earlier, torn) == ('["earlier", {}]', '["torn", {"nam')
    assert json.loads(added)[0] == "never-enabled"


def test_second_shipper_waits_for_the_lock_of_the_folder(tenants: Field, folder: Path):
    write(folder, entry(GET))
    stop = threading.Event()
    with (folder / "delivery.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=a_shipper(tenants, folder).run, args=(stop,))
        waiting.start()
        waiting.join(0.5)
        assert crypto_records(tenants) == []
    deadline = time.monotonic() + 60
    while not crypto_records(tenants) and time.monotonic() < deadline:
        waiting.join(0.05)
    stop.set()
    waiting.join(30)
    assert len(crypto_records(tenants)) == 1


def until_shipped(shipper: AuditShipper) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(DatabaseUnavailable):
            shipper.once()
            if shipper.once() is None:
                return
        time.sleep(0.01)


def test_durations_are_summed_and_records_without_duration_counted(tenants: Field, folder: Path):
    write(
        folder,
        entry(CryptoOperation.DECRYPT, microseconds=40),
        entry(CryptoOperation.DECRYPT, microseconds=50),
        entry(GET, refused="object_not_found"),
    )
    older = json.dumps([EPOCH_MS, "acme", "orders", "decrypt", "row-1", "corr-1", "127.0.0.1", "", 1, 10]).encode()
    (folder / "00000000000000000001-1-aa.journal").write_bytes(b"%08x %b\n" % (zlib.crc32(older), older))
    shipper = a_shipper(tenants, folder)
    while shipper.once() is not None:
        pass
    with tenants.open("dashboard", max_size=1).tenant_tx("acme") as tx:
        sums = [one.used for one in tx.usage.sums_and_causes(Days(date(2026, 1, 1), date(2100, 1, 1)))[0]]
        assert [day.used.count for day in tx.usage.days(date(2026, 11, 18), date(2026, 11, 18))] == [1]
    totals = [(one.operation, one.refusal, one.count, one.latency.timed, one.latency.microseconds) for one in sums]
    assert [one for one in totals if one[0] is not ENCRYPT] == [
        (CryptoOperation.DECRYPT, "", 3, 2, 90),
        (GET, "object_not_found", 1, 0, 0),
    ]
