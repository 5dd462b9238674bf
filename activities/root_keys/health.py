"""Root key monitoring: each root key of a region decrypts its canary ciphertext in turn.

Nothing is written while nothing changes. One database query per second lists the root keys, and a check is one call to
the key's holder. Used, unhealthy and locking keys are checked every second, the others rarely: no service key of theirs
is in memory, so a revoked root key cannot be used before its holder is called again.
There are two thread pools, because calls to unreachable holders block their threads and must not delay the others. Each
pool gets only a short queue: a used key is checked soon even among thousands of due keys, and a round ends soon even
when all checks fail at once.
"""

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import timedelta

import structlog
from temporalio import activity

from activities.audit_trail import Clock
from activities.concurrency import ContextThreadPool
from activities.keys import unwrap_service_key
from core.errors.keys import CustomerKeyError, RootKeyMismatch, RootKeyRefused, WrongContext
from core.keys.root_keys import probe_context
from core.messages.keys import WatchResult, WatchRootKeysInput
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
_MAX_REPORTED = 100
"""Tenants in one result; the result and its signals stay small when all keys of a region fail."""
_BATCH = 200

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PollIntervals:
    """The intervals between checks and the grace time of unreachable root keys, in seconds."""

    used: float
    idle: float
    grace: float


@dataclass(slots=True, eq=False)
class _Turn:
    """The state of one root key between its checks."""

    key: MonitoredRootKey
    due: float = 0.0
    running: "Future[str | None] | None" = None
    tried: bool = False
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
            activity.heartbeat(len(region.turns))
            # A timed-out attempt may still run a slow round.
            if not region.round.acquire(timeout=_TICK_SECONDS):
                continue
            try:
                concerned = self._round(watch.region, region)
            finally:
                region.round.release()
            if concerned:
                return WatchResult(tenants=concerned)
            time.sleep(_TICK_SECONDS)
        return WatchResult(tenants=())

    @activity.defn(name="purge-unused-credentials")
    def forget_untaken_credentials(self) -> None:
        """Erase credentials of requests that no workflow took: rejected ones, or made while Temporal was down."""
        for tenant_id in self._platform.untaken_credentials(_BATCH):
            with self._database.tenant_tx(tenant_id) as tx:
                tx.root_keys.forget_untaken()
            activity.heartbeat(tenant_id)

    def _round(self, name: str, region: _Region) -> tuple[str, ...]:
        self._list(name, region)
        self._begin(region)
        self._collect(region)
        return self._concerned(region)

    def _list(self, name: str, region: _Region) -> None:
        """List the root keys; while the database is down the known ones are still checked."""
        now = self._monotonic()
        if now < region.listed + _LIST_SECONDS:
            return
        region.listed = now
        try:
            found = self._platform.watched_root_keys(name, _RECENTLY)
        except OpenKcmError as failed:
            log.warning("root keys not listed", region=name, code=failed.code)
            return
        known, region.turns = region.turns, {}
        for key in found:
            place = (key.tenant_id, key.root_key_id)
            turn = known.get(place) or _Turn(key)
            if key.used and not turn.key.used:
                turn.due = min(turn.due, now)
            turn.key = key
            region.turns[place] = turn
        for gone in self._probes.keys() - region.turns.keys():
            if gone in known:
                del self._probes[gone]

    def _begin(self, region: _Region) -> None:
        """Submit the due checks that the pools have room for, by rank."""
        now = self._monotonic()
        due = [turn for turn in region.turns.values() if turn.running is None and now >= turn.due]
        due.sort(key=lambda turn: (turn.rank, turn.due))
        for turn in due:
            pool = region.waiting if turn.key.health in OUT_OF_REACH else region.well
            if len(pool.running) < pool.most:
                turn.running = pool.threads.submit(self._determine_health, turn.key)
                pool.running.append(turn)

    def _collect(self, region: _Region) -> None:
        found: list[tuple[_Turn, str]] = []
        now = self._monotonic()
        for pool in (region.well, region.waiting):
            begun, pool.running = pool.running, []
            for turn in begun:
                if turn.running is None or not turn.running.done():
                    pool.running.append(turn)
                    continue
                health, turn.running = turn.running.result(), None
                turn.due, turn.tried = now + self._pause(turn, health), True
                if health is not None and health != turn.key.health:
                    found.append((turn, health))
        # Last, because it may fail: an unreported result is found again.
        for turn, health in found:
            if region.turns.get((turn.key.tenant_id, turn.key.root_key_id)) is turn:
                self._report(turn, health)

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
            with self._database.tenant_tx(key.tenant_id) as tx:
                row, probe = tx.root_keys.sealed(key.root_key_id), tx.root_keys.probe(key.root_key_id)
            if row is None or probe is None:
                raise RootKeyRefused("the root key has no canary ciphertext", "change to this root key again")
            kept = self._probes[place] = (row, *probe)
        return kept

    def _report(self, turn: _Turn, health: str) -> None:
        """Record the new health of a root key."""
        key = turn.key
        well = health == HEALTHY
        try:
            with self._database.tenant_tx(key.tenant_id) as tx:
                held = tx.root_keys.held(key.root_key_id)
                if held is None or not tx.root_keys.report(key.root_key_id, health):
                    return
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
            return
        log.warning("root key health changed", tenant_id=key.tenant_id, before=key.health, after=health)
        turn.key = replace(key, health=health, health_since=since)
        turn.reported, turn.warned = float("-inf"), turn.warned and not well
