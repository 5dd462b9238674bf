"""Compliance reports: requests, snapshots and signed files (table `okcm.report`)."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from database.repository import Repository
from openkcm.verification.reports.model import Snapshot
from openkcm.verification.reports.signed_file import ReportFormat
from openkcm.verification.signed_document import canonical_text

_ROW = "select report_id, since, until, made_for, requested_at, made_at from okcm.report"
_FILE = {form: f"select {form} from okcm.report where report_id = %s" for form in ReportFormat}  # noqa: S608 - constants


class ReportRow(NamedTuple):
    """A requested report; `made_at` is None until its files exist."""

    report_id: str
    since: datetime
    until: datetime
    made_for: str
    requested_at: datetime
    made_at: datetime | None


class StatedRow(NamedTuple):
    """The snapshot of a report, its time, and the number of the audit record that contains its digest."""

    stated: Snapshot
    at: datetime
    seq: int


class Reports(Repository):
    def request(self, report_id: str, since: datetime, until: datetime, made_for: str) -> None:
        """Store a request (dashboard); a repeated id changes nothing. The period ends now at the latest."""
        self.connection.execute(
            "insert into okcm.report (tenant_id, report_id, since, until, made_for)"
            " values (%s, %s, %s, least(%s, clock_timestamp()), %s) on conflict do nothing",
            [self.tenant_id, report_id, since, until, made_for],
        )

    def get(self, report_id: str) -> ReportRow | None:
        row = self.connection.execute(f"{_ROW} where report_id = %s", [report_id]).fetchone()
        return None if row is None else ReportRow(*row)

    def latest(self, limit: int = 20) -> Sequence[ReportRow]:
        """Return the newest requests, newest first."""
        rows = self.connection.execute(f"{_ROW} order by requested_at desc, report_id limit %s", [limit])
        return [ReportRow(*row) for row in rows]

    def stated(self, report_id: str) -> StatedRow | None:
        row = self.connection.execute(
            "select stated, stated_at, seq from okcm.report where report_id = %s and stated is not null", [report_id]
        ).fetchone()
        return None if row is None else StatedRow(Snapshot.model_validate_json(row[0]), row[1], row[2])

    def state(self, report_id: str, row: StatedRow) -> None:
        """Store the snapshot of a report, once (worker)."""
        text = canonical_text(row.stated.model_dump(mode="json"))
        self.connection.execute(
            "update okcm.report set stated = %s, stated_at = %s, seq = %s where report_id = %s",
            [text, row.at, row.seq, report_id],
        )

    def store(self, report_id: str, files: Mapping[ReportFormat, bytes]) -> bool:
        """Store the files and the time of completion; return False if the report was complete already (worker)."""
        stored = self.connection.execute(
            "update okcm.report set json = %s, html = %s, pdf = %s, made_at = clock_timestamp()"
            " where report_id = %s and made_at is null",
            [files.get(ReportFormat.JSON), files.get(ReportFormat.HTML), files.get(ReportFormat.PDF), report_id],
        )
        return stored.rowcount == 1

    def file(self, report_id: str, form: ReportFormat) -> bytes | None:
        row = self.connection.execute(_FILE[form], [report_id]).fetchone()
        return None if row is None or row[0] is None else bytes(row[0])
