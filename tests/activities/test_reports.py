"""The steps of GenerateReport on a real database: after a crash at any effect and a retry there is one valid report.

A test key signs; the real key signs in tests/e2e/audit/test_report.py.
"""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities.audit import AuditCheckpointActivities, CheckpointSigner
from activities.reports import ReportActivities
from compliance.audit.export import begin_export
from compliance.reports.render import pdf, render_html
from compliance.reports.snapshot import read_stated
from core.audit import AuditFilter
from core.errors.compliance import ReportPeriodArchived, ReportUnknown
from core.errors.platform import DatabaseRefused, DatabaseUnavailable
from core.messages.base import StepInput
from core.messages.compliance import ReportStep
from core.tenants.lifecycle import Transition
from database.audit import AuditStream
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import AuditName, StoredRecord
from openkcm.contract.protected_fields import Backfill
from openkcm.verification.public_keys import PublicKeys
from openkcm.verification.reports.signed_file import ReportFormat, read_report
from openkcm.verification.reports.verify import verify_report
from openkcm.verification.results import Outcome
from tests.activities.dying import SimulatedCrash
from tests.activities.recorded import Recorded
from tests.core.proving import lines_of
from tests.database.builders import (
    a_backfill,
    a_connected_service,
    a_protected_field,
    a_provisioned_tenant,
    an_archive,
    an_audit_event,
    some_uses,
)
from tests.database.fixtures import Field
from tests.database.signing import SIGNER, sign_head

TENANT, REPORT_ID = "acme", "6f" * 16
STEP = ReportStep(tenant_id=TENANT, operation_id=f"report-{REPORT_ID}", report_id=REPORT_ID)


class CrashingDatabase:
    """A database and signer that counts effects (commits and signatures) and crashes after one of them."""

    def __init__(self, database: Database) -> None:
        self.effects, self.last, self._database = 0, 0, database

    def effect(self) -> None:
        self.effects += 1
        if self.effects == self.last:
            raise SimulatedCrash

    def sign_all(self, messages: Sequence[bytes]) -> Sequence[tuple[str, str]]:
        signed = SIGNER.sign_all(messages)
        self.effect()
        return signed

    public_keys = staticmethod(SIGNER.public_keys)

    def __getattr__(self, name: str) -> Any:
        """Forward other attributes to the database."""
        found = getattr(self._database, name)
        return self._transaction(found) if name in {"tenant_tx", "tenant_snapshot"} else found

    def _transaction(self, begin: Callable[[str], AbstractContextManager[TenantTransaction]]) -> Any:
        @contextmanager
        def transaction(tenant_id: str) -> Iterator[TenantTransaction]:
            with begin(tenant_id) as tx:
                yield tx
            self.effect()

        return transaction


class Scene(Recorded):
    def __init__(self, field: Field) -> None:
        self.worker, self.dashboard = field.open("worker"), field.open("dashboard")
        super().__init__(self.worker, TENANT)
        self.mortal = CrashingDatabase(self.worker)
        a_provisioned_tenant(self.worker, TENANT)
        self.read(lambda tx: tx.tenants.move(Transition.ACTIVATE))
        a_connected_service(field, TENANT)
        PlatformQueries(self.worker).record_audit_keys(SIGNER.public_keys())
        self.renderings = {ReportFormat.HTML: render_html}
        database: Any = self.mortal
        signer = CheckpointSigner(PlatformQueries(database), self.mortal)
        heads = AuditCheckpointActivities(database, PlatformQueries(database), signer)
        reports = ReportActivities(database, read_stated, self.renderings, signer, "0.1.0", lambda: datetime.now(UTC))
        plain = StepInput(tenant_id=TENANT, operation_id=STEP.operation_id)
        self.steps = [(reports.state_report, STEP), (heads.sign_audit_head, plain), (reports.make_report, STEP)]

    def ask(self, days: int = 30) -> None:
        now = datetime.now(UTC)
        with self.dashboard.tenant_tx(TENANT) as tx:
            tx.reports.request(REPORT_ID, now - timedelta(days=days), now + timedelta(days=1), "ada@acme.example")

    def run(self, activity: Any, step: Any) -> None:
        ActivityEnvironment().run(activity, step)

    def make(self) -> None:
        for activity, step in self.steps:
            self.run(activity, step)

    def file(self, form: ReportFormat) -> bytes:
        with self.dashboard.tenant_tx(TENANT) as tx:
            content = tx.reports.file(REPORT_ID, form)
        assert content is not None
        return content

    def export(self) -> list[bytes]:
        with self.dashboard.tenant_tx(TENANT) as tx:
            begun = begin_export(tx, AuditFilter(), datetime.now(UTC), lambda _key: "")
        return lines_of("".join(begun.lines(self.dashboard, lambda _number: None)).encode())

    def assert_one_good_report(self) -> None:
        assert len(self.records(AuditName.REPORT_MADE)) == 1
        keys = PublicKeys(SIGNER.public_keys())
        for form in (ReportFormat.JSON, *self.renderings):
            verdict = verify_report(self.file(form), self.export(), keys.check)
            assert verdict.problem is None


