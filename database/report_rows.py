"""Compliance reports on record; part of `interfaces`, which hands it out. Imports no psycopg."""

from dataclasses import dataclass
from datetime import datetime

from openkcm.verification.reports.model import Stated


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
