"""Archive of audit streams: nothing is lost at any crash, and deleted records cannot pass as archived ones."""

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from activities import retention
from activities.runtime.concurrency import run_for_each_tenant
from cli.audit.commands import Format, _write_export
from compliance.audit.forwarding.batches import Batch, Form, ForwardedState, StateFile
from compliance.audit.forwarding.forwarder import Forwarding
from core.audit import AuditFilter
from core.errors.compliance import AuditRecordsArchived, ExportedRecordsArchived
from core.errors.platform import DatabaseRefused
from dashboard.audit import stream as dashboard_stream
from database.audit import ArchivedPart, AuditStream
from database.connection.database import Database
from openkcm.contract.audit_events import archive_message
from openkcm.errors import AuditBroken
from openkcm.verification.erasure_certificate import certificate_file, shred_message, statement_text
from openkcm.verification.files import Checked, check_file, compare_files
from openkcm.verification.results import Outcome, SignatureState
from tests.activities.retention.archiving import (
    KEYS,
    OTHER,
    TENANT,
    append,
    export,
    files,
    intruder,
    old_stream,
    run,
    start_dying,
)
from tests.cli.audit.offline import ROOT, verdict
from tests.core.proving import a_statement
from tests.database.builders import a_provisioned_tenant, an_audit_event, made_old
from tests.database.fixtures import Field
from tests.database.signing import SIGNER, Signer, sign_head


def numbers(worker: Database, tenant: str = TENANT) -> list[int]:
    with worker.tenant_tx(tenant) as tx:
        return [one.seq for one in tx.audit.records(0, 10_000)]


def verified(path: Path) -> Checked:
    return check_file(path, KEYS.check)


def test_archived_records_and_the_rest_verify_offline_as_one_chain(
    worker: Database, field: Field, tmp_path: Path
) -> None:
    old_stream(field, worker, TENANT)
    whole = export(worker, tmp_path / "whole.jsonl")
    metrics = run(worker, tmp_path / "archive")
    assert (metrics.failures, metrics.records) == ([], 10)
    assert numbers(worker)[0] == 11
    assert run(worker, tmp_path / "archive").records == 10
    assert numbers(worker) == list(range(21, 28)), "five young records and two about the archive"
    sign_head(worker, TENANT)
    rest = export(worker, tmp_path / "rest.jsonl")
    first, second = files(tmp_path / "archive")
    assert [first.name, second.name] == ["000000000001-000000000010.jsonl", "000000000011-000000000020.jsonl"]
    (tmp_path / "key.pem").write_text(KEYS.file(), encoding="ascii")
    for path, against in ((second, first), (rest, second), (first, whole), (second, whole), (rest, whole)):
        found = verdict(tmp_path, str(path), "--public-key", "key.pem", "--against", str(against))
        assert (found["outcome"], found["signature"], found["against"]["same"] > 0) == ("intact", "verified", True)
    assert [(verified(path).result.archived, verified(path).result.events) for path in (first, second, rest)] == [
        *((0, 10), (10, 10), (20, 7)),
    ]
    with field.administrator() as administrator:
        [heads] = administrator.execute("select array_agg(seq order by seq) from okcm.audit_signed_head").fetchall()
    assert heads == ([20, 25, 27],), "checkpoints of deleted records are deleted with them"
    assert run(worker, tmp_path / "archive").records == 0


def test_counts_of_an_hour_are_deleted_with_its_last_record(worker: Database, field: Field, tmp_path: Path) -> None:
    old_stream(field, worker, TENANT)
    with field.administrator() as administrator:
        # As if the young records were of a later hour.
        administrator.execute("update okcm.audit_hour set records = 20, last_seq = 20")
        administrator.execute(
            "insert into okcm.audit_hour select tenant_id, hour + interval '1 hour', name, service, operation, outcome,"
            " 5, 21, 25 from okcm.audit_hour"
        )
        for left in ([1, 21], [21]):
            run(worker, tmp_path / "archive")
            rows = administrator.execute("select first_seq from okcm.audit_hour where first_seq <= 21 order by 1")
            assert [first for (first,) in rows] == left


