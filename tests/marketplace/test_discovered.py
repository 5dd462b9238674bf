"""`service_discovered`: a service is recorded, its workflow is notified, and a second event joins it."""

import pytest

from core.tenants.lifecycle import State
from openkcm.contract.services import ServiceKind
from tests.concurrency import wait_until_async
from tests.dashboard.scene import Scene
from tests.marketplace.conftest import an_event, assert_refused

ACME = "acme-corp-12345"


def a_discovery(**changed: object) -> dict[str, object]:
    discovery = {"event": "service_discovered", "workload": "orders-db", "kind": "postgresql", "organization": None}
    return an_event(**discovery | changed)


@pytest.fixture
async def enabled(endpoint):
    await endpoint.enable("msg_on")
    return endpoint


def discovered(endpoint) -> list[tuple[str, ServiceKind]]:
    with endpoint.field.open("dashboard", max_size=1).tenant_tx(ACME) as tx:
        return [(row.service, row.kind) for row in tx.enrolments.discovered()]


async def test_discovered_service_is_recorded_and_logged_and_waits_for_its_agent(enabled):
    answer = await enabled.post(a_discovery(), event_id="msg_found")

    assert answer.status_code == 202
    assert answer.json()["duplicate"] is False
    await wait_until_async(lambda: enabled.waiting() == 0)
    assert discovered(enabled) == [("orders-db", ServiceKind.POSTGRESQL)]
    assert enabled.workflow_client.discovered == [(ACME, "eu-west-1", "orders-db")]
    with enabled.field.open("operator", max_size=1).tenant_tx(ACME) as tx:
        stored = tx.audit.records()[-1].record
    assert '"marketplace.service_discovered"' in stored
    assert '"orders-db"' in stored
    # An event connects no service: that requires an attestation or a person.
    assert enabled.count("service") == enabled.count("service_request") == 0


async def test_second_discovery_joins_the_first_and_another_kind_is_a_conflict(enabled):
    for event_id in ("msg_1", "msg_1", "msg_2"):
        assert (await enabled.post(a_discovery(), event_id=event_id)).status_code == 202
    await wait_until_async(lambda: enabled.waiting() == 0)
    assert discovered(enabled) == [("orders-db", ServiceKind.POSTGRESQL)]
    assert set(enabled.workflow_client.discovered) == {(ACME, "eu-west-1", "orders-db")}
    assert enabled.count("marketplace_event") == 3
    assert_refused(await enabled.post(a_discovery(kind="mongodb")), 409, "service_conflict")
    assert discovered(enabled) == [("orders-db", ServiceKind.POSTGRESQL)]


async def test_discovery_does_not_change_the_kind_of_a_connected_service(endpoint):
    scene = Scene(endpoint.field)
    scene.tenant(State.ACTIVE)
    scene.service("orders-db", ServiceKind.MONGODB)
    assert_refused(await endpoint.post(a_discovery()), 409, "service_conflict")
    assert (await endpoint.post(a_discovery(kind="mongodb"))).status_code == 202


BAD = [
    ({"workload": None}, 400, "malformed_event"),
    ({"workload": 7}, 400, "malformed_event"),
    ({"workload": "../orders"}, 422, "invalid_name"),
    ({"workload": "Orders"}, 422, "invalid_name"),
    ({"workload": "x" * 41}, 422, "invalid_name"),
    ({"kind": None}, 400, "malformed_event"),
    ({"kind": "oracle"}, 400, "malformed_event"),
    ({"customer": "unknown-corp"}, 404, "tenant_unknown"),
    ({"region": "eu-central-1"}, 409, "tenant_conflict"),
]


async def test_invalid_discoveries_are_rejected_and_store_nothing(enabled):
    for changed, status, code in BAD:
        assert_refused(await enabled.post(a_discovery(**changed)), status, code, str(changed))
        assert discovered(enabled) == []
    assert enabled.count("marketplace_event") == 1
