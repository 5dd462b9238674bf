"""Streams with old checkpoints, their archive, and a process that is killed while it archives one.

Run as `python -m tests.activities.retention.archiving JSON`, the fields of `Workspace`, with the private key of the
signer on standard input.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from temporalio.common import MetricMeter
from temporalio.testing import ActivityEnvironment

from activities.audit import CheckpointSigner
from activities.retention import ArchiveKeys, ArchivePolicy, AuditArchiveActivities
from activities.runtime.metrics import Metrics, RetentionWork
from compliance.audit.export import begin_export
from core.audit import AuditFilter
from database.connection.database import Database
from database.platform.retention import RetentionQueries
from database.platform.scheduled import PlatformQueries
from openkcm.verification.public_keys import PublicKeys
from tests.database.builders import an_audit_event, made_old
from tests.database.fixtures import Field
from tests.database.signing import SIGNER, Signer, sign_head

TENANT, OTHER = "acme", "beta"
KEYS = PublicKeys(SIGNER.public_keys())


class CountedMetrics(Metrics):
    """Counts failures and deleted records."""

    def __init__(self) -> None:
        super().__init__(MetricMeter.noop)
        self.failures: list[RetentionWork] = []
        self.records = 0
        self.rows: dict[str, int] = {}

    def count_retention_failure(self, work: RetentionWork) -> None:
        self.failures.append(work)

    def count_archived_records(self, records: int) -> None:
        self.records += records

    def count_expired_rows(self, table: str, rows: int) -> None:
        self.rows[table] = self.rows.get(table, 0) + rows


def append(worker: Database, tenant: str, number: int, prefix: str = "old") -> None:
    with worker.tenant_tx(tenant) as tx:
        tx.audit.append_all([an_audit_event(f"{prefix}-{n}") for n in range(number)])


def old_stream(field: Field, worker: Database, tenant: str, parts: Sequence[int] = (10, 10)) -> None:
    """Append parts of a stream, each with a checkpoint that is years old, and five young records with a young one."""
    for number, records in enumerate(parts):
        append(worker, tenant, records, f"part-{number}")
        sign_head(worker, tenant)
    made_old(field, tenant)
    append(worker, tenant, 5, "young")
    sign_head(worker, tenant)


def archive(
    worker: Database, folder: Path, signer: Any = SIGNER, at_once: int = 10, days: int = 1100
) -> tuple[CountedMetrics, AuditArchiveActivities]:
    """Return the activities of the archive with their metrics."""
    metrics, queries = CountedMetrics(), RetentionQueries(worker)
    keys = ArchiveKeys(CheckpointSigner(PlatformQueries(worker), signer), signer.public_keys)
    policy = ArchivePolicy(days, folder, at_once)
    return metrics, AuditArchiveActivities(worker, queries, keys, policy, lambda: datetime.now(UTC), metrics)


def run(worker: Database, folder: Path, **changed: Any) -> CountedMetrics:
    """Run the activity once."""
    metrics, activities = archive(worker, folder, **changed)
    ActivityEnvironment().run(activities.archive_streams)
    return metrics


def files(folder: Path, tenant: str = TENANT) -> list[Path]:
    return sorted((folder / tenant).glob("*.jsonl"))


def export(worker: Database, path: Path, tenant: str = TENANT, chosen: AuditFilter | None = None) -> Path:
    with worker.tenant_snapshot(tenant) as tx:
        begun = begin_export(tx, chosen or AuditFilter(), datetime.now(UTC), KEYS.fingerprint)
    path.write_text("".join(begun.lines(worker, lambda _: None)), encoding="utf-8")
    return path


@contextmanager
def intruder(field: Field) -> Iterator[psycopg.Connection]:
    """An attacker with all rights on the database: no trigger binds it. It has no access to the key server."""
    with field.administrator() as administrator:
        for table in ("audit_event", "audit_signed_head", "audit_archive"):
            administrator.execute(f"alter table okcm.{table} disable trigger append_only")
        yield administrator


@dataclass(frozen=True)
class Workspace:
    """What the killed process needs; it kills itself right after effect number `effect`."""

    url: str
    password: str
    context_key: str
    folder: str
    effect: int


def start_dying(field: Field, folder: Path, effect: int) -> tuple[str, str]:
    """Return the argument and the standard input of the process."""
    passwords, key = field.server.passwords, field.key("worker")
    given = Workspace(field.url, passwords["worker"], key.hex(), str(folder), effect)
    pem = SIGNER.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return json.dumps(asdict(given)), pem.decode()


class DyingDatabase:
    """A database that calls `effect` after each commit."""

    def __init__(self, database: Database, effect: Callable[[], None]) -> None:
        self._database = database
        self._effect = effect

    @contextmanager
    def tenant_tx(self, tenant_id: str) -> Iterator[Any]:
        with self._database.tenant_tx(tenant_id) as tx:
            yield tx
        self._effect()

    @contextmanager
    def raw_tx(self, tenant_id: str) -> Iterator[Any]:
        with self._database.raw_tx(tenant_id) as connection:
            yield connection
        self._effect()


class DyingSigner(Signer):
    """A key server that calls `effect` after each response."""

    effect: Callable[[], None]

    def sign_all(self, messages: Sequence[bytes]) -> Sequence[tuple[str, str]]:
        signed = super().sign_all(messages)
        self.effect()
        return signed

    def public_keys(self) -> dict[str, str]:
        keys = super().public_keys()
        self.effect()
        return keys


def main() -> None:
    given = Workspace(**json.loads(sys.argv[1]))
    left = given.effect

    def effect(*_ignored: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    key = load_pem_private_key(sys.stdin.read().encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signer = DyingSigner(key=key)
    signer.effect = effect
    # The kernel's view of each file operation: written, synced, renamed.
    sys.addaudithook(lambda name, args: effect() if name == "os.rename" or _is_archive(name, args) else None)
    database = Database(given.url, "worker", given.password, bytes.fromhex(given.context_key))
    dying: Any = DyingDatabase(database, effect)
    run(dying, Path(given.folder), signer=signer)
    database.close()


def _is_archive(name: str, args: Mapping[int, Any] | Sequence[Any]) -> bool:
    return name == "open" and str(args[0]).endswith((".jsonl", ".jsonl.new"))


if __name__ == "__main__":
    main()
