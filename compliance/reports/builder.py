"""Assembly of a report from the request, the derived figures and the snapshot, bound to the audit stream."""

from dataclasses import dataclass
from datetime import datetime

from openkcm.contract.audit_events import StoredRecord
from openkcm.verification.reports.evaluation import evidence, findings, limits
from openkcm.verification.reports.model import DerivedFigures, Report, Snapshot, StreamPosition
from openkcm.verification.reports.signed_file import stated_digest


@dataclass(frozen=True, slots=True)
class Request:
    """A requested report: tenant, period and requester."""

    report_id: str
    tenant_id: str
    organization: str
    region: str
    since: datetime
    until: datetime
    made_for: str


def assemble(  # noqa: PLR0913, PLR0917 - the parts of a report
    request: Request, counted: DerivedFigures, stated: Snapshot, made_at: datetime, place: StoredRecord, version: str
) -> Report:
    """Return the report; `place` is the record with the digest of the snapshot, `made_at` the time of the snapshot."""
    return Report(
        report_id=request.report_id,
        tenant_id=request.tenant_id,
        organization=request.organization,
        region=request.region,
        since=request.since,
        until=request.until,
        made_at=made_at,
        made_for=request.made_for,
        stream=StreamPosition(seq=place.seq, chain_hash=place.chain_hash.hex()),
        summary=findings(counted, stated, made_at),
        counted=counted,
        stated=stated,
        stated_sha256=stated_digest(stated),
        evidence=evidence(counted, stated, made_at),
        limits=limits(stated),
        made_with=version,
    )
