"""Root key monitoring: each root key of a region decrypts its canary ciphertext in turn.

Nothing is written while nothing changes. One database query per second lists the root keys, and a check is one call to
the key's holder. Used, unhealthy and locking keys are checked every second, the others rarely: no service key of theirs
is in memory, so a revoked root key cannot be used before its holder is called again. A round waits for neither database
nor holders: a hung connection delays only the list, or the root key whose check uses it.
There are two thread pools, because calls to unreachable holders block their threads and must not delay the others. Each
pool gets only a short queue: a used key is checked soon even among thousands of due keys, and a round ends soon even
when all checks fail at once.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog
from temporalio import activity

from activities.audit_trail import Clock
from activities.concurrency import MAX_LISTED, ContextThreadPool, run_for_each_tenant
from activities.keys import unwrap_service_key
from core.errors.keys import CustomerKeyError, RootKeyMismatch, RootKeyRefused, WrongContext
from core.keys.root_keys import probe_context
from core.messages.keys import WatchResult, WatchRootKeysInput
from core.scheduled import ScheduledTask
from core.tenants.locks import HEALTHY, OUT_OF_REACH, requires_lock
from database.connection.database import Database
from database.keys import EncryptedRootKeyRow
from database.platform.scheduled import PlatformQueries
from database.root_keys import MonitoredRootKey
from kms.key_cache import RootKeyCache
from openkcm.contract.audit_events import AuditEvent, AuditName
from openkcm.errors import OpenKcmError

_TICK_SECONDS = 0.1
_LIST_SECONDS = 1.0
_RECENTLY = timedelta(seconds=90)
"""Longer than a service key stays in memory: a tenant without use for this time has none there."""
_REPEAT_SECONDS = 5.0
_THREADS, _WAITING_THREADS = 24, 8
_QUEUED = 4
"""Checks submitted per thread: enough to keep it busy for a tick, few enough to avoid a queue."""
_DATABASE_SECONDS = 2.0
"""The deadline of a call to the database: monitoring continues soon after one without a response."""
_MAX_REPORTED = 100
"""Tenants in one result; the result and its signals stay small when all keys of a region fail."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PollIntervals:
    """The intervals between checks and the grace time of unreachable root keys, in seconds."""

    used: float
    idle: float
    grace: float


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The health that a check found, None if it found none, and the time of its record if it changed."""

    health: str | None
    since: datetime | None = None


@dataclass(slots=True, eq=False)
class _Turn:
    """The state of one root key between its checks."""

    key: MonitoredRootKey
    due: float = 0.0
    running: "Future[_Outcome] | None" = None
    tried: bool = False
    recorded: float = float("-inf")
    reported: float = float("-inf")
    warned: bool = False

    @property
    def rank(self) -> int:
        """Return the priority: 0 when its service keys may be in memory, 1 when its state is to change, else 2."""
        if self.key.used and not self.key.held:
            return 0
        return 1 if self.key.held or self.key.health != HEALTHY else 2


@dataclass(slots=True)
class _Pool:
    """Threads, and the checks submitted to them."""

    threads: ContextThreadPool
    most: int
    running: list[_Turn] = field(default_factory=list)


@dataclass(slots=True)
class _Region:
    """The state of one region; one attempt at a time runs a round."""

    well: _Pool
    waiting: _Pool
    turns: dict[tuple[str, str], _Turn] = field(default_factory=dict)
    lists: ContextThreadPool = field(default_factory=lambda: ContextThreadPool(1, thread_name_prefix="watch-list"))
    listing: "Future[Sequence[MonitoredRootKey]] | None" = None
    listed: float = float("-inf")
    run: int = 0
    round: threading.Lock = field(default_factory=threading.Lock)


class RootKeyHealthActivities:
    def __init__(  # noqa: PLR0913, PLR0917 - one for each dependency
        self,
        database: Database,
        platform: PlatformQueries,
        root_key_cache: RootKeyCache,
        pace: PollIntervals,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._platform = platform
        self._root_keys = root_key_cache
        self._pace = pace
        self._clock = clock
        self._monotonic = monotonic
        self._regions: dict[str, _Region] = {}
        # The pools outlive each run: an activity that returns a result does not wait for running checks.
        self._well = ContextThreadPool(_THREADS, thread_name_prefix="watch")
        self._waiting = ContextThreadPool(_WAITING_THREADS, thread_name_prefix="watch-slow")
        self._probes: dict[tuple[str, str], tuple[EncryptedRootKeyRow, bytes, bytes]] = {}

    # The loop checks for cancellation itself: an exception thrown into it could leave a check unfinished.
    @activity.defn(name="monitor-root-keys", no_thread_cancel_exception=True)
    def watch_root_keys(self, watch: WatchRootKeysInput) -> WatchResult:
        """Check root keys until tenants need a status change, and return these; empty when cancelled."""
        region = self._regions.setdefault(
            watch.region,
            _Region(_Pool(self._well, _QUEUED * _THREADS), _Pool(self._waiting, _QUEUED * _WAITING_THREADS)),
        )
        region.run += 1
        mine = region.run  # a timed-out attempt ends when the next one starts
        while mine == region.run and not (activity.is_cancelled() or activity.is_worker_shutdown()):
            # A timed-out attempt may still run a round.
            if not region.round.acquire(timeout=_TICK_SECONDS):
                continue
            try:
                if self._list(watch.region, region):
                    # No heartbeat without a new list: without the database no result can be recorded, and a worker that
                    # reaches it must continue the monitoring.
                    activity.heartbeat(len(region.turns))
                self._begin(region)
                self._collect(region)
                concerned = self._concerned(region)
            finally:
                region.round.release()
            if concerned:
                return WatchResult(tenants=concerned)
            time.sleep(_TICK_SECONDS)
        return WatchResult(tenants=())

    @activity.defn(name="purge-unused-credentials")
    def forget_untaken_credentials(self) -> None:
        """Erase credentials of requests that no workflow took: rejected ones, or made while Temporal was down."""
        due = self._platform.untaken_credentials(MAX_LISTED)
        run_for_each_tenant(self._database, ScheduledTask.UNUSED_CREDENTIALS, due, self._erase_untaken)

    def _erase_untaken(self, tenant_id: str) -> None:
        with self._database.tenant_tx(tenant_id) as tx:
            tx.root_keys.forget_untaken()

    def _list(self, name: str, region: _Region) -> bool:
        """Request a list of the root keys, or take a finished one; return whether a new one was taken.

        While the database is down the known root keys are still checked.
        """
        now = self._monotonic()
        if region.listing is None:
            if now >= region.listed + _LIST_SECONDS:
                region.listed = now
                region.listing = region.lists.submit(self._read_list, name)
            return False
        if not region.listing.done():
            return False
        done, region.listing = region.listing, None
        try:
            found = done.result()
        except OpenKcmError as failed:
            log.warning("root keys not listed", region=name, code=failed.code)
            return False
        known, region.turns = region.turns, {}
        for key in found:
            place = (key.tenant_id, key.root_key_id)
            turn = known.get(place) or _Turn(key)
            if key.used and not turn.key.used:
                turn.due = min(turn.due, now)
            if turn.recorded < region.listed:  # otherwise the list may be older than the recorded health
                turn.key = key
            region.turns[place] = turn
        for gone in self._probes.keys() - region.turns.keys():
            if gone in known:
                del self._probes[gone]
        return True

    def _read_list(self, name: str) -> Sequence[MonitoredRootKey]:
        return self._platform.watched_root_keys(name, _RECENTLY, call_seconds=_DATABASE_SECONDS)

    def _begin(self, region: _Region) -> None:
        """Submit the due checks that the pools have room for, by rank."""
        now = self._monotonic()
        due = [turn for turn in region.turns.values() if turn.running is None and now >= turn.due]
        due.sort(key=lambda turn: (turn.rank, turn.due))
        for turn in due:
            pool = region.waiting if turn.key.health in OUT_OF_REACH else region.well
            if len(pool.running) < pool.most:
                turn.running = pool.threads.submit(self._check_and_record, turn.key)
                pool.running.append(turn)

    def _collect(self, region: _Region) -> None:
        now = self._monotonic()
        for pool in (region.well, region.waiting):
            begun, pool.running = pool.running, []
            for turn in begun:
                if turn.running is None or not turn.running.done():
                    pool.running.append(turn)
                    continue
                outcome, turn.running = turn.running.result(), None
                turn.due, turn.tried = now + self._pause(turn, outcome.health), True
                if outcome.health is not None and outcome.since is not None:
                    turn.key = replace(turn.key, health=outcome.health, health_since=outcome.since)
                    turn.recorded = now
                    turn.reported = float("-inf")
                    turn.warned = turn.warned and outcome.health != HEALTHY

    def _pause(self, turn: _Turn, health: str | None) -> float:
        if turn.key.used or turn.key.held or health != HEALTHY:
            return self._pace.used
        # All are checked at the start; afterwards the random id spreads the checks over the interval.
        return self._pace.idle if turn.tried else self._pace.idle * int(turn.key.root_key_id[:8], 16) / 2**32

    def _concerned(self, region: _Region) -> tuple[str, ...]:
        """Return tenants whose lock does not match their root key's health, and those to be warned.

        Unreported tenants come first, so that repeated ones cannot displace them.
        """
        now, present = self._monotonic(), self._clock()
        found: list[tuple[_Turn, bool]] = []
        for turn in region.turns.values():
            key = turn.key
            if (key.health == HEALTHY and not key.held) or now < turn.reported + _REPEAT_SECONDS:
                continue
            due = requires_lock(key.health, (present - key.health_since).total_seconds(), self._pace.grace)
            warn = key.health != HEALTHY and not due and not turn.warned
            if due != key.held or warn:
                found.append((turn, warn))
        found.sort(key=lambda one: one[0].reported)
        for turn, warn in found[:_MAX_REPORTED]:
            turn.reported, turn.warned = now, turn.warned or warn
        return tuple(turn.key.tenant_id for turn, _ in found[:_MAX_REPORTED])

    def _check_and_record(self, key: MonitoredRootKey) -> _Outcome:
        health = self._determine_health(key)
        if health is None or health == key.health:
            return _Outcome(health)
        # An unrecorded result is found again by the next check.
        return _Outcome(health, self._record(key, health))

    def _determine_health(self, key: MonitoredRootKey) -> str | None:
        """Return the health of a root key; None when a failure of the platform prevents the check."""
        health = self._check(key)
        if health in {HEALTHY, key.health}:
            return health
        # A rotation re-wraps canary ciphertext and credentials, so the cached ones may be outdated: read them again.
        kept = self._probes.pop((key.tenant_id, key.root_key_id), None)
        try:
            return health if kept is None or kept == self._probe(key) else self._check(key)
        except OpenKcmError:
            return health

    def _check(self, key: MonitoredRootKey) -> str | None:
        try:
            row, probe, digest = self._probe(key)
            root_key = unwrap_service_key(self._root_keys, key.tenant_id, row)
            try:
                plain = root_key.unwrap(probe_context(key.tenant_id, key.root_key_id), probe)
            except WrongContext:
                return RootKeyMismatch.code
            return HEALTHY if hashlib.sha256(plain).digest() == digest else RootKeyMismatch.code
        except CustomerKeyError as failed:
            return failed.code
        except OpenKcmError as failed:
            log.warning("root key not checked", tenant_id=key.tenant_id, code=failed.code)
        except Exception:  # one tenant's failure must not end the monitoring of all
            log.exception("root key not checked", tenant_id=key.tenant_id)
        return None

    def _probe(self, key: MonitoredRootKey) -> tuple[EncryptedRootKeyRow, bytes, bytes]:
        place = (key.tenant_id, key.root_key_id)
        kept = self._probes.get(place)
        if kept is None:
            with self._database.tenant_tx(key.tenant_id, call_seconds=_DATABASE_SECONDS) as tx:
                row, probe = tx.root_keys.sealed(key.root_key_id), tx.root_keys.probe(key.root_key_id)
            if row is None or probe is None:
                raise RootKeyRefused("the root key has no canary ciphertext", "change to this root key again")
            kept = self._probes[place] = (row, *probe)
        return kept

    def _record(self, key: MonitoredRootKey, health: str) -> datetime | None:
        """Record the new health of a root key and return the time; None if it was not recorded."""
        well = health == HEALTHY
        try:
            with self._database.tenant_tx(key.tenant_id, call_seconds=_DATABASE_SECONDS) as tx:
                held = tx.root_keys.held(key.root_key_id)
                if held is None or not tx.root_keys.report(key.root_key_id, health):
                    return None
                since = self._clock()
                tx.audit.append(
                    AuditEvent(
                        event_id=f"root-key/{key.root_key_id}/{health}/{since.isoformat()}",
                        name=AuditName.ROOT_KEY_AVAILABLE if well else AuditName.ROOT_KEY_UNAVAILABLE,
                        actor_kind="system",
                        actor="worker",
                        subject=held.name,
                        outcome="success" if well else "failure",
                        correlation_id=activity.info().workflow_id or "",
                        details={"before": key.health, "after": health},
                    )
                )
        except OpenKcmError as failed:
            log.warning("root key health not recorded", tenant_id=key.tenant_id, code=failed.code)
            return None
        except Exception:  # as in _check
            log.exception("root key health not recorded", tenant_id=key.tenant_id)
            return None
        log.warning("root key health changed", tenant_id=key.tenant_id, before=key.health, after=health)
        return since
