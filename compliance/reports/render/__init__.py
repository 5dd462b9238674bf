"""Renderings of a compliance report as PDF and HTML from one document.

`document.py` defines the parts of a document. `layout.py`, `front_matter.py`, `keys_sections.py` and
`audit_sections.py` build it from a `Report`, so that both renderings have the same text. `pdf.py` and `html.py` render
it with `templates`; `formatting.py` makes external text visible and safe. All of it is pure: no network, no clock, no
file except the templates, and the same report gives the same bytes.

Templates receive text as data, never as markup. Both renderings contain the signed JSON document, and verification uses
only that document.
"""

from compliance.reports.render.html import render_html
from compliance.reports.render.pdf import pdf

__all__ = ["pdf", "render_html"]
