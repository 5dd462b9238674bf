import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.auth.routes import DOOR, MARKETPLACE, OPERATIONS, Route, find, named, of_tenant
from openkcm.contract.names import RESERVED_PREFIX

TENANT_IDS = st.from_regex(r"[a-z0-9][a-z0-9-]{2,39}", fullmatch=True).filter(
    lambda t: not t.startswith(RESERVED_PREFIX)
)
PLACES = st.one_of(TENANT_IDS.map(of_tenant), st.sampled_from([DOOR, MARKETPLACE, OPERATIONS]))
INNER = st.one_of(st.just(""), st.text(st.characters(codec="ascii"), max_size=20).map(lambda rest: f"/{rest}"))


@given(PLACES, INNER)
def test_a_path_is_its_place_and_what_remains(place: Route, inner: str) -> None:
    assert find(f"{place.root}{inner}") == (place, inner)


@given(PLACES)
def test_a_root_names_its_place(place: Route) -> None:
    assert named(place.root) == place


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
        "/operations-desk/",
        "/_stcore/stream",
        "tenants/acme",
    ],
)
def test_what_is_no_place_leads_nowhere(path: str) -> None:
    assert find(path) is None


@pytest.mark.parametrize("root", ["https://elsewhere.example/", "//elsewhere.example", "/tenant/acme/keys", "", "/x"])
def test_only_a_root_brings_somebody_back(root: str) -> None:
    assert named(root) is None
