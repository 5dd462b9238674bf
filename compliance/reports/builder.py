"""Putting a report together from what was asked, counted and stated; and what binds it to the audit stream."""

from dataclasses import dataclass
from datetime import datetime

from openkcm.contract.audit_events import StoredRecord
from openkcm.verification.reports.evaluation import evidence, findings, limits
from openkcm.verification.reports.model import DerivedFigures, Report, Snapshot, StreamPosition
from openkcm.verification.reports.signed_file import stated_digest


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for, and of whom it is."""

    report_id: str
    tenant_id: str
    organization: str
    region: str
    since: datetime
    until: datetime
    made_for: str


def assemble(  # noqa: PLR0913, PLR0917 - what was asked, counted and stated, when, where in the stream, and by what
    request: Request, counted: DerivedFigures, stated: Snapshot, made_at: datetime, place: StoredRecord, version: str
) -> Report:
    """Return the report; `place` is the record that has the digest of what is stated, `made_at` when that was read."""
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
