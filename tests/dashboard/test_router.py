"""The pages of each route: known to the middleware, and documented."""

import pytest

from dashboard import router
from dashboard.auth.routes import PAGES, RouteKind
from dashboard.components.help import section


@pytest.mark.parametrize(
    ("kind", "entries"), [(RouteKind.TENANT, router.TENANT), (RouteKind.OPERATIONS, router.OPERATIONS)]
)
def test_the_middleware_knows_every_page_of_a_route(kind: RouteKind, entries: tuple[router.NavPage, ...]) -> None:
    assert PAGES[kind] == {entry.path for entry in entries}


@pytest.mark.parametrize("title", [entry.title for entry in (*router.TENANT, *router.OPERATIONS, *router.LEFT)])
def test_every_page_has_help_that_needs_no_other_document(title: str) -> None:
    text = section(title)
    assert len(text) > 200
    assert not [word for word in ("](", "![", "screenshots/", ".md") if word in text]
    assert "\n## " not in text


def test_a_title_without_a_section_is_an_error() -> None:
    with pytest.raises(KeyError):
        section("Nothing")
