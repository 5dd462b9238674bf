"""Kill -9 inside every step of a service's connection.

The caller always gets a result: one service, one key, one certificate for each request, and a complete audit chain
without duplicates. The short form kills the worker once in every step and Temporal once; the long form kills at every
moment of every step, for all servers too.
"""

from collections import Counter

import pytest

from config.secrets import Role
from core.services import ServiceState
from openkcm.contract.services import ServiceKind
from tests.chaos.audited import whole_stream
from tests.chaos.field import REGION
from tests.chaos.marching import KillSequence, every, last, parametrize

TENANT = "connecting-corp"

# The minimum of effects (responses of Vault, commits) of each step, so that every kill has a target.
EFFECTS = {
    "record-service": 1,
    "create-service-key": 3,
    "issue-certificate": 3,
    "mark-connected": 1,
    "plan-renewal": 1,
    "disconnect-service": 1,
}
SHORT = [*last("worker", EFFECTS), ("temporal", "create-service-key", "end")]


def pytest_generate_tests(metafunc):
    parametrize(metafunc, "kill", SHORT, every(EFFECTS))


@pytest.fixture(scope="module")
def ready_field(field):
    """Return the field with an active tenant."""
    field.activate(TENANT)
    return field


def assert_state(field, service, state, generation):
    with field.tx(TENANT) as tx:
        row, key, leaf = tx.services.get(service), tx.services.key(service), tx.services.leaf(service)
        assert tx.services.generation(service) == generation
    assert (row.state, key.version) == (state, 1)
    assert (leaf is None) is (state is ServiceState.DISCONNECTED)


def assert_audited_once(field, service):
    with field.database(Role.WORKER) as database:
        records = whole_stream(database, TENANT)
    counted = Counter((r["name"], r["outcome"]) for r in records if r["subject"] == service)
    assert counted == {
        ("service.connect_intended", "intended"): 1,
        ("key.service_key_created", "success"): 1,
        ("certificate.service_certificate_issued", "success"): 2,
        ("certificate.service_certificate_issued", "intended"): 1,
        ("service.connected", "success"): 1,
        ("service.disconnected", "success"): 1,
    }


@pytest.mark.chaos
def test_service_is_connected_renewed_and_disconnected_once_despite_kills(ready_field, kill, request):
    field, service = ready_field, f"service-{request.node.callspec.indices['kill']}"
    field.request_service(TENANT, service, f"request-{service}", ServiceKind.MONGODB)
    sequence = KillSequence(field, TENANT, service, [kill])
    field.ask(lambda gateway: gateway.connect_service(TENANT, REGION, service, f"request-{service}"))
    assert_state(field, service, ServiceState.CONNECTED, 1)
    field.ask(lambda gateway: gateway.renew_service(TENANT, REGION, service))
    assert_state(field, service, ServiceState.CONNECTED, 2)
    field.ask(lambda gateway: gateway.disconnect_service(TENANT, REGION, service))
    assert_state(field, service, ServiceState.DISCONNECTED, 2)
    sequence.assert_done()
    assert_audited_once(field, service)