@pytest.fixture
def scene(field: Field) -> Scene:
    return Scene(field)


def test_report_has_snapshot_and_derived_figures_and_verifies(scene: Scene) -> None:
    scene.renderings[ReportFormat.PDF] = pdf
    scene.ask()
    scene.make()
    scene.assert_one_good_report()
    report = read_report(scene.file(ReportFormat.JSON)).report
    stated = report.stated
    assert (report.tenant_id, report.organization, report.made_for) == (TENANT, "acme Corporation", "ada@acme.example")
    assert report.until <= report.made_at
    assert [one.service for one in stated.coverage] == ["orders"]
    assert stated.coverage[0].under.startswith("orders version 1 (L3), L2-acme-primary version 1 (L2)")
    assert [key.level for key in stated.keys] == ["L1", "L2", "L3", "CA"]
    assert (stated.root_key_mode, stated.root_key_holder) == ("platform", "the platform")
    assert stated.checks
    assert report.counted.records == report.stream.seq - 1
    assert {one.status for one in report.summary} <= {"in order", "attention", "missing"}


def test_coverage_of_a_service_that_encrypts_unlisted_data_is_unknown(scene: Scene, field: Field) -> None:
    (listed,) = scene.read(lambda tx: read_stated(tx, datetime.now(UTC))).coverage
    with scene.dashboard.tenant_tx(TENANT) as tx:
        tx.protection.unprotect("orders", a_protected_field(), "ada")
    now = datetime.now(UTC)
    with field.open("crypto").tenant_tx(TENANT) as tx:
        tx.usage.add([some_uses("orders", minute=now.replace(second=0, microsecond=0))], "one batch")
        tx.agents.note_backfills([a_backfill("orders", state=Backfill.FINISHED, remaining=0)])
    (unlisted,) = scene.read(lambda tx: read_stated(tx, now)).coverage
    assert [(one.complete, one.is_unknown) for one in (listed, unlisted)] == [(False, False), (False, True)], unlisted


def test_crash_after_any_effect_is_completed_by_the_retry_as_one_report(scene: Scene) -> None:
    scene.ask()
    for activity, step in scene.steps:
        for last in itertools.count(1):
            scene.mortal.effects, scene.mortal.last = 0, last
            try:
                scene.run(activity, step)
            except SimulatedCrash:
                continue
            break
    scene.mortal.last = 0
    kept = {form: scene.file(form) for form in (ReportFormat.JSON, ReportFormat.HTML)}
    scene.make()
    assert kept == {form: scene.file(form) for form in (ReportFormat.JSON, ReportFormat.HTML)}, (
        "a report is generated once"
    )
    scene.assert_one_good_report()


def test_long_stream_is_read_in_pieces_up_to_the_digest(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("activities.reports._BATCH", 7)
    scene.read(lambda tx: tx.audit.append_all([an_audit_event(f"more-{n}") for n in range(40)]))
    scene.ask()
    state, sign, make = scene.steps
    scene.run(*state)
    scene.read(lambda tx: tx.audit.append_all([an_audit_event(f"later-{n}") for n in range(10)]))
    scene.run(*sign)
    scene.run(*make)
    scene.assert_one_good_report()
    report = read_report(scene.file(ReportFormat.JSON)).report
    assert report.counted.last_seq < report.stream.seq


def test_empty_period_has_a_report_too(scene: Scene) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=400)
    with scene.dashboard.tenant_tx(TENANT) as tx:
        tx.reports.request(REPORT_ID, long_ago, long_ago + timedelta(days=30), "ada")
    scene.make()
    scene.assert_one_good_report()
    assert read_report(scene.file(ReportFormat.JSON)).report.counted.records == 0


