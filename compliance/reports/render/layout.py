"""Layout of a rendered report: all sections in the reading order of an auditor."""

from compliance.reports.render import audit_sections as say_stream
from compliance.reports.render import front_matter as say_around
from compliance.reports.render import keys_sections as say_keys
from compliance.reports.render.document import Document
from openkcm.verification.reports.model import Report


def build(report: Report) -> Document:
    """Return the complete document of a report."""
    period = say_around.period(report)
    return Document(
        title=f"Compliance report of {report.organization}, {period}",
        running=f"{report.tenant_id} · {period}",
        report_id=report.report_id,
        attached=say_around.attached(report),
        cover=say_around.cover(report),
        sections=(
            say_around.summary(report),
            say_keys.coverage(report),
            say_keys.keys(report),
            say_stream.isolation(report),
            say_stream.access(report),
            say_keys.root_key(report),
            say_stream.changes(report),
            say_stream.approvals(report),
            say_stream.certificates(report),
            say_stream.stream(report),
            say_around.controls(report),
            say_around.limits(report),
            say_around.method(report),
            say_around.glossary(),
        ),
    )