def test_run_begins_with_the_streams_that_the_last_one_did_not_reach(
    worker: Database, field: Field, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of the failing tenant is the oldest, and a run has time for one stream only."""
    monkeypatch.setattr(retention, "run_for_each_tenant", partial(run_for_each_tenant, seconds=0.0))
    with field.administrator() as administrator:
        administrator.execute(
            "insert into okcm.tenant (tenant_id, organization, region)"
            " select t, t, 'eu-west-1' from unnest(%s::text[]) t",
            [[TENANT, OTHER]],
        )
    for tenant in (TENANT, OTHER):
        old_stream(field, worker, tenant)
    made_old(field, TENANT, 2000)
    (tmp_path / TENANT).write_text("a file where the folder of the tenant belongs", encoding="utf-8")
    first, second = run(worker, tmp_path), run(worker, tmp_path)
    assert (first.failures, first.records) == (["archive"], 0)
    assert (second.failures, second.records) == ([], 10)
    assert len(files(tmp_path, OTHER)) == 1


def test_readers_begin_after_the_archive(worker: Database, field: Field, tmp_path: Path) -> None:
    old_stream(field, worker, TENANT)
    run(worker, tmp_path, at_once=100)
    assert [path.name for path in files(tmp_path)] == ["000000000001-000000000020.jsonl"]
    checked = dashboard_stream.verify(worker, TENANT, lambda _done, _of: None)
    assert (checked.records, checked.signed) == (26, 25)
    with worker.tenant_tx(TENANT) as tx:
        assert tx.audit.numbers(AuditFilter()) == range(21, 27)
        [found, *_] = tx.audit.found(AuditFilter(), range(21, 27), 10, newest_first=False)
        assert found.previous == tx.audit.archived().chain_hash
    selection = verified(export(worker, tmp_path / "some.jsonl", chosen=AuditFilter(text="young-3"))).result
    assert (selection.outcome, selection.signature, selection.events) == (
        Outcome.NOT_CHECKED,
        SignatureState.VERIFIED,
        1,
    )
    with worker.tenant_tx(TENANT) as tx:
        assert tx.audit.append(an_audit_event("young-1")) == 22, "a repeated event adds nothing"


@pytest.fixture
def archived_after(worker: Database, field: Field, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Return a database in which an old stream is archived after the first record of an export was read."""
    monkeypatch.setattr("compliance.audit.export.PIECE", 1)
    monkeypatch.setattr("dashboard.audit.stream.PIECE", 1)
    old_stream(field, worker, TENANT)
    found, records = AuditStream.found, AuditStream.records

    def archive_after(read: Callable[..., Sequence[object]]) -> Callable[..., Sequence[object]]:
        def reading(audit: AuditStream, *arguments: Any, **named: Any) -> Sequence[object]:
            monkeypatch.setattr(AuditStream, "found", found)
            monkeypatch.setattr(AuditStream, "records", records)
            first = read(audit, *arguments, **named)
            archiving = threading.Thread(target=run, args=(worker, tmp_path / "archive"))
            archiving.start()
            archiving.join()
            return first

        return reading

    monkeypatch.setattr(AuditStream, "found", archive_after(found))
    monkeypatch.setattr(AuditStream, "records", archive_after(records))
    return worker


@pytest.mark.parametrize("chosen", [AuditFilter(), AuditFilter(actor="worker")], ids=["whole", "selection"])
def test_export_whose_records_are_archived_meanwhile_ends_with_an_error(
    archived_after: Database, tmp_path: Path, chosen: AuditFilter
) -> None:
    with pytest.raises(ExportedRecordsArchived):
        export(archived_after, tmp_path / "interrupted.jsonl", chosen=chosen)
    again = verified(export(archived_after, tmp_path / "again.jsonl"))
    assert (again.result.problem, again.result.archived) == (None, 10)


def test_verification_of_a_page_starts_again_when_records_are_archived_meanwhile(archived_after: Database) -> None:
    checked = dashboard_stream.verify(archived_after, TENANT, lambda _done, _of: None)
    assert checked.signature is not None
    assert checked.signature.problem is None


def test_command_exports_again_when_records_are_archived_meanwhile(archived_after: Database, tmp_path: Path) -> None:
    out, totals = tmp_path / "export.jsonl", list[int]()
    begun = _write_export(archived_after, TENANT, out, Format.JSONL, totals.append)
    assert begun.header.archived is not None
    assert totals == [verified(out).result.events]


def test_only_whole_months_before_the_retention_are_archived(worker: Database, field: Field, tmp_path: Path) -> None:
    append(worker, TENANT, 10)
    sign_head(worker, TENANT)
    made_old(field, TENANT, 89)
    assert run(worker, tmp_path, days=90).records == 0
    made_old(field, TENANT, 33)
    assert run(worker, tmp_path, days=90).records == 10


def test_database_rejects_an_archive_that_is_young_unsigned_or_leaves_a_gap(
    worker: Database, field: Field, tmp_path: Path
) -> None:
    old_stream(field, worker, TENANT)
    with worker.tenant_tx(TENANT) as tx:
        young = tx.audit.ends().signed
        assert young is not None
    part = ArchivedPart(1, 10, young.chain_hash, bytes(32), "x", "audit:1")
    for wrong in (part._replace(seq=young.seq), part._replace(seq=9), part._replace(first=2), part._replace(first=0)):
        with pytest.raises(DatabaseRefused), worker.tenant_tx(TENANT) as tx:
            tx.audit.record_archive(wrong)
    with worker.tenant_tx(TENANT) as tx:
        assert tx.audit.delete_archived(100) == 0
    assert numbers(worker) == list(range(1, 26))
    assert not files(tmp_path)


def test_only_archived_records_can_be_deleted_even_by_a_superuser(
    worker: Database, field: Field, tmp_path: Path
) -> None:
    old_stream(field, worker, TENANT)
    run(worker, tmp_path)
    with field.administrator() as administrator:
        for table in ("audit_event", "audit_signed_head"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
                administrator.execute(f"delete from okcm.{table} where seq > 10")
        for change in ("delete from okcm.audit_archive", "update okcm.audit_archive set seq = 20"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
                administrator.execute(change)


def remove_and_declare(field: Field, upto: int, signature: str, key: str = SIGNER.name, first: int = 1) -> None:
    """The attack: delete records and record an archive of them, which never existed."""
    with intruder(field) as connection:
        connection.execute(
            "insert into okcm.audit_archive (tenant_id, first_seq, seq, chain_hash, sha256, signature, key)"
            " select tenant_id, %s, seq, chain_hash, sha256('no file'), %s, %s from okcm.audit_event"
            " where tenant_id = %s and seq = %s",
            [first, signature, key, TENANT, upto],
        )
        connection.execute("delete from okcm.audit_event where tenant_id = %s and seq <= %s", [TENANT, upto])


def test_deleted_records_that_are_declared_as_archived_are_reported(
    worker: Database, field: Field, tmp_path: Path
) -> None:
    """A checkpoint of the stream is a valid signature of the same key; it is no archive statement."""
    old_stream(field, worker, TENANT)
    a_provisioned_tenant(worker, TENANT)
    with worker.tenant_tx(TENANT) as tx:
        checkpoint = tx.audit.signed_heads()[0]
    remove_and_declare(field, checkpoint.seq, checkpoint.signature, checkpoint.key)
    found = verified(export(worker, tmp_path / "audit.jsonl")).result
    assert (found.outcome, found.signature) == (Outcome.REFUTED, SignatureState.REFUSED)
    assert found.problem is not None
    assert "archive of the records to 10" in found.problem
    with pytest.raises(AuditBroken, match="archive of the records to 10"):
        dashboard_stream.verify(worker, TENANT, lambda _done, _of: None)
    with pytest.raises(AuditBroken, match="archive of the records to 10"):
        forwarding(worker, tmp_path)._next()
    # The worker does not continue from a statement that it did not sign.
    assert run(worker, tmp_path / "archive").failures == ["archive"]
    assert not files(tmp_path / "archive")


@pytest.mark.parametrize("forgery", ["without a statement", "of another key", "of another tenant", "of another end"])
def test_forged_archive_statement_is_reported(worker: Database, field: Field, tmp_path: Path, forgery: str) -> None:
    old_stream(field, worker, TENANT)
    if forgery == "without a statement":
        with intruder(field) as connection:
            connection.execute("delete from okcm.audit_event where seq <= 10")
    else:
        with worker.tenant_tx(TENANT) as tx:
            end = tx.audit.records(9, 1)[0]
        signer = Signer() if forgery == "of another key" else SIGNER
        tenant = OTHER if forgery == "of another tenant" else TENANT
        seq = 9 if forgery == "of another end" else 10
        with field.administrator() as administrator:
            [(sha256,)] = administrator.execute("select sha256('no file')").fetchall()
        remove_and_declare(field, 10, signer.sign(archive_message(tenant, seq, end.chain_hash, sha256))[0])
    assert verified(export(worker, tmp_path / "audit.jsonl")).result.outcome is Outcome.REFUTED


def test_hostile_sql_of_the_worker_deletes_no_young_record_and_is_reported(
    worker: Database, field: Field, tmp_path: Path
) -> None:
    """The attack: the worker's own functions, called without a file and with an invented signature."""
    old_stream(field, worker, TENANT)
    with worker.raw_tx(TENANT) as connection:
        connection.execute("select okcm.record_audit_archive(1, 20, sha256('no file'), 'invented', 'audit:1')")
        connection.execute("select okcm.delete_archived_events(1000)")
    assert numbers(worker) == list(range(21, 26))
    for statement in (
        "select okcm.record_audit_archive(21, 25, sha256('no file'), 'invented', 'audit:1')",
        "delete from okcm.audit_event",
        "insert into okcm.audit_archive select * from okcm.audit_archive",
    ):
        with pytest.raises(DatabaseRefused), worker.raw_tx(TENANT) as connection:
            connection.execute(statement)
    assert verified(export(worker, tmp_path / "audit.jsonl")).result.outcome is Outcome.REFUTED


def test_erasure_certificate_is_compared_with_the_archive_that_has_its_record(
    worker: Database, field: Field, tmp_path: Path
) -> None:
    old_stream(field, worker, TENANT)
    with worker.tenant_tx(TENANT) as tx:
        named = tx.audit.records(6, 1)[0]
    changed = {"tenant_id": TENANT, "audit_seq": named.seq, "audit_hash": named.chain_hash.hex()}
    text = statement_text(a_statement([named]).model_copy(update=changed))
    certificate = tmp_path / "certificate.json"
    certificate.write_text(certificate_file(text, *SIGNER.sign(shred_message(TENANT, text))), encoding="utf-8")
    run(worker, tmp_path / "archive")
    [path] = files(tmp_path / "archive")
    checked = compare_files(certificate, path, KEYS.check)
    assert (checked.result.outcome, checked.compared and checked.compared.same) == (Outcome.INTACT, 1)


def test_records_deleted_behind_a_true_archive_are_reported(worker: Database, field: Field, tmp_path: Path) -> None:
    old_stream(field, worker, TENANT)
    run(worker, tmp_path / "archive")
    with intruder(field) as connection:
        connection.execute("delete from okcm.audit_event where seq <= 15")
    found = verified(export(worker, tmp_path / "audit.jsonl")).result
    assert (found.outcome, found.problem) == (Outcome.REFUTED, "record 11 is missing or out of order (line 2)")
    assert run(worker, tmp_path / "archive").failures == ["archive"]
    assert [path.name for path in files(tmp_path / "archive")] == ["000000000001-000000000010.jsonl"]


def test_altered_record_is_not_archived_and_stops_no_other_tenant(
    worker: Database, field: Field, tmp_path: Path
) -> None:
    for tenant in (TENANT, OTHER):
        old_stream(field, worker, tenant)
    with intruder(field) as connection:
        connection.execute(
            "update okcm.audit_event set record = replace(record, 'success', 'refused')"
            " where tenant_id = %s and seq = 3",
            [TENANT],
        )
    for _ in range(2):
        assert run(worker, tmp_path).failures == ["archive"]
    assert (numbers(worker)[:10], files(tmp_path)) == (list(range(1, 11)), [])
    assert len(files(tmp_path, OTHER)) == 2
    assert numbers(worker, OTHER)[0] == 21


def test_checkpoint_of_a_key_that_only_the_database_has_archives_nothing(
    worker: Database, field: Field, tmp_path: Path
) -> None:
    """The attack: rewrite the stream and sign it with a key that is added to the table of public keys."""
    append(worker, TENANT, 10)
    sign_head(worker, TENANT, Signer("audit:2"))
    made_old(field, TENANT)
    assert run(worker, tmp_path).failures == ["archive"]
    assert (len(numbers(worker)), files(tmp_path)) == (10, [])


class Stopped(BaseException):
    """Ends a run after the archive is recorded and before its records are deleted."""


def recorded_only(worker: Database, folder: Path, monkeypatch: pytest.MonkeyPatch, pieces: int = 0) -> None:
    """Archive a part and delete only some pieces of one record of it."""
    from database.audit import AuditStream  # noqa: PLC0415 - the class that is patched

    delete, left = AuditStream.delete_archived, pieces

    def stop(self: AuditStream, at_most: int) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise Stopped
        return delete(self, min(at_most, 1)) or at_most

    with monkeypatch.context() as patch:
        patch.setattr(AuditStream, "delete_archived", stop)
        patch.setattr("activities.retention.PIECE", 1)
        with pytest.raises(Stopped):
            run(worker, folder)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_lost_file_is_written_again_while_its_records_are_in_the_database(
    worker: Database, field: Field, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object]
) -> None:
    old_stream(field, worker, TENANT)
    recorded_only(worker, tmp_path, monkeypatch)
    [path] = files(tmp_path)
    before = path.read_bytes()
    damage(path)
    assert run(worker, tmp_path).failures == []
    assert path.read_bytes() == before
    assert numbers(worker)[0] == 21


def test_lost_file_stops_the_deletion_that_has_begun_until_it_is_restored(
    worker: Database, field: Field, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_stream(field, worker, TENANT)
    recorded_only(worker, tmp_path, monkeypatch, pieces=3)
    [path] = files(tmp_path)
    backup = shutil.move(path, tmp_path / "backup")
    assert run(worker, tmp_path).failures == ["archive"]
    assert numbers(worker)[0] == 4
    shutil.move(backup, path)
    assert run(worker, tmp_path).failures == []
    assert numbers(worker)[0] == 21


def test_folder_without_rights_deletes_nothing(worker: Database, field: Field, tmp_path: Path) -> None:
    old_stream(field, worker, TENANT)
    (tmp_path / "archive").write_text("no folder", encoding="ascii")
    assert run(worker, tmp_path / "archive").failures == ["archive"]
    assert numbers(worker)[0] == 1


EFFECTS = 17
"""Commits, responses of the key server and file operations of one run that archives one part."""


def run_until_killed(field: Field, folder: Path, effect: int) -> subprocess.CompletedProcess[str]:
    argument, pem = start_dying(field, folder, effect)
    command = [sys.executable, "-m", "tests.activities.retention.archiving", argument]
    return subprocess.run(command, input=pem, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "effects",
    [pytest.param((15,), id="once"), pytest.param(range(1, EFFECTS + 1), marks=pytest.mark.full, id="at each effect")],
)
def test_kill_at_any_moment_loses_no_record_and_the_next_run_continues(
    worker: Database, field: Field, tmp_path: Path, effects: Sequence[int]
) -> None:
    parts = len(effects) + 3
    old_stream(field, worker, TENANT, [10] * parts)
    whole = export(worker, tmp_path / "whole.jsonl")
    for effect in effects:
        done = run_until_killed(field, tmp_path / "archive", effect)
        assert done.returncode == -signal.SIGKILL, (effect, done.stdout, done.stderr)
        require_every_record(worker, tmp_path, whole)
    while run(worker, tmp_path / "archive").records:
        require_every_record(worker, tmp_path, whole)
    assert numbers(worker)[0] == 10 * parts + 1
    assert len(files(tmp_path / "archive")) == parts


def require_every_record(worker: Database, folder: Path, whole: Path) -> None:
    """Require each record of the former stream in the database or in a verified archive file."""
    archived = 0
    for path in files(folder / "archive"):
        checked = compare_files(path, whole, KEYS.check).result
        assert (checked.problem, checked.archived) == (None, archived)
        archived = checked.last
    assert min(numbers(worker)) <= archived + 1
    assert compare_files(export(worker, folder / "rest.jsonl"), whole, KEYS.check).result.intact


class Taker:
    """A receiver that acknowledges every batch."""

    to = "https://siem.example"

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def deliver(self, batch: Batch) -> None:
        self.numbers += [one.seq for one in batch.records]

    def close(self) -> None:
        """Do nothing."""


def forwarding(worker: Database, folder: Path, seq: int = 0, chain_hash: str = "") -> Forwarding:
    state = ForwardedState(TENANT, Taker.to, Form.OPENKCM, seq, chain_hash)
    return Forwarding(
        worker, Taker(), StateFile(folder / "state.json"), state, "host", threading.Event(), lambda _progress: None
    )


def test_new_forwarding_begins_after_the_archive_and_an_old_one_reports_the_gap(
    worker: Database, field: Field, tmp_path: Path
) -> None:
    a_provisioned_tenant(worker, TENANT)
    old_stream(field, worker, TENANT)
    with worker.tenant_tx(TENANT) as tx:
        third = tx.audit.records(2, 1)[0]
    run(worker, tmp_path, at_once=100)
    begin = numbers(worker)[0]
    fresh = forwarding(worker, tmp_path)
    fresh._run(follow=False)
    assert isinstance(fresh.receiver, Taker)
    assert fresh.receiver.numbers == numbers(worker)
    with pytest.raises(AuditRecordsArchived, match=f"records 4 to {begin - 1}"):
        forwarding(worker, tmp_path, 3, third.chain_hash.hex())._next()
