"""Root key monitoring with real rows, root keys that can be disabled, and no workflow."""

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.common import MetricMeter

from activities.root_keys import health as watching
from activities.root_keys.health import PollIntervals, RootKeyHealthActivities
from activities.runtime.metrics import Metrics
from core.errors.keys import (
    RootKeyDenied,
    RootKeyDisabled,
    RootKeyMismatch,
    RootKeyUnreachable,
    WrongContext,
)
from core.errors.platform import VaultUnavailable
from core.messages.keys import WatchRootKeysInput
from core.tenants.lifecycle import Transition
from core.tenants.locks import HEALTHY, LockReason
from database.keys import EncryptedRootKeyRow
from database.platform.scheduled import PlatformQueries
from database.root_keys import MonitoredRootKey, RootKeyChanges, RootKeyRequestRow
from openkcm.contract.services import ServiceKind
from openkcm.errors import OpenKcmError
from tests.activities.counting import CANCELLED_AFTER_SECONDS, run_until
from tests.activities.recorded import Recorded
from tests.concurrency import wait_until
from tests.database.builders import a_place, a_provisioned_tenant, a_root_key_id, an_event
from tests.database.fixtures import Field
from tests.database.silent_peer import backends
from tests.kms.simulated_holders import CIPHERTEXT, PLAINTEXT, SimulatedHolders
from tests.pausing import paused

REGION = "eu-west-1"
DIGEST = hashlib.sha256(PLAINTEXT).digest()
FAST = PollIntervals(used=0.05, idle=0.05, grace=60.0)
WATCH = WatchRootKeysInput(region=REGION)
TIMEOUT = 1.0
"""Seconds until a call to a silent server fails."""


class CountedQueries(PlatformQueries):
    """Counts the root keys that reads return."""

    rows = 0

    def monitored_root_keys(self, *arguments: Any, **options: Any) -> RootKeyChanges:
        changes = super().monitored_root_keys(*arguments, **options)
        self.rows += len(changes.found)
        return changes


class DelayMetrics(Metrics):
    """The delays that were recorded, in seconds, the newest last."""

    def __init__(self) -> None:
        super().__init__(MetricMeter.noop)
        self.delays: list[float] = []

    def record_root_key_delay(self, watch: WatchRootKeysInput, seconds: float) -> None:
        super().record_root_key_delay(watch, seconds)
        self.delays.append(seconds)


class Scene:
    def __init__(self, field: Field) -> None:
        self.field, self.worker = field, field.open("worker")
        self.holder, self.queries = SimulatedHolders(timeout=TIMEOUT), CountedQueries(self.worker)
        self.later = timedelta()
        self.heartbeats: list[int] = []
        self.metrics, self.stopping = DelayMetrics(), threading.Event()
        self.watch = self.with_pace(FAST)

    def with_pace(self, pace: PollIntervals) -> RootKeyHealthActivities:
        dependencies = self.worker, self.queries, self.holder, pace
        return RootKeyHealthActivities(
            *dependencies, lambda: datetime.now(UTC) + self.later, self.metrics, self.stopping
        )

    def uses(self, tenant_id: str) -> None:
        """Record the use of a tenant's service."""
        with self.field.open("worker", max_size=1).tenant_tx(tenant_id) as tx:
            tx.services.connect("orders", ServiceKind.MONGODB)
        with self.field.open("crypto", max_size=1).tenant_tx(tenant_id) as tx:
            tx.services.seen(["orders"], datetime.now(UTC))

    def holds(self, tenant_id: str, address: str = "https://vault.example.com") -> None:
        """Record a customer root key of a tenant."""
        a_provisioned_tenant(self.worker, tenant_id)
        key, place = a_root_key_id(tenant_id), a_place(address=address)
        with self.field.open("operator", max_size=1).tenant_tx(tenant_id) as tx:
            tx.root_keys.request(RootKeyRequestRow(key, place, "sealed"))
        with self.worker.tenant_tx(tenant_id) as tx:
            tx.tenants.move(Transition.ACTIVATE)
            tx.root_keys.admit(EncryptedRootKeyRow(key, place, "credentials"))
            tx.root_keys.begin(1, place.provider, place.name, key)
            tx.root_keys.prove(key, CIPHERTEXT, DIGEST)
            assert tx.root_keys.switch(1)

    def health(self, tenant_id: str = "acme") -> str:
        return Recorded(self.worker, tenant_id).get(lambda tx: tx.root_keys.current()).health

    def run(self, until: Callable[[], bool] = lambda: False, watch: WatchRootKeysInput = WATCH) -> tuple[str, ...]:
        """Run the monitoring until it returns tenants, or until `until` holds; return the tenants."""
        found = run_until(until, self.watch.watch_root_keys, watch, heartbeat=self.heartbeats.append)
        return tuple(found.tenants)

    def run_for_tries(self, number: int, tenant_id: str = "acme") -> tuple[str, ...]:
        """Run the monitoring until a tenant's key was checked `number` more times."""
        tried = self.holder.checks[tenant_id]
        return self.run(lambda: self.holder.checks[tenant_id] >= tried + number)


