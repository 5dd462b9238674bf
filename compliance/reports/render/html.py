"""A report as HTML: one file without scripts and without external resources, for screen and print."""

import base64
import hashlib
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from compliance.reports.render.formatting import as_data
from compliance.reports.render.layout import build
from openkcm.verification.reports.model import Report
from openkcm.verification.reports.signed_file import element


def render_html(report: Report, document: bytes) -> bytes:
    """Return the report as HTML; it contains `document`, the signed JSON, in an element that browsers do not run."""
    style = _style()
    page = _template().render(
        report=as_data(build(report)),
        style=Markup(style),  # noqa: S704 - a file of the product, and the policy allows only its hash
        policy=_policy(style),
        document=Markup(element(document)),  # noqa: S704 - JSON that cannot close the element
    )
    return f"{page}\n".encode()


def _policy(style: str) -> str:
    """Return the content security policy, which allows only the style of the file."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


@cache
def _style() -> str:
    return files("compliance.reports.render").joinpath("templates/report.css").read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("compliance.reports.render", "templates"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html")
