"""A report as PDF, set by Typst: archival (PDF/A-3a, with the signed document attached) and accessible (PDF/UA-1)."""

import json
from datetime import UTC
from functools import cache
from importlib.resources import files
from typing import Any

import typst

from compliance.reports.render.formatting import as_data, visible
from compliance.reports.render.layout import build
from openkcm.verification.reports.model import Report


def pdf(report: Report, document: bytes) -> bytes:
    """Return the report as PDF; `document`, the signed JSON, is attached to it. The same report gives the same bytes.

    The date inside is that of the report, and fonts are Typst's own: nothing depends on the clock or the machine.
    """
    made: bytes = typst.compile(
        _template(),
        sys_inputs=_inputs(report, document),
        ignore_system_fonts=True,
        pdf_standards=["a-3a", "ua-1"],
        timestamp=report.made_at.astimezone(UTC).replace(microsecond=0),  # a PDF's dates have none
    )
    return made


def pictures(report: Report, document: bytes, per_inch: float) -> list[bytes]:
    """Return each page as PNG, for looking at."""
    made: Any = typst.compile(  # the binding's own types say `bytes`, which it is for a PDF
        _template(), sys_inputs=_inputs(report, document), ignore_system_fonts=True, format="png", ppi=per_inch
    )
    return [bytes(page) for page in made]


def _inputs(report: Report, document: bytes) -> dict[str, str]:
    said = build(report)
    # What is not drawn on a page, but read by programs, is as it was.
    data = as_data(said, drawn=True) | {"title": visible(said.title), "attached": said.attached}
    return {"report": json.dumps(data, ensure_ascii=False), "document": document.decode("utf-8")}


@cache
def _template() -> bytes:
    return files("compliance.reports.render").joinpath("templates/report.typ").read_bytes()
