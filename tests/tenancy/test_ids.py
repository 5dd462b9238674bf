import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenancy import ids
from tenancy.errors import CallerError, IllegalTenantId, InvalidName

TENANT_IDS = st.from_regex(ids.TENANT_ID_PATTERN.replace("$", r"\Z"))
SERVICES = st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,39}\Z")


@given(TENANT_IDS.filter(lambda text: not text.startswith(ids.RESERVED_PREFIX)))
def test_a_legal_tenant_id_is_returned_unchanged(text):
    assert ids.parse_tenant_id(text) == text


@given(st.text())
def test_any_text_is_either_a_tenant_id_by_the_pattern_or_refused_as_one(text):
    legal = re.fullmatch(r"[a-z0-9][a-z0-9-]{2,39}", text) and not text.startswith(ids.RESERVED_PREFIX)
    try:
        assert ids.parse_tenant_id(text) == text
        assert legal
    except IllegalTenantId:
        assert not legal


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ab",
        "a" * 41,
        "-acme",
        "Acme-corp",
        "acme_corp",
        "acme corp",
        "acme/corp",
        "acme.corp",
        "acme-corp\n",
        "acmé-corp",
        "acme-corp-１２",  # noqa: RUF001 - digits of another script are the point
        "../acme",
        "openkcm-canary",
        "openkcm-",
    ],
)
def test_what_may_not_name_a_tenant_is_refused(text):
    with pytest.raises(IllegalTenantId):
        ids.parse_tenant_id(text)


@pytest.mark.parametrize("text", ["", "-orders", "Orders", "a" * 41, "orders/x", "orders\n"])
def test_what_may_not_name_a_service_is_refused(text):
    with pytest.raises(InvalidName):
        ids.parse_service_name(text)


@pytest.mark.parametrize("text", ["", "eu", "EU-west-1", "eu_west_1", "eu-west-1\n", "eu--1"])
def test_what_may_not_name_a_region_is_refused(text):
    with pytest.raises(InvalidName):
        ids.parse_region(text)


@pytest.mark.parametrize("text", ["eu-west-1", "us-gov-east-1", "eu-de-1"])
def test_a_region_is_returned_unchanged(text):
    assert ids.parse_region(text) == text


@pytest.mark.parametrize("name", [ids.l2_key, ids.ca_key, ids.payload_key, ids.tenant_dns, ids.tenant_workflow])
@given(one=TENANT_IDS, other=TENANT_IDS)
def test_two_tenants_never_share_a_name(name, one, other):
    assert (name(one) == name(other)) == (one == other)


@given(TENANT_IDS, TENANT_IDS)
def test_no_key_of_one_kind_has_the_name_of_another_kind(one, other):
    named = {ids.l2_key(one), ids.ca_key(one), ids.payload_key(one)}
    assert len(named) == 3
    assert one == other or named.isdisjoint({ids.l2_key(other), ids.ca_key(other), ids.payload_key(other)})


@given(TENANT_IDS, SERVICES, TENANT_IDS, SERVICES)
def test_two_services_never_share_a_spiffe_id(tenant, service, other_tenant, other_service):
    same = (tenant, service) == (other_tenant, other_service)
    assert (ids.service_spiffe(tenant, service) == ids.service_spiffe(other_tenant, other_service)) == same


@given(TENANT_IDS)
def test_the_tenant_can_be_read_from_each_of_its_workflow_ids(text):
    assert ids.tenant_of_workflow(ids.tenant_workflow(text)) == text
    assert ids.tenant_of_workflow(ids.provision_workflow(text)) == text


@pytest.mark.parametrize("text", ["", "tenant", "tenant/", "tenant/UPPER", "root-keys/eu-west-1", "x/acme-corp-12345"])
def test_a_workflow_of_no_tenant_has_none(text):
    assert ids.tenant_of_workflow(text) is None


def test_the_seeds_own_names():
    assert ids.l2_key("acme-corp-12345") == "L2-acme-corp-12345-primary"
    assert ids.tenant_dns("acme-corp-12345") == "acme-corp-12345.tenants.openkcm.internal"
    assert ids.service_spiffe("acme-corp-12345", "orders") == (
        "spiffe://acme-corp-12345.tenants.openkcm.internal/service/orders"
    )


def test_every_refusal_is_the_callers_fault():
    assert issubclass(IllegalTenantId, CallerError)
    assert issubclass(InvalidName, CallerError)


def test_a_leavings_payloads_lie_under_the_platforms_key_and_all_others_under_the_tenants():
    assert ids.payloads_of_tenant(ids.offboard_workflow("acme-corp-12345")) is None
    assert ids.tenant_of_workflow(ids.offboard_workflow("acme-corp-12345")) == "acme-corp-12345"
    for workflow_id in (
        ids.tenant_workflow("acme-corp-12345"),
        ids.provision_workflow("acme-corp-12345"),
        ids.service_workflow("acme-corp-12345", "offboard"),
        ids.root_key_workflow("acme-corp-12345", 1),
        "tenant/acme-corp-12345/offboard/x",
    ):
        assert ids.payloads_of_tenant(workflow_id) == "acme-corp-12345"
    assert ids.payloads_of_tenant("root-keys/eu-west-1") is None
    assert ids.payloads_of_tenant("") is None
