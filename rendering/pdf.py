"""A report as PDF, set by Typst: archival (PDF/A-3a, with the signed document attached) and accessible (PDF/UA-1)."""

import json
from datetime import UTC
from functools import cache
from importlib.resources import files

import typst

from rendering.build import build
from rendering.plain import as_data
from tenancy.report import Report

_STANDARDS = ["a-3a", "ua-1"]


def pdf(report: Report, document: bytes) -> bytes:
    """Return the report as PDF; `document`, the signed JSON, is attached to it. The same report gives the same bytes.

    The date inside is that of the report, and fonts are Typst's own: nothing depends on the clock or the machine.
    """
    data = json.dumps(as_data(build(report), drawn=True), ensure_ascii=False)
    made: bytes = typst.compile(
        _template(),
        sys_inputs={"report": data, "document": document.decode("utf-8")},
        ignore_system_fonts=True,
        pdf_standards=_STANDARDS,
        timestamp=report.made_at.astimezone(UTC),
    )
    return made


@cache
def _template() -> bytes:
    return files("rendering").joinpath("templates/report.typ").read_bytes()
