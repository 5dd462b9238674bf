import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.auth.routes import MARKETPLACE, OPERATIONS, SIGN_IN, Route, find, named, of_tenant
from openkcm.contract.names import RESERVED_PREFIX

TENANT_IDS = st.from_regex(r"[a-z0-9][a-z0-9-]{2,39}", fullmatch=True).filter(
    lambda t: not t.startswith(RESERVED_PREFIX)
)
ROUTES = st.one_of(TENANT_IDS.map(of_tenant), st.sampled_from([SIGN_IN, MARKETPLACE, OPERATIONS]))
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
