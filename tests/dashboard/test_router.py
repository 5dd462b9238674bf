"""The pages of each route: known to the middleware, and documented."""

from pathlib import Path

import pytest

from dashboard import router
from dashboard.auth.routes import PAGES, RouteKind

DOCUMENT = (Path(__file__).parents[2] / "docs/dashboard.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "entries"), [(RouteKind.TENANT, router.TENANT), (RouteKind.OPERATIONS, router.OPERATIONS)]
)
def test_the_middleware_knows_every_page_of_a_route(kind: RouteKind, entries: tuple[router.NavPage, ...]) -> None:
    assert PAGES[kind] == {entry.path for entry in entries}


def test_every_page_has_a_section_in_the_documentation() -> None:
    sections = {
        line.lstrip("#").strip().lower().replace(" ", "-") for line in DOCUMENT.splitlines() if line.startswith("#")
    }
    assert {entry.section for entry in (*router.TENANT, *router.OPERATIONS, *router.LEFT)} <= sections
