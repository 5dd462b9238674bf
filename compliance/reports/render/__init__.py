"""The renderings of a compliance report: one document in words, drawn as PDF and as HTML.

`document.py` says what a report is made of; `build.py` and the `say_*.py` beside it turn a `Report`
into that, so that both renderings say the same; `pdf.py` and `page.py` draw it with what lies in `templates`;
`plain.py` makes text from outside harmless and visible. All of it is pure: no network, no clock, no file but the
templates, and the same report gives the same bytes.

Text reaches the templates as data, never as markup. Both renderings carry the signed JSON document, and are no more
than a reading of it: what is verified is that document.
"""

from compliance.reports.render.html import render_html
from compliance.reports.render.pdf import pdf

__all__ = ["pdf", "render_html"]
