"""A report as PDF, set by Typst: archival (PDF/A-3a, with the signed document attached) and accessible (PDF/UA-1)."""

import json
from datetime import UTC
from functools import cache
from importlib.resources import files

import typst

from rendering.build import build
from rendering.plain import as_data, visible
from tenancy.report import Report


def pdf(report: Report, document: bytes) -> bytes:
    """Return the report as PDF; `document`, the signed JSON, is attached to it. The same report gives the same bytes.

    The date inside is that of the report, and fonts are Typst's own: nothing depends on the clock or the machine.
    """
    said = build(report)
    # What is not drawn on a page, but read by programs, is as it was.
    data = as_data(said, drawn=True) | {"title": visible(said.title), "attached": said.attached}
    made: bytes = typst.compile(
        _template(),
        sys_inputs={"report": json.dumps(data, ensure_ascii=False), "document": document.decode("utf-8")},
        ignore_system_fonts=True,
        pdf_standards=["a-3a", "ua-1"],
        timestamp=report.made_at.astimezone(UTC).replace(microsecond=0),
    )
    return made


@cache
def _template() -> bytes:
    return files("rendering").joinpath("templates/report.typ").read_bytes()
