"""The worker archives an audit stream signed by the key server: no kill loses a record, no changed file passes."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from compliance.audit.archive import PIECE
from openkcm.contract.audit_events import StoredRecord
from openkcm.verification.audit_export import read_export
from tests.database.builders import age_checkpoints, an_audit_event
from tests.e2e.audit.schedules import sign_to_the_end, trigger_until
from tests.e2e.outages import down
from tests.e2e.stack import Stack, other_machine, run_openkcm
from tests.e2e.tenants import new_tenant

_RECORDS = PIECE + 2_000
"""More than one transaction of the deletion."""


@dataclass
class Archiving:
    """A tenant whose records up to `last` are older than the retention; `whole` is its stream before the archive."""

    stack: Stack
    tenant_id: str
    last: int
    whole: Sequence[StoredRecord]

    @property
    def file(self) -> Path:
        return self.stack.settings.audit_archive / self.tenant_id / f"{1:012}-{self.last:012}.jsonl"

    def first_record(self) -> int:
        """Return the number of the first record in the database."""
        with self.stack.database().tenant_tx(self.tenant_id) as tx:
            return tx.audit.records(0, 1)[0].seq

    def archived_records(self) -> list[StoredRecord]:
        with self.file.open("rb") as lines:
            return [one.stored for one in read_export(lines)[1]]

    def assert_complete(self) -> None:
        """Assert that each record of the stream is unchanged in the database, or else in the archive file."""
        left = {one.seq: one for one in self.stack.stream(self.tenant_id)}
        found = {one.seq: one for one in self.archived_records()} | left
        assert [found.get(one.seq) for one in self.whole] == list(self.whole)

    @contextmanager
    def locked(self, statement: str, parameters: Sequence[Any] = ()) -> Iterator[None]:
        """Hold the lock of a statement as database administrator, so that the worker waits for it."""
        with self.stack.owner() as owner, owner.transaction():
            owner.execute("set local row_security = off")
            owner.execute(statement, parameters)
            yield

    @contextmanager
    def killed_in_the_deletion(self) -> Iterator[None]:
        """Kill the worker between two transactions of the deletion; it is down during the block."""
        record = "select from okcm.audit_event where tenant_id = %s and seq = %s for update"
        with self.locked(record, [self.tenant_id, PIECE + 1]):
            trigger_until(self.stack, "audit-archive", lambda: self.first_record() > 1)
            assert self.first_record() == PIECE + 1
            with down(self.stack, "worker"):
                yield

    def finish(self) -> None:
        trigger_until(self.stack, "audit-archive", lambda: self.first_record() > self.last)

    def failures(self) -> float:
        """Return the value of the worker's counter."""
        page = httpx2.get(f"http://127.0.0.1:{self.stack.settings.worker_metrics_port}/metrics", timeout=10).text
        found = re.search(
            r'^openkcm_retention_failures(?:_total)?\{[^}]*work="archive"[^}]*\} (\S+)$', page, re.MULTILINE
        )
        return 0.0 if found is None else float(found[1])


@pytest.fixture
def archiving(stack: Stack) -> Archiving:
    tenant_id = new_tenant(stack, "archive")
    with stack.database().tenant_tx(tenant_id) as tx:
        tx.audit.append_all([an_audit_event(f"old-{number}") for number in range(_RECORDS)])
    sign_to_the_end(stack, tenant_id)
    with stack.database().tenant_tx(tenant_id) as tx:
        last = tx.audit.signed_heads()[-1].seq
    with stack.owner() as owner:
        age_checkpoints(owner, tenant_id)
    with stack.database().tenant_tx(tenant_id) as tx:
        tx.audit.append_all([an_audit_event(f"young-{number}") for number in range(5)])
    sign_to_the_end(stack, tenant_id)
    return Archiving(stack, tenant_id, last, stack.stream(tenant_id))


def verify(folder: Path, *words: str) -> dict[str, Any]:
    """Run `openkcm audit verify` as an auditor would, without settings; the file must be intact and signed."""
    done = run_openkcm(other_machine(), "audit", "verify", *words, "--public-key", str(folder / "key.pem"), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert (document["outcome"], document["signature"]) == ("intact", "verified")
    return document


def test_archive_and_export_are_one_signed_chain_also_after_kills_of_the_worker(
    stack: Stack, archiving: Archiving, tmp_path: Path
) -> None:
    # The worker is killed after it has written the file and before it can record it.
    with archiving.locked("lock table okcm.audit_archive in share row exclusive mode"):
        trigger_until(stack, "audit-archive", archiving.file.exists)
        with down(stack, "worker"):
            assert archiving.first_record() == 1
    with archiving.killed_in_the_deletion():
        archiving.assert_complete()
    archiving.finish()
    archiving.assert_complete()
    assert [one.seq for one in archiving.archived_records()] == list(range(1, archiving.last + 1))

    sign_to_the_end(stack, archiving.tenant_id)
    export = tmp_path / "audit.jsonl"
    stack.command("audit", "export", archiving.tenant_id, "--out", str(export))
    stack.command("audit", "public-key", "--out", str(tmp_path / "key.pem"))
    archive = verify(tmp_path, str(archiving.file))
    assert (archive["events"], archive["signed"]) == (archiving.last, archiving.last)
    rest = verify(tmp_path, str(export), "--against", str(archiving.file))
    assert rest["against"]["same"] == 1, "the hash of the last archived record is in both"
    with export.open("rb") as lines:
        assert next(read_export(lines)[1]).stored.seq == archiving.last + 1


def test_changed_archive_file_stops_the_deletion_and_is_counted(stack: Stack, archiving: Archiving) -> None:
    with archiving.killed_in_the_deletion():
        signed = archiving.file.read_bytes()
        archiving.file.write_bytes(signed[:-2] + bytes([signed[-2] ^ 1]) + signed[-1:])
    before = archiving.failures()
    trigger_until(stack, "audit-archive", lambda: archiving.failures() > before)
    assert archiving.first_record() == PIECE + 1
    archiving.file.write_bytes(signed)
    archiving.finish()
    archiving.assert_complete()
