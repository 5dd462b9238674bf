import re
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.auth.routes import (
    MARKETPLACE,
    OPERATIONS,
    PAGES,
    SIGN_IN,
    PageAddress,
    Route,
    RouteKind,
    find,
    named,
    of_tenant,
    page_address,
    read_return,
    write_return,
)
from openkcm.contract.names import RESERVED_PREFIX

TENANT_IDS = st.from_regex(r"[a-z0-9][a-z0-9-]{2,39}", fullmatch=True).filter(
    lambda t: not t.startswith(RESERVED_PREFIX)
)
ROUTES = st.one_of(TENANT_IDS.map(of_tenant), st.sampled_from([SIGN_IN, MARKETPLACE, OPERATIONS]))
ORIGIN = "https://cmk.example"
INNER = st.one_of(st.just(""), st.text(st.characters(codec="ascii"), max_size=20).map(lambda rest: f"/{rest}"))


@given(ROUTES, INNER)
def test_a_path_is_split_into_its_route_and_the_rest(route: Route, inner: str) -> None:
    assert find(f"{route.root}{inner}") == (route, inner)


@given(ROUTES)
def test_a_root_path_resolves_to_its_route(route: Route) -> None:
    assert named(route.root) == route


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/tenant",
        "/tenant/",
        "/tenant//keys",
        "/tenant/ab",
        "/tenant/ACME/",
        "/tenant/acme%2fbeta/",
        "/tenant/../operations/",
        "/tenant/openkcm-canary/",
        "/tenant/openkcm-operators/",
        "/tenant/acme-corp\n/",
        "/tenant/acme-corp\x00/",
        "/operations-page/",
        "/_stcore/stream",
        "tenants/acme",
    ],
)
def test_an_unknown_path_has_no_route(path: str) -> None:
    assert find(path) is None


@pytest.mark.parametrize("root", ["https://elsewhere.example/", "//elsewhere.example", "/tenant/acme/keys", "", "/x"])
def test_only_a_root_path_is_a_return_target(root: str) -> None:
    assert named(root) is None


@given(TENANT_IDS, st.sampled_from(sorted(PAGES[RouteKind.TENANT])), st.dictionaries(st.sampled_from("abc"), st.text()))
def test_the_page_in_a_cookie_is_the_one_that_was_written(tenant_id: str, page: str, values: dict[str, str]) -> None:
    left = page_address(f"{ORIGIN}/tenant/{tenant_id}/{page}?{urlencode(values)}", ORIGIN)
    if left is not None:
        assert (left.route, left.page) == (of_tenant(tenant_id), page)
        assert read_return(write_return(left), ORIGIN) == left


@given(st.text() | st.text("/tenanoprisk%2fc-e?=&:.\\#"))
def test_any_cookie_leads_to_a_page_of_this_server(value: str) -> None:
    for page in (read_return(value, ORIGIN), page_address(value, ORIGIN)):
        assert page is None or page_address(f"{ORIGIN}{page.url}", ORIGIN) == page


def test_a_page_is_written_as_a_cookie_without_characters_that_need_quotes() -> None:
    value = write_return(PageAddress(of_tenant("acme"), "keys", "service=a%2Fb"))
    assert re.fullmatch("[A-Za-z0-9%._-]+", value)
