"""The destruction of tenants with very many services: short transactions, heartbeats, and a bound for the whole."""

import json
import time
from functools import partial
from operator import sub

import pytest

from core.services import ServiceState
from core.tenants.lifecycle import State
from tests.activities.dying import after_effect, crashes_after, perform_with_crash
from tests.activities.offboarding.leaving import STEPS
from tests.activities.services.many_services import add_services
from workflows.runtime import timeouts as timing

SERVICES = 1200
LONGEST_PAUSE = timing.DESTROY_HEARTBEAT
"""A step without a heartbeat for this time would be started again, for ever."""
SLOW_SECONDS = 1.2
IN_PIECES = ("inventory-keys", "disconnect-services", "destroy-service-keys")


def test_services_are_destroyed_in_pieces(leaving, field) -> None:
    with field.administrator() as administrator:
        add_services(administrator, leaving.tenant_id, SERVICES)
    leaving.leave(now=True)
    leaving.wait_recorded()
    leaving.run("start-destruction")
    for name in IN_PIECES:
        assert crashes_after(leaving.tenant, SERVICES // 500 + 2, partial(leaving.run, name)), name
        leaving.run(name)
    since, services = leaving.leaving.since, leaving.read(lambda tx: tx.services.all())
    names = [service.service for service in services]
    assert {service.state for service in services} == {ServiceState.DISCONNECTED}
    assert leaving.read(lambda tx: (tx.services.valid_leaves(since), tx.leaving.unwrapped(names))) == ([], [])
    records = [json.loads(record) for (record,) in leaving.rows("select record from okcm.audit_event order by seq")]
    assert [one["subject"] for one in records if one["name"] == "service.disconnected"] == names
    [end] = [one for one in records if (one["name"], one["outcome"]) == ("key.destroyed", "success")]
    assert end["details"]["wraps"] == str(SERVICES + 1)


@pytest.mark.parametrize("slow", [{"destroy-tenant-key"}, pytest.param(set(STEPS), marks=pytest.mark.full)])
def test_slow_call_in_a_step_of_the_destruction_does_not_stop_its_heartbeats(leaving, slow) -> None:
    leaving.leave(now=True)
    leaving.wait_recorded()
    for name in STEPS:
        leaving.tenant.heartbeats.clear()
        with after_effect(leaving.tenant, 1, partial(time.sleep, SLOW_SECONDS if name in slow else 0)):
            leaving.run(name)
        assert name not in slow or len(leaving.tenant.heartbeats) >= 2, name


@pytest.mark.full
def test_tenant_with_10000_services_is_destroyed_within_a_minute_with_a_crash_in_each_step(leaving, field) -> None:
    with field.administrator() as administrator:
        add_services(administrator, leaving.tenant_id, 9_999)
    began = time.monotonic()
    leaving.leave(now=True)
    leaving.wait_recorded()
    took, longest = {}, {}
    for name in STEPS:
        beats = leaving.tenant.heartbeats = [time.monotonic()]
        perform_with_crash(leaving.tenant, {name: partial(leaving.run, name)}, name, 1)
        beats.append(time.monotonic())
        took[name] = round(beats[-1] - beats[0], 2)
        longest[name] = round(max(map(sub, beats[1:], beats)), 2)
    assert leaving.tenant_row.state is State.OFFBOARDED
    assert len(leaving.statement()["destroyed"]) == 3 + 2 * 10_000
    assert time.monotonic() - began < 60, took
    assert max(longest.values()) < LONGEST_PAUSE.total_seconds(), longest
