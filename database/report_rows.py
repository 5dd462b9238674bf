"""Compliance reports on record; part of `interfaces`, which hands it out. Imports no psycopg."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tenancy.report import Stated
from tenancy.report_document import Form


@dataclass(frozen=True, slots=True)
class ReportRow:
    """What was asked for; `made_at` is None until its files are there."""

    report_id: str
    since: datetime
    until: datetime
    made_for: str
    requested_at: datetime
    made_at: datetime | None


@dataclass(frozen=True, slots=True)
class StatedRow:
    """How things stood, when that was read, and the number of the audit record that has its digest."""

    stated: Stated
    at: datetime
    seq: int


class Reports(Protocol):
    def request(self, report_id: str, since: datetime, until: datetime, made_for: str) -> None:
        """Store what is asked for (dashboard); the same id again changes nothing. A period ends at the latest now."""
        ...

    def get(self, report_id: str) -> ReportRow | None: ...

    def latest(self, limit: int = 20) -> Sequence[ReportRow]:
        """Return the newest requests, the newest first."""
        ...

    def stated(self, report_id: str) -> StatedRow | None: ...

    def state(self, report_id: str, row: StatedRow) -> None:
        """Keep what a report states, once (worker)."""
        ...

    def store(self, report_id: str, files: Mapping[Form, bytes]) -> bool:
        """Keep the files and with them that the report is made; False when it was made before (worker)."""
        ...

    def file(self, report_id: str, form: Form) -> bytes | None: ...
