"""The steps of GenerateReport (docs/reports.md): snapshot, figures, rendering and signature; each is idempotent."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from temporalio import activity

from activities.audit import CheckpointSigner
from activities.runtime.audit_trail import Clock, append_audit_event
from compliance.reports.builder import Request, assemble
from core.audit import AuditFilter
from core.errors.compliance import ReportPeriodArchived, ReportUnknown
from core.errors.tenants import TenantUnknown
from core.messages.compliance import ReportStep
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.reports import ReportRow, StatedRow
from openkcm.contract.audit_events import AuditName, StoredRecord
from openkcm.verification.reports.counters import ReportCounter
from openkcm.verification.reports.model import Report, Snapshot
from openkcm.verification.reports.signed_file import (
    ReportFormat,
    report_message,
    report_text,
    signable,
    stated_digest,
    with_signature,
)
from openkcm.verification.reports.verify import begins_before, binding
from openkcm.verification.signed_document import SignedText, write_document

_BATCH = 5_000
"""Records read in one transaction; some megabytes."""
_CLOCK_STEP = timedelta(hours=1)
"""The largest backward step of a server's clock within a stream, whose times otherwise only increase."""

ReadStated = Callable[[TenantTransaction, datetime], Snapshot]
Rendering = Callable[[Report, bytes], bytes]
"""Renders a report; the second argument is the signed JSON document, which the file embeds."""


class ReportActivities:
    def __init__(  # noqa: PLR0913, PLR0917 - one for each dependency
        self,
        database: Database,
        read_stated: ReadStated,
        renderings: Mapping[ReportFormat, Rendering],
        signer: CheckpointSigner,
        version: str,
        clock: Clock,
    ) -> None:
        self._database = database
        self._read_stated = read_stated
        self._renderings = renderings
        self._signer = signer
        self._version = version
        self._clock = clock

    @activity.defn(name="snapshot-report")
    def state_report(self, step: ReportStep) -> None:
        """Step 1: read the snapshot of the tenant as of one moment, and append its digest to the stream.

        One transaction stores digest and snapshot, so that the stream never has the digest of a lost snapshot.
        """
        with self._database.tenant_snapshot(step.tenant_id) as tx:
            requested = _requested(tx, step)
            if tx.reports.stated(step.report_id) is not None:
                return
            _require_unarchived(tx, requested.since)
            at = self._clock()
            stated = self._read_stated(tx, at)
        with self._database.tenant_tx(step.tenant_id) as tx:
            # The record takes the stream's lock: of two attempts the second finds the snapshot of the first.
            details = binding(requested.since, requested.until, at, stated_digest(stated))
            seq = append_audit_event(tx, step, AuditName.REPORT_MADE, step.report_id, "success", **details)
            if tx.reports.stated(step.report_id) is None:
                tx.reports.state(step.report_id, StatedRow(stated, at, seq))

    @activity.defn(name="render-report")
    def make_report(self, step: ReportStep) -> None:
        """Step 3: derive the figures from the period's records before the digest; render, sign and store the report.

        The report is visible only after it is stored; a second attempt changes nothing.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            tenant, requested = tx.tenants.get(), _requested(tx, step)
            kept = tx.reports.stated(step.report_id)
            if tenant is None or kept is None:
                raise TenantUnknown
            if requested.made_at is not None:
                return
            [anchor] = _records_after(tx, kept.seq - 1, 1)
        request = Request(
            step.report_id,
            step.tenant_id,
            tenant.organization,
            tenant.region,
            requested.since,
            requested.until,
            requested.made_for,
        )
        counting = ReportCounter(requested.since, requested.until)
        for stored in self._records(step.tenant_id, requested, anchor.seq):
            counting.add(stored)
        report = assemble(request, counting.figures(), kept.stated, kept.at, anchor, self._version)
        files = self._files(report)
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.reports.store(step.report_id, files)

    def _records(self, tenant_id: str, requested: ReportRow, end: int) -> Iterator[StoredRecord]:
        """Yield the records before sequence number `end` that may belong to the period; raise ReportPeriodArchived."""
        with self._database.tenant_snapshot(tenant_id) as tx:
            _require_unarchived(tx, requested.since)
            chosen = AuditFilter(since=requested.since - _CLOCK_STEP, until=requested.until + _CLOCK_STEP)
            among = tx.audit.numbers(chosen)
        last = min(among.stop, end) - 1
        after = among.start - 1
        while after < last:
            activity.heartbeat(after)
            with self._database.tenant_tx(tenant_id) as tx:
                found = _records_after(tx, after, min(_BATCH, last - after))
            yield from found
            after = found[-1].seq

    def _files(self, report: Report) -> Mapping[ReportFormat, bytes]:
        """Return the report in every format, each with its own signature."""
        text = report_text(report)
        [(signature, key)] = self._signed(report, {ReportFormat.JSON: text.encode()})
        document = write_document(SignedText(text, signature, key)).encode()
        drawn = {}
        for form, render in self._renderings.items():
            activity.heartbeat(form)
            drawn[form] = signable(render(report, document))
        signed = zip(drawn.items(), self._signed(report, drawn), strict=True)
        return {
            ReportFormat.JSON: document,
            **{form: with_signature(content, form, *by) for (form, content), by in signed},
        }

    def _signed(self, report: Report, contents: Mapping[ReportFormat, bytes]) -> Sequence[tuple[str, str]]:
        messages = [report_message(report.tenant_id, form, content) for form, content in contents.items()]
        return self._signer.sign_all(messages)


def _requested(tx: TenantTransaction, step: ReportStep) -> ReportRow:
    requested = tx.reports.get(step.report_id)
    if requested is None:
        raise ReportUnknown
    return requested


def _require_unarchived(tx: TenantTransaction, since: datetime) -> None:
    """Require that the database has all records since this time; archived ones may wait for their deletion."""
    archived = tx.audit.archived()
    if archived is not None and not begins_before(next(iter(tx.audit.records(archived.seq, 1)), None), since):
        raise ReportPeriodArchived


def _records_after(tx: TenantTransaction, seq: int, number: int) -> Sequence[StoredRecord]:
    """Return at most this number of records after another one, at least one; raise ReportPeriodArchived."""
    found = tx.audit.records(seq, number)
    if not found or found[0].seq != seq + 1:  # archived since the period was checked
        raise ReportPeriodArchived
    return found