@pytest.fixture
def scene(field: Field) -> Scene:
    scene = Scene(field)
    scene.holds("acme")
    return scene


def test_monitoring_ends_when_the_worker_stops_also_if_it_starts_later(scene: Scene) -> None:
    def stop_after_a_check() -> bool:
        if scene.holder.checks["acme"]:
            scene.stopping.set()
        return False

    for _ in range(2):
        began = time.monotonic()
        assert scene.run(stop_after_a_check) == ()
        assert time.monotonic() - began < CANCELLED_AFTER_SECONDS / 2
    assert scene.stopping.is_set()


@pytest.mark.parametrize("failure", [RootKeyDisabled, RootKeyDenied])
def test_disabled_key_is_recorded_and_its_tenant_returned(scene: Scene, failure: type[OpenKcmError]) -> None:
    scene.holder.fails["acme"] = failure()
    assert scene.run() == ("acme",)
    assert scene.health() == failure.code


@pytest.mark.parametrize("swapped", ["another answer", "another context"])
def test_replaced_key_is_distinguished_from_a_missing_one(scene: Scene, swapped: str) -> None:
    if swapped == "another answer":
        scene.holder.plaintext = b"something else"
    else:
        scene.holder.fails["acme"] = WrongContext()
    assert scene.run() == ("acme",)
    assert scene.health() == RootKeyMismatch.code


def test_recovered_key_returns_its_tenant_again(scene: Scene) -> None:
    scene.holder.fails["acme"] = RootKeyDisabled()
    scene.run()
    Recorded(scene.worker, "acme").read(lambda tx: tx.tenants.hold(LockReason.ROOT_KEY))
    scene.holder.fails.clear()
    assert scene.run() == ("acme",)
    assert scene.health() == HEALTHY
    names = [record["name"] for record in Recorded(scene.worker, "acme").records("root_key.")]
    assert [name for name in names if name.endswith("available")] == ["root_key.unavailable", "root_key.available"]


def test_unreachable_key_is_reported_once_and_again_after_the_grace_period(scene, monkeypatch) -> None:
    scene.holder.fails["acme"] = RootKeyUnreachable()
    assert scene.run() == ("acme",)
    assert scene.run_for_tries(5) == ()
    monkeypatch.setattr(watching, "_REPEAT_SECONDS", 0.1)
    scene.later = timedelta(seconds=61)
    assert scene.run() == ("acme",)


def test_lost_signal_is_sent_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_REPEAT_SECONDS", 0.1)
    scene.holder.fails["acme"] = RootKeyDisabled()
    assert scene.run() == scene.run() == ("acme",)


