"""The steps of GenerateReport (docs/reports.md): state, count, render, sign and store. Each is safe to repeat."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from temporalio import activity

from activities.audit import CheckpointSigner
from activities.audit_trail import Clock, append_audit_event
from compliance.reports.builder import Request, assemble
from core.audit import AuditFilter
from core.errors.compliance import ReportUnknown
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
from openkcm.verification.reports.verify import binding
from openkcm.verification.signed_document import SignedText, write_document

_PIECE = 5_000
"""Records read in one transaction; some megabytes."""
_CLOCK_STEP = timedelta(hours=1)
"""By how much a server's clock may have been set back in the middle of a stream, whose times otherwise only grow."""

ReadStated = Callable[[TenantTransaction, datetime], Snapshot]
Rendering = Callable[[Report, bytes], bytes]
"""Draws a report; its second argument is the signed JSON document, which the file carries inside."""


class ReportActivities:
    def __init__(  # noqa: PLR0913, PLR0917 - where from, how drawn, by whom signed
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

    @activity.defn(name="state-report")
    def state_report(self, step: ReportStep) -> None:
        """Step 1: read how the tenant stands, all as of one moment, and put its digest into the stream.

        Digest and section are kept in one transaction, so that a stream never has the digest of what nobody knows.
        """
        with self._database.tenant_snapshot(step.tenant_id) as tx:
            asked = _asked(tx, step)
            if tx.reports.stated(step.report_id) is not None:
                return
            at = self._clock()
            stated = self._read_stated(tx, at)
        with self._database.tenant_tx(step.tenant_id) as tx:
            # The stream's lock comes with the record: of two attempts the second finds what the first has kept.
            said = binding(asked.since, asked.until, at, stated_digest(stated))
            seq = append_audit_event(tx, step, AuditName.REPORT_MADE, step.report_id, "success", **said)
            if tx.reports.stated(step.report_id) is None:
                tx.reports.state(step.report_id, StatedRow(stated, at, seq))

    @activity.defn(name="make-report")
    def make_report(self, step: ReportStep) -> None:
        """Step 3: count what the stream has of the period before the digest, draw the report, sign and store it.

        Until it is stored nothing is to be seen of it; who comes second with the same report changes nothing.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            tenant, asked = tx.tenants.get(), _asked(tx, step)
            kept = tx.reports.stated(step.report_id)
            if tenant is None or kept is None:
                raise TenantUnknown
            if asked.made_at is not None:
                return
            (place,) = tx.audit.records(kept.seq - 1, 1)
        request = Request(
            step.report_id,
            step.tenant_id,
            tenant.organization,
            tenant.region,
            asked.since,
            asked.until,
            asked.made_for,
        )
        counting = ReportCounter(asked.since, asked.until)
        for stored in self._records(step.tenant_id, asked, place.seq):
            counting.add(stored)
        report = assemble(request, counting.figures(), kept.stated, kept.at, place, self._version)
        files = self._files(report)
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.reports.store(step.report_id, files)

    def _records(self, tenant_id: str, asked: ReportRow, end: int) -> Iterator[StoredRecord]:
        """Yield the records before number `end` that may be of the period."""
        with self._database.tenant_tx(tenant_id) as tx:
            chosen = AuditFilter(since=asked.since - _CLOCK_STEP, until=asked.until + _CLOCK_STEP)
            among = tx.audit.numbers(chosen)
        last = min(among.stop, end) - 1
        after = among.start - 1
        while after < last:
            activity.heartbeat(after)
            with self._database.tenant_tx(tenant_id) as tx:
                found = tx.audit.records(after, min(_PIECE, last - after))
            yield from found
            after += _PIECE

    def _files(self, report: Report) -> Mapping[ReportFormat, bytes]:
        """Return the report in every form, each signed as it is."""
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


def _asked(tx: TenantTransaction, step: ReportStep) -> ReportRow:
    asked = tx.reports.get(step.report_id)
    if asked is None:
        raise ReportUnknown
    return asked