def test_report_can_be_neither_changed_nor_read_by_an_operator(field: Field, scene: Scene) -> None:
    scene.ask()
    scene.make()
    with pytest.raises(DatabaseRefused), field.open("operator", max_size=1).tenant_tx(TENANT) as tx:
        tx.reports.get(REPORT_ID)
    for change in ("stated = '{}'", "seq = 1", "json = 'x'", "made_at = now()"):
        with pytest.raises(DatabaseRefused), scene.worker.raw_tx(TENANT) as connection:
            connection.execute(f"update okcm.report set {change}")
    assert not scene.read(lambda tx: tx.reports.store(REPORT_ID, {ReportFormat.JSON: b"x"}))


def test_unrequested_report_is_not_generated(scene: Scene) -> None:
    for activity, step in (scene.steps[0], scene.steps[2]):
        with pytest.raises(ReportUnknown):
            scene.run(activity, step)
    with pytest.raises(ReportUnknown):
        scene.run(scene.steps[0][0], STEP.model_copy(update={"tenant_id": "missing"}))


def test_snapshot_shows_one_moment_and_writes_nothing(scene: Scene) -> None:
    with scene.worker.tenant_snapshot(TENANT) as tx:
        before = tx.audit.head()
        with scene.dashboard.tenant_tx(TENANT) as other:
            other.audit.append(an_audit_event("meanwhile"))
        assert tx.audit.head() == before
    with pytest.raises(DatabaseUnavailable), scene.worker.tenant_snapshot(TENANT) as tx:
        tx.audit.append(an_audit_event("in a snapshot"))


def test_report_is_rejected_when_records_of_its_period_are_archived(scene: Scene, field: Field) -> None:
    """The attack on a report's evidence: counts that silently lack the archived records."""
    an_archive(field, TENANT)
    scene.ask()
    with pytest.raises(ReportPeriodArchived):
        scene.make()
    with field.administrator() as administrator:
        administrator.execute("update okcm.report set since = now(), until = now() + interval '1 day'")
    scene.make()
    scene.assert_one_good_report()


def test_report_is_rejected_when_archived_records_of_its_period_wait_for_their_deletion(
    scene: Scene, field: Field
) -> None:
    """The first remaining record is older than the period, but the archive ends within it."""
    sign_head(scene.worker, TENANT)
    an_archive(field, TENANT)
    scene.ask()
    with field.administrator() as administrator:
        administrator.execute(
            "update okcm.report set until = now() + interval '1 day', since = (record::json->>'time')::timestamptz"
            " from okcm.audit_event e where e.tenant_id = %s and e.seq = 2",
            [TENANT],
        )
    with pytest.raises(ReportPeriodArchived):
        scene.make()


@pytest.mark.parametrize("deleted", [0, 100], ids=["archived", "deleted"])
def test_report_fails_when_records_of_its_period_are_archived_before_it_reads_them(
    scene: Scene, field: Field, deleted: int
) -> None:
    scene.ask()
    state, sign, make = scene.steps
    scene.run(*state)
    an_archive(field, TENANT)
    scene.read(lambda tx: tx.audit.delete_archived(deleted))
    scene.run(*sign)
    with pytest.raises(ReportPeriodArchived):
        scene.run(*make)


def test_report_fails_when_records_are_deleted_while_it_reads_them(
    scene: Scene, field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the remaining records would count several times."""
    monkeypatch.setattr("activities.reports._BATCH", 1)
    scene.ask()
    state, sign, make = scene.steps
    scene.run(*state)
    scene.run(*sign)
    records = AuditStream.records

    def archive() -> None:
        an_archive(field, TENANT)
        scene.read(lambda tx: tx.audit.delete_archived(100))

    def archive_after_the_first(audit: AuditStream, after: int = 0, limit: int = 1000) -> Sequence[StoredRecord]:
        found = records(audit, after, limit)
        if after == 0:
            monkeypatch.setattr(AuditStream, "records", records)
            archiving = threading.Thread(target=archive)
            archiving.start()
            archiving.join()
        return found

    monkeypatch.setattr(AuditStream, "records", archive_after_the_first)
    with pytest.raises(ReportPeriodArchived):
        scene.run(*make)


def test_export_without_the_records_of_a_report_neither_confirms_nor_refutes_it(scene: Scene, field: Field) -> None:
    scene.ask()
    scene.make()
    an_archive(field, TENANT)
    verdict = verify_report(scene.file(ReportFormat.JSON), scene.export(), PublicKeys(SIGNER.public_keys()).check)
    assert verdict.outcome is Outcome.NOT_CHECKED
    assert "earlier records are in an archive file" in str(verdict.problem)
