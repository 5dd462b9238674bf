import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from core import names as ids
from openkcm.contract.names import RESERVED_PREFIX, parse_service_name, parse_tenant_id, service_spiffe, tenant_dns
from openkcm.errors import CallerError, IllegalTenantId, InvalidName

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
SERVICES = st.builds(str.__add__, st.sampled_from(LETTERS), st.text(LETTERS + "-", max_size=39))
TENANT_IDS = st.builds(str.__add__, st.sampled_from(LETTERS), st.text(LETTERS + "-", min_size=2, max_size=39))


@given(st.text() | TENANT_IDS)
def test_parse_tenant_id_returns_what_the_pattern_allows_and_rejects_the_rest(text):
    legal = re.fullmatch(r"[a-z0-9][a-z0-9-]{2,39}", text) and not text.startswith(RESERVED_PREFIX)
    try:
        assert parse_tenant_id(text) == text
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
def test_parse_tenant_id_rejects_invalid_ids(text):
    with pytest.raises(IllegalTenantId):
        parse_tenant_id(text)


@pytest.mark.parametrize(
    ("parse", "texts"),
    [
        (parse_service_name, ["", "-orders", "Orders", "a" * 41, "orders/x", "orders\n"]),
        (ids.parse_region, ["", "eu", "EU-west-1", "eu_west_1", "eu-west-1\n", "eu--1"]),
    ],
)
def test_parse_rejects_invalid_services_and_regions(parse, texts):
    for text in texts:
        with pytest.raises(InvalidName):
            parse(text)


def test_parse_returns_valid_services_and_regions_unchanged():
    assert parse_service_name("orders") == "orders"
    for text in ("eu-west-1", "us-gov-east-1", "eu-de-1"):
        assert ids.parse_region(text) == text


NAMES = (ids.l2_key, ids.ca_key, ids.payload_key, tenant_dns, ids.tenant_workflow)


@given(TENANT_IDS, TENANT_IDS)
def test_two_tenants_never_share_a_name(one, other):
    assert len({name(one) for name in NAMES}) == len(NAMES)
    assert one == other or {name(one) for name in NAMES}.isdisjoint({name(other) for name in NAMES})


@given(TENANT_IDS, SERVICES, TENANT_IDS, SERVICES)
def test_two_services_never_share_a_spiffe_id(tenant, service, other_tenant, other_service):
    same = (tenant, service) == (other_tenant, other_service)
    assert (service_spiffe(tenant, service) == service_spiffe(other_tenant, other_service)) == same


@given(TENANT_IDS)
def test_tenant_is_parsed_from_its_workflow_ids_and_keys(tenant):
    numbered = (ids.root_key_workflow, ids.rotation_workflow, ids.authority_workflow)
    named = (ids.provision_workflow, ids.offboard_workflow, ids.boundaries_workflow, ids.tenant_workflow)
    workflows = [*(make(tenant) for make in named), *(make(tenant, 7) for make in numbered)]
    workflows += [ids.service_workflow(tenant, "orders"), ids.report_workflow(tenant, "ab" * 16)]
    assert {ids.tenant_of_workflow(one) for one in workflows} == {tenant}
    assert len(set(workflows)) == len(workflows)
    checks = [one for one in workflows if ids.is_boundary_check(one)]
    assert checks == [ids.provision_workflow(tenant), ids.boundaries_workflow(tenant)]
    assert {ids.tenant_of_key(make(tenant)) for make in (ids.l2_key, ids.ca_key, ids.payload_key)} == {tenant}


def test_other_workflows_and_keys_have_no_tenant():
    for text in ("", "tenant", "tenant/", "tenant/UPPER", ids.watch_workflow("eu-west-1"), "x/acme-corp-12345"):
        assert ids.tenant_of_workflow(text) is None, text
    for text in ("", "acme-corp-12345", "L2-acme-corp-12345", "ca-UPPER", ids.root_key("eu-west-1")):
        assert ids.tenant_of_key(text) is None, text


def test_root_key_monitoring_has_a_workflow_for_each_shard_of_a_region():
    assert ids.watch_workflow("eu-west-1") == ids.watch_workflow("eu-west-1", 0, 1) == "root-keys/eu-west-1"
    shards = {ids.watch_workflow("eu-west-1", shard, 3) for shard in range(3)}
    assert len(shards | {ids.watch_workflow("eu-west-1", 0, 2)}) == 4
    assert {ids.parse_watch_workflow(one) for one in shards} == {("eu-west-1", 3)}
    assert ids.parse_watch_workflow("root-keys/eu-west-1") == ("eu-west-1", 1)
    assert ids.parse_watch_workflow(ids.tenant_workflow("acme-corp-12345")) is None


def test_identity_of_a_worker_has_its_number_of_root_key_shards():
    assert ids.shards_of_worker(ids.worker_identity("4711@host", 16)) == 16
    assert [ids.shards_of_worker(other) for other in ("", "4", "4711@host", "x root-key-shards=many")] == [None] * 4


def test_names_have_the_specified_format():
    assert ids.l2_key("acme-corp-12345") == "L2-acme-corp-12345-primary"
    assert tenant_dns("acme-corp-12345") == "acme-corp-12345.tenants.openkcm.internal"
    assert service_spiffe("acme-corp-12345", "orders") == (
        "spiffe://acme-corp-12345.tenants.openkcm.internal/service/orders"
    )


def test_tenant_id_accepts_platform_tenants_and_rejects_invalid_ids():
    parse = TypeAdapter(ids.TenantId).validate_python
    assert parse(ids.CANARY_TENANT_ID) == ids.CANARY_TENANT_ID
    with pytest.raises(ValueError, match="invalid tenant id"):
        parse("../acme")
    assert issubclass(IllegalTenantId, CallerError)
    assert issubclass(InvalidName, CallerError)


def test_each_urgency_has_a_task_queue_of_its_region():
    queues = [ids.tenant_queue("eu-west-1"), *(ids.activity_queue(kind, "eu-west-1") for kind in ids.ActivityKind)]
    assert queues == ["tenants.eu-west-1", "operations.eu-west-1", "long.eu-west-1", "paced.eu-west-1"]
    assert ids.operation_queue("eu-west-1") == "operations.eu-west-1"
    assert {ids.region_of_queue(queue) for queue in queues} == {"eu-west-1"}


def test_only_offboarding_payloads_use_the_platforms_key():
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
