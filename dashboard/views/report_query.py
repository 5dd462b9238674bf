"""The address of a report's file, and how the file is called."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import parse_qs, urlencode

from core.errors.services import InvalidRequest
from database.reports import ReportRow
from openkcm.verification.reports.signed_file import Form

DOWNLOAD = "compliance-report"
MEDIA: Mapping[Form, str] = MappingProxyType(
    {Form.PDF: "application/pdf", Form.HTML: "text/html; charset=utf-8", Form.JSON: "application/json"}
)
_LONGEST = 200
_REPORT = re.compile(r"[0-9a-f]{32}")


def encode(report_id: str, form: Form) -> str:
    """Return the query that asks for a file."""
    return urlencode({"report": report_id, "form": form})


def decode(query: str) -> tuple[str, Form]:
    """Return which report is asked for and in which form; raises InvalidRequest."""
    found = parse_qs(query[:_LONGEST])
    try:
        report_id, form = found["report"][0], Form(found["form"][0])
    except (KeyError, ValueError):
        report_id, form = "", Form.PDF
    if not _REPORT.fullmatch(report_id):
        raise InvalidRequest("this is not the address of a report", "open it from the page Compliance")
    return report_id, form


def file_name(tenant_id: str, row: ReportRow, form: Form) -> str:
    """Return how a file is saved: whose, of which days, and which of several."""
    return f"{tenant_id}-report-{row.since:%Y%m%d}-{row.until:%Y%m%d}-{row.report_id[:8]}.{form}"