@pytest.mark.parametrize("failure", [VaultUnavailable(), ValueError("a library's own")], ids=["ours", "unforeseen"])
def test_failure_of_the_platform_does_not_change_the_keys_health(scene: Scene, failure: Exception) -> None:
    scene.holder.fails["acme"] = failure
    assert scene.run_for_tries(4) == ()
    assert scene.health() == HEALTHY


def test_unchanged_health_writes_no_row(scene: Scene) -> None:
    def rows() -> list[object]:
        """Return for each table the number of rows and the transaction of the newest."""
        with scene.field.administrator() as administrator:
            tables = administrator.execute("select tablename from pg_tables where schemaname = 'okcm'").fetchall()
            newest = "select '{0}', count(*), max(xmin::text::bigint) from okcm.{0}"
            return [administrator.execute(newest.format(table)).fetchone() for (table,) in sorted(tables)]

    before = rows()
    assert scene.run_for_tries(6) == ()
    assert rows() == before


def test_unreachable_keys_do_not_delay_the_others(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_WAITING_THREADS", 2)
    scene.watch = scene.with_pace(FAST)
    slow = [f"slow-{number}" for number in range(12)]
    for tenant in slow:
        scene.holds(tenant)
        scene.holder.fails[tenant] = RootKeyUnreachable()
    reported = set()
    while reported < set(slow):
        reported |= set(scene.run())
    scene.holder.pause_of_failure = 0.5
    scene.holder.fails["acme"] = RootKeyDisabled()
    scene.holder.checks.clear()
    while scene.run() != ("acme",):
        pass
    assert sum(scene.holder.checks[tenant] for tenant in slow) < len(slow), "it does not wait for all of them"


def test_silent_server_does_not_delay_checks_at_another_server(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_THREADS", 4)
    monkeypatch.setattr(watching, "_SERVER_THREADS", 3)
    monkeypatch.setattr(watching, "_SLOW_SERVER_THREADS", 1)
    scene.watch = scene.with_pace(FAST)
    silent = [f"silent-{number}" for number in range(24)]
    for tenant in silent:
        scene.holds(tenant, "https://silent.example.com")
    scene.run(lambda: len(scene.holder.checks) > len(silent))
    scene.holder.silent = "https://silent.example.com"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(scene.run)
        time.sleep(TIMEOUT / 2)  # by then each thread that is allowed to waits for the silent server
        scene.holder.fails["acme"] = RootKeyDisabled()
        began = time.monotonic()
        found = running.result(timeout=30.0)
        while "acme" not in found:
            found = scene.run()
    assert time.monotonic() - began < 3 * TIMEOUT, "24 checks at the silent server take six timeouts of four threads"


def test_unchanged_keys_are_read_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_READ_SECONDS", 0.05)
    scene.watch = scene.with_pace(FAST)
    tenants = [f"many-{number}" for number in range(12)]
    for tenant in tenants:
        scene.holds(tenant)
    scene.run(lambda: len(scene.heartbeats) >= 10)
    assert scene.queries.rows < 2 * (len(tenants) + 1)
    scene.uses("acme")
    rows = scene.queries.rows
    scene.run(lambda: len(scene.heartbeats) >= 20)
    assert rows < scene.queries.rows < rows + len(tenants)


def test_used_tenant_is_read_again_when_its_use_ends(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_RECENTLY", timedelta(seconds=0.5))
    scene.watch = scene.with_pace(PollIntervals(used=0.05, idle=3600, grace=60))
    scene.uses("acme")
    scene.run_for_tries(3)
    turn = scene.watch._shards[WATCH].turns["acme"]
    scene.run(lambda: not turn.used)
    scene.uses("acme")  # within the pause that a mark needs: only this read notices the end of the use
    assert not turn.used


def test_shards_check_all_root_keys_and_each_once(scene: Scene) -> None:
    tenants = {"acme", *(f"many-{number}" for number in range(11))}
    for tenant in tenants - {"acme"}:
        scene.holds(tenant)
    checked = []
    for shard in range(3):
        scene.holder.checks.clear()
        seen = len(scene.heartbeats)
        watch = WatchRootKeysInput(region=REGION, shard=shard, shards=3)
        scene.run(lambda seen=seen: len(scene.heartbeats) > seen + 2, watch)
        checked += sorted(scene.holder.checks)
    assert sorted(checked) == sorted(tenants)
    assert len(checked) == len(tenants)


def test_failover_that_lost_transactions_lists_all_keys_again(scene: Scene) -> None:
    scene.run_for_tries(1)
    shard = scene.watch._shards[WATCH]
    scene.run(lambda: shard.is_listed)
    shard.position = str(int(shard.position or 0) + 1000)
    with scene.field.administrator() as administrator:
        administrator.execute("set session_replication_role = replica; update okcm.tenant set state = 'offboarding'")
    scene.run(lambda: not shard.turns)
    assert not shard.turns


def test_idle_tenant_is_checked_rarely_and_at_once_when_used(scene: Scene) -> None:
    scene.watch = scene.with_pace(PollIntervals(used=0.05, idle=3600, grace=60))
    scene.holds("busy")
    scene.uses("busy")
    scene.run(lambda: scene.holder.checks["acme"] > 0 and scene.holder.checks["busy"] > 20)
    assert scene.holder.checks["acme"] == 1
    scene.uses("acme")
    scene.run_for_tries(5)
    assert scene.holder.checks["acme"] > 5


def test_used_tenant_does_not_wait_behind_idle_ones(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_THREADS", 2)
    scene.watch = scene.with_pace(FAST)
    for number in range(16):
        scene.holds(f"idle-{number}")
    scene.uses("acme")
    scene.holder.pause = 0.05
    assert scene.run(lambda: scene.holder.checks.total() >= 160) == ()
    # With equal priority it would be checked ten times.
    assert scene.holder.checks["acme"] > 14
    assert len(scene.holder.checks) > 10


def test_delay_of_the_oldest_check_rises_while_a_shard_cannot_keep_up(scene: Scene, monkeypatch) -> None:
    monkeypatch.setattr(watching, "_THREADS", 2)
    monkeypatch.setattr(watching, "_DELAY_SECONDS", 0.1)
    scene.watch = scene.with_pace(FAST)
    delays = scene.metrics.delays
    for number in range(16):
        scene.holds(f"idle-{number}")
    scene.run(lambda: len(scene.holder.checks) == 17)
    scene.run(lambda: len(delays) > 5 and max(delays[-5:]) < 0.5)
    # Two threads finish 4 checks per second: 17 keys need 4 seconds and are due 20 times per second.
    scene.holder.pause = 0.5
    scene.run(lambda: delays[-1] > 2.0)
    assert delays[-1] == 0.0, "a shard that ends here has no delay in this worker"
    assert max(delays) > 2.0
    scene.holder.pause = 0.0
    delays.clear()
    scene.run(lambda: len(delays) > 5 and max(delays[-5:]) < 0.5)
    assert max(delays[-6:]) < 0.5


def test_only_a_running_shard_without_delay_counts_as_watched(scene: Scene, monkeypatch) -> None:
    monkeypatch.setattr(watching, "_DELAY_SECONDS", 0.1)
    seen: list[tuple[WatchRootKeysInput, ...]] = []

    def record() -> bool:
        seen.append(scene.watch.watches())
        return seen[-1] == (WATCH,)

    assert scene.watch.watches() == ()
    scene.run(record)
    assert seen[-1] == (WATCH,)
    assert scene.watch.watches() == (), "a shard that ended here is not watched by this worker"
    monkeypatch.setattr(watching, "_PROMPT_SECONDS", 0.0)
    assert scene.run_for_tries(4) == ()
    assert scene.watch.watches() == ()


def test_checks_are_spread_over_the_interval_after_the_start(scene: Scene) -> None:
    key = MonitoredRootKey("acme", "80000000" + 24 * "0", "", HEALTHY, datetime.now(UTC), held=False, used_seconds=0)
    turn = watching._Turn(key=key)
    watch = scene.with_pace(PollIntervals(used=1, idle=30, grace=60))
    assert watch._pause(turn, HEALTHY) == 15
    turn.tried = True
    assert watch._pause(turn, HEALTHY) == 30
    assert watch._pause(turn, RootKeyDisabled.code) == 1


def test_many_failures_are_reported_in_batches_and_each_before_any_repetition(scene, monkeypatch) -> None:
    monkeypatch.setattr(watching, "_MAX_REPORTED", 4)
    tenants = {"acme", *(f"many-{number}" for number in range(9))}
    for tenant in tenants - {"acme"}:
        scene.holds(tenant)
    scene.holder.fails = {tenant: RootKeyDisabled() for tenant in tenants}
    while any(scene.health(tenant) == HEALTHY for tenant in tenants):
        scene.run()
    monkeypatch.setattr(watching, "_REPEAT_SECONDS", 0.0)
    scene.watch = scene.with_pace(FAST)  # as after a restart: all failures are recorded and none is reported
    reported: list[str] = []
    while set(reported) != tenants:
        some = scene.run()
        assert len(some) <= 4
        reported += some
    assert len(reported) < 2 * len(tenants) + 4


def test_timed_out_attempt_leaves_the_round_to_the_next_attempt(scene: Scene) -> None:
    scene.run_for_tries(1)
    scene.heartbeats.clear()
    with scene.watch._shards[WATCH].round:
        tried, over = scene.holder.checks["acme"], time.monotonic() + 0.5
        assert scene.run(lambda: time.monotonic() > over) == ()
        assert scene.holder.checks["acme"] == tried
    assert scene.heartbeats == [], "an attempt without a round must not look alive"
    scene.run_for_tries(1)
    assert scene.holder.checks["acme"] > tried


def test_other_regions_and_the_platforms_root_key_are_not_checked(scene: Scene) -> None:
    with scene.worker.tenant_tx("plain") as tx:
        tx.tenants.request(an_event("plain"))
    scene.holds("far")
    with scene.field.administrator() as administrator:
        administrator.execute("update okcm.tenant set region = 'us-east-1' where tenant_id = 'far'")
    scene.run_for_tries(5)
    assert set(scene.holder.checks) == {"acme"}


def test_unreachable_database_does_not_stop_the_checks(scene: Scene) -> None:
    scene.run_for_tries(1)
    tried = scene.holder.checks["acme"]
    with scene.field.server.offline(scene.field.name):
        assert scene.run_for_tries(5) == ()
    assert scene.holder.checks["acme"] >= tried + 5
    scene.holder.fails["acme"] = RootKeyDisabled()
    assert scene.run() == ("acme",)


def test_no_heartbeat_is_sent_without_a_list_of_the_keys(scene: Scene) -> None:
    scene.run(lambda: len(scene.heartbeats) >= 2)
    scene.run_for_tries(1)
    with scene.field.server.offline(scene.field.name):
        scene.run_for_tries(1)  # a list from before may end only now
        scene.heartbeats.clear()
        over = time.monotonic() + 1.5
        scene.run(lambda: time.monotonic() > over)
        assert scene.heartbeats == []
    scene.run(lambda: len(scene.heartbeats) > 0)
    assert scene.heartbeats


def test_withdrawn_key_is_noticed_within_5_seconds_while_a_database_connection_hangs(scene: Scene) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(scene.run)
        wait_until(lambda: scene.holder.checks["acme"] > 2)
        with paused(*backends(scene.field, "worker")):
            time.sleep(1.5)  # by then a list uses the stopped backend
            scene.holder.fails["acme"] = RootKeyDisabled()
            assert running.result(timeout=5.0) == ("acme",)
    assert scene.health() == RootKeyDisabled.code
