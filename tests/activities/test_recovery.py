"""Recovery reads every tenant and service once, page by page, and requires the workflows that the rows require."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.common import MetricMeter
from temporalio.testing import ActivityEnvironment

from activities.recovery import RecoveryActivities
from activities.runtime.metrics import Metrics
from core import names as ids
from core.errors.platform import TemporalUnavailable
from core.messages.recovery import RecoverTenantInput, RecoveryCursor, RecoveryPage
from core.messages.services import ServiceInput
from core.messages.tenants import OffboardInput
from core.tenants.lifecycle import Transition
from core.tenants.offboarding import offboarding_number, reminders
from database.platform.scheduled import PlatformQueries
from tests.database.builders import NOW, a_connected_service, a_provisioned_tenant, an_event
from tests.database.fixtures import Field

_PAGE, _STARTS_AT_ONCE = 200, 8


class Starter:
    """A Temporal server as the recovery sees it; its list lacks `lagging` runs, and still has those that `ended`."""

    def __init__(self) -> None:
        self.runs: dict[str, object] = {}
        self.lagging: set[str] = set()
        self.ended: set[str] = set()
        self.starts: list[str] = []
        self.waits: list[str] = []
        self.refused: set[str] = set()
        self.attended = True
        self.down = False

    async def running(self, workflow_ids: Sequence[str]) -> frozenset[str]:
        if self.down:
            raise TemporalUnavailable
        return frozenset(workflow_ids) & (self.runs.keys() - self.lagging | self.ended)

    async def wait_for_first_task(self, workflow_id: str) -> bool:
        assert workflow_id in self.runs
        self.waits.append(workflow_id)
        return self.attended

    async def start_tenant(self, tenant_id: str, region: str) -> bool:
        return self._start(ids.tenant_workflow(tenant_id), region)

    async def start_offboarding(self, leaving: OffboardInput) -> bool:
        return self._start(ids.offboard_workflow(leaving.tenant_id), leaving)

    async def start_service(self, service: ServiceInput) -> bool:
        return self._start(ids.service_workflow(service.tenant_id, service.service), service)

    def _start(self, workflow_id: str, argument: object) -> bool:
        self.starts.append(workflow_id)
        if workflow_id in self.refused:
            raise TemporalUnavailable
        return self.runs.setdefault(workflow_id, argument) is argument


class Scene:
    def __init__(self, field: Field) -> None:
        self.field, self.worker, self.temporal = field, field.open("worker"), Starter()
        metrics = Metrics(MetricMeter.noop)
        self.activities = RecoveryActivities(self.worker, PlatformQueries(self.worker), self.temporal, metrics)

    def recover(self) -> list[RecoveryPage]:
        """Run all pages and return their results."""
        pages = [RecoveryPage(started=0, next=RecoveryCursor())]
        while (cursor := pages[-1].next) is not None:
            pages.append(asyncio.run(ActivityEnvironment().run(self.activities.recover_workflows, cursor)))
        return pages[1:]

    def recover_one(self, tenant_id: str) -> int:
        tenant = RecoverTenantInput(tenant_id=tenant_id)
        return asyncio.run(ActivityEnvironment().run(self.activities.recover_tenant, tenant)).started

    def request(self, tenant_id: str) -> None:
        with self.worker.tenant_tx(tenant_id) as tx:
            tx.tenants.request(an_event(tenant_id))

    def live(self, tenant_id: str) -> None:
        a_provisioned_tenant(self.worker, tenant_id)
        with self.worker.tenant_tx(tenant_id) as tx:
            tx.tenants.move(Transition.ACTIVATE)

    def leave(self, tenant_id: str, *, destroy: bool = False) -> None:
        with self.worker.tenant_tx(tenant_id) as tx:
            tx.leaving.begin(timedelta() if destroy else timedelta(days=30))
        if destroy:
            with self.worker.tenant_tx(tenant_id) as tx:
                assert tx.leaving.begin_destruction(datetime.now(UTC) + timedelta(seconds=1))


@pytest.fixture
def scene(field: Field) -> Scene:
    return Scene(field)


def test_every_page_is_read_and_nothing_is_started_twice(scene):
    tenants = [f"tenant-{number}" for number in range(_PAGE + 1)]
    for tenant_id in tenants:
        scene.request(tenant_id)
    pages = scene.recover()
    assert [page.started for page in pages] == [_PAGE, 1, 0]
    assert set(scene.temporal.runs) == set(map(ids.tenant_workflow, tenants))
    assert sum(page.started for page in scene.recover()) == 0
    assert len(scene.temporal.starts) == len(tenants)


def test_workflow_that_the_list_misses_is_neither_started_twice_nor_counted(scene):
    scene.request("acme")
    scene.recover()
    scene.temporal.lagging.add(ids.tenant_workflow("acme"))
    assert sum(page.started for page in scene.recover()) == 0
    assert scene.recover_one("acme") == 0


def test_requested_recovery_starts_a_workflow_that_the_list_still_has(scene):
    scene.live("acme")
    scene.leave("acme")
    scene.recover()
    scene.temporal.ended |= scene.temporal.runs.keys()
    scene.temporal.runs.clear()
    assert sum(page.started for page in scene.recover()) == 0
    assert scene.recover_one("acme") == 2
    assert set(scene.temporal.runs) == scene.temporal.ended


def test_service_gets_its_newest_certificate_and_the_time_of_its_renewal(scene):
    scene.live("acme")
    a_connected_service(scene.field, "acme")
    scene.recover()
    service = scene.temporal.runs[ids.service_workflow("acme", "orders")]
    assert (service.memory.generation, service.memory.renew_at) == (1, NOW + timedelta(hours=48))


def test_disconnected_service_gets_no_workflow(scene):
    scene.live("acme")
    a_connected_service(scene.field, "acme")
    with scene.worker.tenant_tx("acme") as tx:
        tx.services.disconnect("orders")
    scene.recover()
    assert set(scene.temporal.runs) == {ids.tenant_workflow("acme")}


def test_offboarding_continues_and_after_the_point_of_no_return_it_is_all_that_is_left(scene):
    for tenant_id in ("leaver", "destroyed"):
        scene.live(tenant_id)
    a_connected_service(scene.field, "leaver")
    a_connected_service(scene.field, "destroyed")
    scene.leave("leaver")
    scene.leave("destroyed", destroy=True)
    assert scene.recover_one("destroyed") == 1
    scene.recover()
    assert set(scene.temporal.runs) == {
        ids.tenant_workflow("leaver"),
        ids.offboard_workflow("leaver"),
        ids.service_workflow("leaver", "orders"),
        ids.offboard_workflow("destroyed"),
    }
    offboarding = scene.temporal.runs[ids.offboard_workflow("leaver")]
    assert offboarding.until - offboarding.since == timedelta(days=30)
    assert offboarding.number == offboarding_number(offboarding.since)


@pytest.mark.parametrize(
    ("begun", "left", "extended"),
    [
        (timedelta(days=60), timedelta(days=-30), True),
        (timedelta(days=29), timedelta(hours=1), True),
        (timedelta(days=20), timedelta(days=10), False),
        (timedelta(minutes=1), timedelta(0), False),  # its tenant workflow may start it now
    ],
)
def test_recovered_offboarding_leaves_time_to_restore_the_tenant(scene, begun, left, extended):
    """After a restored backup the rows may not know that the tenant was restored: nothing is destroyed at once."""
    scene.live("acme")
    scene.leave("acme")
    now = datetime.now(UTC)
    with scene.field.administrator() as administrator:
        administrator.execute("update okcm.tenant set leaving_since = %s, leaves_at = %s", [now - begun, now + left])
    scene.recover()
    started = scene.temporal.runs[ids.offboard_workflow("acme")]
    with scene.worker.tenant_tx("acme") as tx:
        assert tx.leaving.get().until == started.until
    assert (started.until > now + timedelta(days=1, hours=23)) == (extended or left > timedelta(days=2))
    assert (started.until == now + left) == (not extended)
    assert any(due > now for due in reminders(started.since, started.until)) == (extended or left > timedelta(days=2))


def test_offboarding_that_runs_or_destroys_keeps_its_end(scene):
    for tenant_id, destroy in (("runs", False), ("destroyed", True)):
        scene.live(tenant_id)
        scene.leave(tenant_id, destroy=destroy)
    ended = datetime.now(UTC) - timedelta(hours=1)
    with scene.field.administrator() as administrator:
        administrator.execute(
            "update okcm.tenant set leaving_since = %s, leaves_at = %s", [ended - timedelta(days=30), ended]
        )
    scene.temporal.runs[ids.offboard_workflow("runs")] = "started before"
    scene.temporal.lagging.add(ids.offboard_workflow("runs"))
    scene.recover()
    assert scene.temporal.runs[ids.offboard_workflow("destroyed")].until == ended
    for tenant_id in ("runs", "destroyed"):
        with scene.worker.tenant_tx(tenant_id) as tx:
            assert tx.leaving.get().until == ended


def test_restored_and_unknown_tenants_get_no_offboarding(scene):
    scene.live("acme")
    scene.leave("acme")
    with scene.worker.tenant_tx("acme") as tx:
        tx.leaving.restore()
    assert scene.recover_one("acme") == 1
    assert scene.recover_one("unknown-corp") == 0
    assert set(scene.temporal.runs) == {ids.tenant_workflow("acme")}


def test_recovery_is_retried_while_temporal_is_unavailable(scene):
    scene.request("acme")
    scene.temporal.down = True
    with pytest.raises(TemporalUnavailable):
        scene.recover()
    assert TemporalUnavailable.retryable


def test_start_that_fails_each_time_delays_no_other_page(scene):
    tenants = [f"tenant-{number:03}" for number in range(_PAGE + 1)]
    for tenant_id in tenants:
        scene.request(tenant_id)
    first = ids.tenant_workflow(tenants[0])
    scene.temporal.refused.add(first)
    assert [page.started for page in scene.recover()] == [_PAGE - 1, 1, 0]
    assert set(scene.temporal.runs) == set(map(ids.tenant_workflow, tenants)) - {first}
    with pytest.raises(TemporalUnavailable):
        scene.recover_one(tenants[0])


def test_region_without_a_worker_is_waited_for_once_and_delays_no_other_region(scene):
    for number in range(_PAGE):
        scene.request(f"tenant-{number:03}")
    scene.temporal.attended = False
    scene.recover()
    assert len(scene.temporal.runs) == _PAGE
    assert len(scene.temporal.waits) <= _STARTS_AT_ONCE
