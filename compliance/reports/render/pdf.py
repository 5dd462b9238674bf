"""A report as PDF by Typst: archival (PDF/A-3a, with the signed document attached) and accessible (PDF/UA-1)."""

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
    """Return the report as PDF with `document`, the signed JSON, attached. The same report gives the same bytes.

    The PDF contains the date of the report and the fonts of Typst, so it does not depend on the clock or the machine.
    """
    made: bytes = typst.compile(
        _template(),
        sys_inputs=_inputs(report, document),
        ignore_system_fonts=True,
        pdf_standards=["a-3a", "ua-1"],
        timestamp=report.made_at.astimezone(UTC).replace(microsecond=0),  # PDF dates have no fractions of a second
    )
    return made


def pictures(report: Report, document: bytes, per_inch: float) -> list[bytes]:
    """Return each page as PNG, for visual review."""
    made: Any = typst.compile(  # the types of the binding state `bytes`, which is true only for a PDF
        _template(), sys_inputs=_inputs(report, document), ignore_system_fonts=True, format="png", ppi=per_inch
    )
    return [bytes(page) for page in made]


def _inputs(report: Report, document: bytes) -> dict[str, str]:
    content = build(report)
    # Title and file name are read by programs, not drawn, so they are not changed for the fonts.
    data = as_data(content, drawn=True) | {"title": visible(content.title), "attached": content.attached}
    return {"report": json.dumps(data, ensure_ascii=False), "document": document.decode("utf-8")}


@cache
def _template() -> bytes:
    return files("compliance.reports.render").joinpath("templates/report.typ").read_bytes()
