"""The four skews of a restore on a running installation (docs/backup-and-restore.md).

Each store in turn is replaced by an older copy while all other processes continue. The doctor names the differences, no
locked or offboarded tenant is served, and the documented steps repair them.
"""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.tenants.lifecycle import State
from tests.concurrency import wait_until
from tests.e2e.tenants import ORGANIZATION
from tests.production.restore.installation import (
    FRESH,
    GONE,
    KEPT,
    LEAVING,
    LOCKED,
    ROTATED,
    STORES,
    Installation,
    running,
)

pytestmark = pytest.mark.full

OLD, NEW = "old", "new"


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation with a copy of all stores before and after each kind of change."""
    with running(tmp_path_factory.mktemp("restore")) as site:
        for name in (KEPT, LOCKED, ROTATED, LEAVING, GONE):
            site.add_tenant(name)
        site.back_up(OLD)
        site.run(LOCKED, "tenant", "lock", after=("--confirm", site.tenants[LOCKED]))
        site.run(ROTATED, "key", "rotate", after=("--tenant-key-only",))
        site.run(LEAVING, "tenant", "offboard", after=("--confirm", site.tenants[LEAVING]))
        site.run(GONE, "tenant", "offboard", after=("--now", "--confirm", site.tenants[GONE]))
        site.add_tenant(FRESH)
        site.wait_state(GONE, State.OFFBOARDED)
        for name, state in ((LOCKED, State.LOCKED), (LEAVING, State.LEAVING), (GONE, State.OFFBOARDED)):
            site.wait_recorded(name, state)
        site.wait_agreed()
        site.back_up(NEW)
        yield site


@pytest.fixture
def site(changed: Installation) -> Iterator[Installation]:
    """The installation with the stores after the changes."""
    changed.restore(NEW, *STORES)
    changed.wait_agreed()
    changed.assert_served(KEPT, ROTATED, FRESH)
    return changed


def test_older_postgresql(site: Installation) -> None:
    former = dict(site.programs)
    site.restore(OLD, "postgres")
    assert site.state(LOCKED) == site.state(LEAVING) == site.state(GONE) == "active"
    site.assert_refused(LOCKED, LEAVING, GONE, FRESH)
    assert set(site.programs[ROTATED].probe("encrypt", "decrypt", "data key").values()) == {"key_unavailable"}
    site.wait_works(KEPT)

    found = site.doctor()
    assert "lock_lost" in found[LOCKED]
    assert "offboarding_lost" in found[LEAVING]
    assert "destruction_lost" in found[GONE]
    assert "key_versions_retired" in found[ROTATED]
    assert found[FRESH] == {"tenant_lost"}
    assert KEPT not in found

    with ThreadPoolExecutor(1) as pool:
        repaired = pool.submit(site.stack.run, "doctor", "--stores", "--repair", "--json")
        wait_until(lambda: site.state(LOCKED) != "active" or site.state(LEAVING) != "active" or repaired.done())
        os.kill(site.stack.pids()["worker"], signal.SIGKILL)
        repaired.result()
    site.doctor("--repair")
    assert site.state(LOCKED) == "locked"
    assert site.state(LEAVING) == "offboarding"
    site.wait_state(GONE, State.OFFBOARDED)

    site.run(ROTATED, "key", "rotate", after=("--tenant-key-only",))
    site.stack.enable(site.tenants[FRESH], ORGANIZATION)
    site.connect_again(FRESH)
    site.assert_served(KEPT, ROTATED, FRESH)
    site.wait_agreed()

    site.run(LOCKED, "tenant", "unlock")
    site.run(LEAVING, "tenant", "restore")
    site.assert_served(KEPT, ROTATED, FRESH, LOCKED, LEAVING)
    site.programs[FRESH].hang_up()
    site.programs = former


def test_older_key_server(site: Installation) -> None:
    site.restore(OLD, "openbao")
    # Keys in memory are used for at most a minute; the tenants that have them were never locked.
    site.assert_refused(LOCKED, LEAVING, GONE)
    site.wait_works(KEPT)

    found = site.doctor()
    assert "tenant_key_older" in found[ROTATED]
    assert {"tenant_key_missing", "ca_key_missing", "payload_key_missing"} <= found[FRESH]
    assert "destroyed_key_found" in found[GONE]

    left = site.doctor("--repair")
    assert "tenant_key_older" in left[ROTATED]
    assert "tenant_key_missing" in left[FRESH]
    assert {LOCKED, LEAVING, GONE}.isdisjoint(left)
    assert site.state(ROTATED) == site.state(FRESH) == "locked"
    site.assert_served(KEPT)

    site.restore(NEW, "openbao")
    site.doctor("--repair")
    site.wait_agreed()
    site.assert_served(KEPT)
    for name in (ROTATED, FRESH):
        site.run(name, "tenant", "unlock")
    site.assert_served(KEPT, ROTATED, FRESH)


def test_older_temporal(site: Installation) -> None:
    site.restore(OLD, "temporal")
    site.assert_served(KEPT, ROTATED, FRESH)
    found = site.doctor()
    assert "workflow_differs" in found[LOCKED]
    assert "workflow_differs" in found[LEAVING]
    assert "workflow_surplus" in found[GONE]
    site.doctor("--repair")
    site.wait_agreed()
    site.assert_served(KEPT, ROTATED, FRESH)
    site.run(LOCKED, "tenant", "unlock")
    site.run(LEAVING, "tenant", "restore")
    site.assert_served(KEPT, ROTATED, FRESH, LOCKED, LEAVING)


def test_empty_temporal(site: Installation) -> None:
    site.empty_temporal()
    site.assert_served(KEPT, ROTATED, FRESH)
    site.wait_agreed()
    site.run(KEPT, "tenant", "lock", after=("--confirm", site.tenants[KEPT]))
    site.assert_served(ROTATED, FRESH)
    site.run(KEPT, "tenant", "unlock")
    site.run(LOCKED, "tenant", "unlock")
    site.assert_served(KEPT, ROTATED, FRESH, LOCKED)
