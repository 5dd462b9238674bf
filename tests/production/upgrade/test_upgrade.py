"""Upgrade and rollback of an installation with two hosts, as docs/upgrading.md describes, without an error of a client.

`--long` lets both releases run side by side for ten minutes. `OPENKCM_TEST_FORMER_RELEASE` names a commit that is then
the former release; it must be in this clone.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, ScheduleActionStartWorkflow
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from config.settings import Settings
from tests.production.topology import drills
from tests.production.topology.load import Load
from tests.production.topology.servers import wait_for
from tests.production.upgrade.installation import HOSTS, ORDER, Installation, installation
from tests.production.upgrade.releases import (
    NEXT_COLUMN,
    NEXT_SCHEDULE,
    Release,
    former_release,
    next_release,
    present_release,
)
from worker import wiring
from worker.versioning import DEPLOYMENT

pytestmark = pytest.mark.full

_FORMER = "OPENKCM_TEST_FORMER_RELEASE"
_SETTLED_SECONDS = 60
_RATE = 40.0
"""Requests per second; the rest of the machine is for ten processes that start."""


@pytest.fixture
def former(tmp_path: Path) -> Release:
    commit = os.environ.pop(_FORMER, "")
    return former_release(tmp_path / "former", commit) if commit else present_release()


@pytest.fixture
def installed(tmp_path: Path, former: Release) -> Iterator[Installation]:
    with installation(tmp_path / "installation", former) as running:
        yield running


def test_releases_run_side_by_side_and_back_without_an_error_of_a_client(
    installed: Installation, former: Release, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    side_by_side = 600.0 if pytestconfig.getoption("--long") else 40.0
    following = next_release(tmp_path / "next", build_id="0.10.0" if former.build_id else None)
    schedules = asyncio.run(schedules_of(installed))
    load = Load(installed, _RATE)
    with load.running():
        # Database, then one host.
        applied = installed.operate_from(following.folder, "setup", "database")["applied"]
        assert "9001_next_release.sql" in applied
        assert NEXT_COLUMN in columns_of(installed, "tenant")
        replace_all(installed, "app1", following)
        wait_for("the next release is current", lambda: not following.build_id or installed.current == "0.10.0")
        wait_for("the schedule of the next release", lambda: NEXT_SCHEDULE in asyncio.run(schedules_of(installed)))

        upgraded = asyncio.run(schedules_of(installed))
        assert upgraded.keys() >= schedules.keys()

        # Side by side, with a restart of the older worker and an older command for the newer schema.
        installed.replace("app2", "worker", former)
        if former.build_id:
            assert installed.operate_from(former.folder, "setup", "database")["applied"] == []
            assert installed.current == "0.10.0"
        time.sleep(side_by_side)
        assert asyncio.run(schedules_of(installed)) == upgraded

        # The other host, and back again.
        replace_all(installed, "app2", following)
        installed.replace("app1", "worker", former)
        if former.build_id:
            installed.temporal(
                *("worker", "deployment", "set-current-version", "--yes", "--deployment-name", DEPLOYMENT),
                *("--build-id", former.build_id),
            )
            wait_for("operations of the next release", lambda: not asyncio.run(pinned_to(installed, "0.10.0")))
        for host in HOSTS:
            replace_all(installed, host, former, without=() if host == "app2" else ("worker",))
        assert set(installed.releases.values()) == {former}
        wait_for("all tenants", lambda: not drills.inactive_tenants(installed, load), _SETTLED_SECONDS)
    assert [failure.what for failure in load.failures] == []
    assert load.answered() > _RATE * side_by_side / 4
    assert len(load.enabled) >= side_by_side // 20
    wait_for("all records", lambda: not drills.lost_records(installed, load), _SETTLED_SECONDS)
    assert asyncio.run(schedules_of(installed)) == upgraded
    # The former release may not know what these start.
    later = tuple(f"platform/{name}-" for name in upgraded.keys() - schedules.keys() - {NEXT_SCHEDULE})
    asyncio.run(assert_workflows_are_sound(installed, len(load.enabled) + len(load.services) + 2, later))


def replace_all(installed: Installation, host: str, release: Release, without: tuple[str, ...] = ()) -> None:
    for process in ORDER:
        if process not in without:
            installed.replace(host, process, release)


def columns_of(installed: Installation, table: str) -> set[str]:
    with installed.superuser() as connection:
        rows = connection.execute("select column_name from information_schema.columns where table_name = %s", [table])
        return {name for (name,) in rows}


async def schedules_of(installed: Installation) -> dict[str, tuple[Any, ...]]:
    """Return workflow, interval and state of each schedule by name."""
    client = await Client.connect(installed.temporal_address)
    found = {}
    async for listed in await client.list_schedules():
        schedule = (await client.get_schedule_handle(listed.id).describe()).schedule
        assert isinstance(schedule.action, ScheduleActionStartWorkflow)
        interval = [one.every for one in schedule.spec.intervals]
        found[listed.id] = schedule.action.workflow, schedule.action.id, interval, schedule.state.paused
    return found


async def pinned_to(installed: Installation, build_id: str) -> int:
    client = await Client.connect(installed.temporal_address)
    version = f"TemporalWorkerDeploymentVersion = '{DEPLOYMENT}:{build_id}' and ExecutionStatus = 'Running'"
    return (await client.count_workflows(f"{version} and TemporalWorkflowVersioningBehavior = 'Pinned'")).count


async def assert_workflows_are_sound(installed: Installation, tenants: int, waiting: tuple[str, ...]) -> None:
    """Assert that no workflow failed or is stuck, and replay each history with the code of this source tree.

    Workflows whose ids begin with one of `waiting` may wait for the next release.
    """
    settings = Settings(**installed.settings)
    parts = wiring.build(settings)
    parts.keyring.open_platform_key()
    client = await Client.connect(installed.temporal_address, data_converter=parts.converter)
    try:
        stuck = [found.id async for found in client.list_workflows("TemporalReportedProblems IS NOT NULL")]
        assert [one for one in stuck if not one.startswith(waiting)] == []
        states: Counter[tuple[str, str]] = Counter()
        replayer = Replayer(
            workflows=[*wiring.TENANT_WORKFLOWS, *wiring.OPERATION_WORKFLOWS, *wiring.PLATFORM_WORKFLOWS],
            data_converter=parts.converter,
            workflow_runner=UnsandboxedWorkflowRunner(),
        )
        async for found in client.list_workflows():
            assert found.status is not None
            states[str(found.workflow_type), found.status.name] += 1
            handle = client.get_workflow_handle(found.id, run_id=found.run_id)
            result = await replayer.replay_workflow(await handle.fetch_history(), raise_on_replay_failure=False)
            assert result.replay_failure is None, (found.id, result.replay_failure)
        ended = {key: count for key, count in states.items() if key[1] not in {"RUNNING", "COMPLETED"}}
        assert ended == {}
        assert states["Tenant", "RUNNING"] == tenants
    finally:
        parts.database.close()
