"""Root key monitoring: each root key of a shard decrypts its canary ciphertext in turn.

The keys of a region are divided into shards by a hash of the tenant. Each shard is one activity, so several workers
share a region. A shard keeps its keys in memory and reads the changes once per second. Slowly it also lists all keys
again: this finds what an administrator changed without the triggers, or what a failover of the database lost.

Nothing is written while nothing changes. A check is one call to the key's holder. Used, unhealthy and locking keys are
checked every second, and those of tenants with an open page, which shows the result. The others are checked rarely: no
service key of theirs is in memory, so a revoked root key cannot be used before its holder is called again. A round
waits for neither database nor holders: a hung connection delays only the read, or the root key whose check uses it.

The checks of a shard share its threads. Calls to slow holders block their threads and must not delay the others: a key
server gets few threads while it is slow, and all keys that are recorded as out of reach share a few.
"""

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import heappop, heappush

import structlog
from temporalio import activity

from activities.keys import unwrap_service_key
from activities.root_keys.check_queue import CheckQueue, QueuedCheck
from activities.runtime.audit_trail import Clock
from activities.runtime.concurrency import MAX_LISTED, ContextThreadPool, run_for_each_tenant
from activities.runtime.metrics import Metrics
from core.errors.keys import CustomerKeyError, RootKeyMismatch, RootKeyRefused, WrongContext
from core.keys.root_keys import probe_context
from core.messages.keys import WatchResult, WatchRootKeysInput
from core.scheduled import ScheduledTask
from core.tenants.locks import HEALTHY, OUT_OF_REACH, requires_lock
from database.connection.database import Database
from database.keys import EncryptedRootKeyRow
from database.platform.scheduled import PlatformQueries
from database.root_keys import MonitoredRootKey, RootKeyChanges, RootKeyRead
from kms.key_cache import RootKeyCache
from openkcm.contract.audit_events import AuditEvent, AuditName
from openkcm.errors import OpenKcmError

_TICK_SECONDS = 0.1
_READ_SECONDS = 1.0
_RECENTLY = timedelta(seconds=90)
"""Longer than a service key stays in memory: a tenant without use for this time has none there."""
_PAGE = 2000
"""Root keys that one read lists: it ends far within the deadline of a call, also for a shard with 100,000 keys."""
_RELIST_SECONDS = 10.0
"""The interval of the pages, after all keys were listed once."""
_REPEAT_SECONDS = 5.0
_DELAY_SECONDS = 1.0
"""The interval of the metric: it reads all checks that wait."""
_THREADS, _WAITING_THREADS = 64, 16
_SERVER_THREADS, _SLOW_SERVER_THREADS = 48, 8
"""Fewer than all: when one server becomes silent, the others are asked without a pause."""
_PROMPT_SECONDS = 10.0
"""A part of the monitoring counts as carried out while its reads and its due checks are at most this late."""
_UNREACHABLE = ""
"""The lane of all root keys that are recorded as out of reach."""
_DATABASE_CALLS = 8
"""Checks that use the database at a time: a new worker reads thousands of canary ciphertexts at once."""
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
class _Canary:
    """A root key's reference, its canary ciphertext and the SHA-256 of the plaintext."""

    row: EncryptedRootKeyRow
    ciphertext: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The health that a check found, None if it found none, and the time of its record if it changed."""

    health: str | None
    since: datetime | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class _Turn(QueuedCheck):
    """The state of one root key between its checks."""

    key: MonitoredRootKey
    generation: int = 0
    """The pass through all keys in which it was last found."""
    used_until: float = float("-inf")
    tried: bool = False
    recorded: float = float("-inf")
    reported: float = float("-inf")
    warned: bool = False
    canary: _Canary | None = None

    @property
    def used(self) -> bool:
        """Whether the last read found a recent use of a service, or an open page of the tenant."""
        return self.key.used_seconds > 0

    @property
    def is_troubled(self) -> bool:
        """Whether the key is unhealthy, or its tenant is locked because of it."""
        return self.key.held or self.key.health != HEALTHY

    @property
    def wanted_rank(self) -> int:
        """Return the priority: 0 when its service keys may be in memory, 1 when its state is to change, else 2."""
        if self.used and not self.key.held:
            return 0
        return 1 if self.is_troubled else 2

    @property
    def wanted_lane(self) -> str:
        return _UNREACHABLE if self.key.health in OUT_OF_REACH else self.key.endpoint


def _checks() -> CheckQueue[_Turn]:
    return CheckQueue(3, _SERVER_THREADS, _SLOW_SERVER_THREADS, {_UNREACHABLE: _WAITING_THREADS})


@dataclass(slots=True)
class _Shard:
    """The state of one shard; one attempt at a time runs a round. `lock` guards turns and checks."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    turns: dict[str, _Turn] = field(default_factory=dict)
    """By tenant."""
    troubled: set[_Turn] = field(default_factory=set)
    checks: CheckQueue[_Turn] = field(default_factory=_checks)
    # The threads outlive each run: an activity that returns a result does not wait for running checks.
    threads: ContextThreadPool = field(
        default_factory=lambda: ContextThreadPool(_THREADS, thread_name_prefix="root-keys")
    )
    busy: int = 0
    """Threads with a check."""
    reads: ContextThreadPool = field(default_factory=lambda: ContextThreadPool(1, thread_name_prefix="root-key-list"))
    reading: "tuple[RootKeyRead, float, Future[RootKeyChanges]] | None" = None
    read_at: float = float("-inf")
    position: str | None = None
    """The changes before it are known."""
    ends_of_use: list[tuple[float, str]] = field(default_factory=list)
    """A heap: when to read whether a used tenant is still used."""
    after: str = ""
    """The last tenant of the last page."""
    page_at: float = float("-inf")
    generation: int = 1
    is_listed: bool = False
    """Whether all keys were listed once."""
    delay_at: float = float("-inf")
    """When to record the delay of the checks again."""
    run: int = 0
    round: threading.Lock = field(default_factory=threading.Lock)
    complete_at: float = float("-inf")
    """When all due checks had begun and the database had been read."""
    applied_at: float = float("-inf")


class RootKeyHealthActivities:
    def __init__(  # noqa: PLR0913, PLR0917 - one for each dependency
        self,
        database: Database,
        platform: PlatformQueries,
        root_key_cache: RootKeyCache,
        pace: PollIntervals,
        clock: Clock,
        metrics: Metrics,
        stopping: threading.Event,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._platform = platform
        self._root_keys = root_key_cache
        self._pace = pace
        self._clock = clock
        self._metrics = metrics
        self._stopping = stopping
        self._monotonic = monotonic
        self._shards: dict[WatchRootKeysInput, _Shard] = {}
        self._database_calls = threading.BoundedSemaphore(_DATABASE_CALLS)

    # The loop checks for cancellation itself: an exception thrown into it could leave a check unfinished.
    @activity.defn(name="monitor-root-keys", no_thread_cancel_exception=True)
    def watch_root_keys(self, watch: WatchRootKeysInput) -> WatchResult:
        """Check root keys until tenants need a status change, and return these; empty when cancelled."""
        shard = self._shards.setdefault(watch, _Shard())
        shard.run += 1
        mine = shard.run  # a timed-out attempt ends when the next one starts
        try:
            while mine == shard.run and not (activity.is_cancelled() or self._stopping.is_set()):
                # A timed-out attempt may still run a round.
                if not shard.round.acquire(timeout=_TICK_SECONDS):
                    continue
                try:
                    if self._read(watch, shard):
                        # No heartbeat without a new read: without the database no result can be recorded, and a worker
                        # that reaches it must continue the monitoring.
                        activity.heartbeat(len(shard.turns))
                        shard.applied_at = self._monotonic()
                    self._begin(shard, mine)
                    self._record_delay(watch, shard)
                    concerned = self._concerned(shard)
                finally:
                    shard.round.release()
                if concerned:
                    return WatchResult(tenants=concerned)
                time.sleep(_TICK_SECONDS)
            return WatchResult(tenants=())
        finally:
            if mine == shard.run:
                shard.run += 1  # another worker may continue: this one starts no more checks
                shard.delay_at = shard.complete_at = float("-inf")
                self._metrics.record_root_key_delay(watch, 0.0)

    @activity.defn(name="purge-unused-credentials")
    def forget_untaken_credentials(self) -> None:
        """Erase credentials of requests that no workflow took: rejected ones, or made while Temporal was down."""
        due = self._platform.untaken_credentials(MAX_LISTED)
        run_for_each_tenant(self._database, ScheduledTask.UNUSED_CREDENTIALS, due, self._erase_untaken)

    def _erase_untaken(self, tenant_id: str) -> None:
        with self._database.tenant_tx(tenant_id) as tx:
            tx.root_keys.forget_untaken()

    def _read(self, watch: WatchRootKeysInput, shard: _Shard) -> bool:
        """Request the changes, or apply those of a finished read; return whether some were applied.

        While the database is down the known root keys are still checked.
        """
        now = self._monotonic()
        if shard.reading is None:
            if now >= shard.read_at:
                shard.read_at = now + _READ_SECONDS
                read = self._next_read(watch, shard, now)
                shard.reading = (read, now, shard.reads.submit(self._read_changes, read))
            return False
        read, began, done = shard.reading
        if not done.done():
            return False
        shard.reading = None
        try:
            changes = done.result()
        except OpenKcmError as failed:
            log.warning("root keys not read", region=watch.region, shard=watch.shard, code=failed.code)
            for tenant_id in read.tenants:
                heappush(shard.ends_of_use, (now, tenant_id))
            return False
        with shard.lock:
            for tenant_id, key in changes.found.items():
                self._update(shard, tenant_id, key, began)
            self._end_read(shard, read, changes)
        if not shard.is_listed:
            shard.read_at = now
        return True

    def _read_changes(self, read: RootKeyRead) -> RootKeyChanges:
        return self._platform.monitored_root_keys(read, call_seconds=_DATABASE_SECONDS)

    def _next_read(self, watch: WatchRootKeysInput, shard: _Shard, now: float) -> RootKeyRead:
        with_page = not shard.is_listed or now >= shard.page_at
        if with_page:
            shard.page_at = now + _RELIST_SECONDS
        ended: dict[str, None] = {}
        while shard.ends_of_use and shard.ends_of_use[0][0] <= now and len(ended) < _PAGE:
            _, tenant_id = heappop(shard.ends_of_use)
            turn = shard.turns.get(tenant_id)
            if turn is not None and turn.used and turn.used_until <= now:
                ended[tenant_id] = None
        return RootKeyRead(
            region=watch.region,
            shard=watch.shard,
            shards=watch.shards,
            lately=_RECENTLY,
            since=shard.position,
            tenants=tuple(ended),
            after=shard.after,
            limit=_PAGE if with_page else 0,
        )

    def _update(self, shard: _Shard, tenant_id: str, key: MonitoredRootKey | None, began: float) -> None:
        """Apply one row of a read that began at a monotonic time."""
        turn = shard.turns.get(tenant_id)
        if turn is not None and (key is None or key.root_key_id != turn.key.root_key_id):
            self._drop(shard, turn)
            turn = None
        if key is None:
            return
        if turn is None:
            turn = shard.turns[tenant_id] = _Turn(key=key)
            due = began
        else:
            due = min(turn.due, began) if key.used_seconds > 0 and not turn.used else turn.due
            if turn.recorded >= began:  # the read may be older than the recorded health
                key = key._replace(health=turn.key.health, health_since=turn.key.health_since)
            turn.key = key
        turn.generation = shard.generation
        if turn.used:
            turn.used_until = began + key.used_seconds
            heappush(shard.ends_of_use, (turn.used_until, tenant_id))
        self._schedule(shard, turn, due)

    def _end_read(self, shard: _Shard, read: RootKeyRead, changes: RootKeyChanges) -> None:
        """Continue behind the page, or start again after the last one, without the keys that no page had."""
        if read.since is not None and int(changes.until) < int(read.since):
            # A failover lost transactions: the numbers of the later ones are used again.
            log.warning("root keys are listed again", region=read.region, shard=read.shard)
            shard.is_listed, shard.after = False, ""
            shard.generation += 1
        elif read.limit:
            if len(changes.listed) == read.limit:
                shard.after = changes.listed[-1]
            else:
                for turn in [turn for turn in shard.turns.values() if turn.generation != shard.generation]:
                    self._drop(shard, turn)
                shard.is_listed, shard.after = True, ""
                shard.generation += 1
        shard.position = changes.until

    @staticmethod
    def _drop(shard: _Shard, turn: _Turn) -> None:
        del shard.turns[turn.key.tenant_id]
        shard.troubled.discard(turn)
        shard.checks.cancel(turn)

    @staticmethod
    def _schedule(shard: _Shard, turn: _Turn, due: float) -> None:
        if turn.is_troubled:
            shard.troubled.add(turn)
        else:
            shard.troubled.discard(turn)
        wanted = (due, turn.wanted_rank, turn.wanted_lane)
        if wanted != (turn.due, turn.rank, turn.lane) or turn.number == 0:
            shard.checks.schedule(turn, *wanted)

    def _begin(self, shard: _Shard, run: int) -> None:
        """Start the due checks for which there are threads; a thread continues while there are due checks."""
        with shard.lock:
            while shard.busy < _THREADS:
                turn = shard.checks.take(self._monotonic())
                if turn is None:
                    return
                shard.busy += 1
                shard.threads.submit(self._run_checks, shard, run, turn)

    def _record_delay(self, watch: WatchRootKeysInput, shard: _Shard) -> None:
        now = self._monotonic()
        if now < shard.delay_at:
            return
        shard.delay_at = now + _DELAY_SECONDS
        with shard.lock:
            delay = shard.checks.delay(now)
        self._metrics.record_root_key_delay(watch, delay)
        if shard.is_listed and delay < _PROMPT_SECONDS and now - shard.applied_at < _PROMPT_SECONDS:
            shard.complete_at = now

    def watches(self) -> tuple[WatchRootKeysInput, ...]:
        """Return the parts of the monitoring that this worker carries out without delay."""
        now = self._monotonic()
        return tuple(watch for watch, shard in list(self._shards.items()) if now - shard.complete_at < _PROMPT_SECONDS)

    def _run_checks(self, shard: _Shard, run: int, first: _Turn) -> None:
        turn: _Turn | None = first
        while turn is not None:
            outcome = self._check_and_record(turn)
            with shard.lock:
                now = self._monotonic()
                self._finish(shard, turn, outcome, now)
                turn = shard.checks.take(now) if run == shard.run else None
                if turn is None:
                    shard.busy -= 1

    def _finish(self, shard: _Shard, turn: _Turn, outcome: _Outcome, now: float) -> None:
        shard.checks.finish(turn, now)
        due, turn.tried = now + self._pause(turn, outcome.health), True
        if outcome.health is not None and outcome.since is not None:
            turn.key = turn.key._replace(health=outcome.health, health_since=outcome.since)
            turn.recorded = now
            turn.reported = float("-inf")
            turn.warned = turn.warned and outcome.health != HEALTHY
        if shard.turns.get(turn.key.tenant_id) is turn:
            self._schedule(shard, turn, due)

    def _pause(self, turn: _Turn, health: str | None) -> float:
        if turn.used or turn.key.held or health != HEALTHY:
            return self._pace.used
        # All are checked at the start; afterwards the random id spreads the checks over the interval.
        return self._pace.idle if turn.tried else self._pace.idle * int(turn.key.root_key_id[:8], 16) / 2**32

    def _concerned(self, shard: _Shard) -> tuple[str, ...]:
        """Return tenants whose lock does not match their root key's health, and those to be warned.

        Unreported tenants come first, so that repeated ones cannot displace them.
        """
        now, present = self._monotonic(), self._clock()
        found: list[tuple[_Turn, bool]] = []
        with shard.lock:
            for turn in shard.troubled:
                key = turn.key
                if now < turn.reported + _REPEAT_SECONDS:
                    continue
                due = requires_lock(key.health, (present - key.health_since).total_seconds(), self._pace.grace)
                warn = key.health != HEALTHY and not due and not turn.warned
                if due != key.held or warn:
                    found.append((turn, warn))
            found.sort(key=lambda one: one[0].reported)
            for turn, warn in found[:_MAX_REPORTED]:
                turn.reported, turn.warned = now, turn.warned or warn
            return tuple(turn.key.tenant_id for turn, _ in found[:_MAX_REPORTED])

    def _check_and_record(self, turn: _Turn) -> _Outcome:
        key = turn.key
        try:
            health = self._determine_health(turn)
            if health is None or health == key.health:
                return _Outcome(health)
            # An unrecorded result is found again by the next check.
            return _Outcome(health, self._record(key, health))
        except Exception:  # one tenant's failure must not end the monitoring of all
            log.exception("root key not checked", tenant_id=key.tenant_id)
            return _Outcome(None)

    def _determine_health(self, turn: _Turn) -> str | None:
        """Return the health of a root key; None when a failure of the platform prevents the check."""
        health = self._check(turn)
        if health in {HEALTHY, turn.key.health}:
            return health
        # A rotation re-wraps canary ciphertext and credentials, so the cached ones may be outdated: read them again.
        kept, turn.canary = turn.canary, None
        try:
            return health if kept is None or kept == self._canary(turn) else self._check(turn)
        except OpenKcmError:
            return health

    def _check(self, turn: _Turn) -> str | None:
        tenant_id, root_key_id = turn.key.tenant_id, turn.key.root_key_id
        try:
            canary = self._canary(turn)
            root_key = unwrap_service_key(self._root_keys, tenant_id, canary.row)
            try:
                plain = root_key.unwrap(probe_context(tenant_id, root_key_id), canary.ciphertext)
            except WrongContext:
                return RootKeyMismatch.code
            return HEALTHY if hashlib.sha256(plain).digest() == canary.digest else RootKeyMismatch.code
        except CustomerKeyError as failed:
            return failed.code
        except OpenKcmError as failed:
            log.warning("root key not checked", tenant_id=tenant_id, code=failed.code)
        return None

    def _canary(self, turn: _Turn) -> _Canary:
        if turn.canary is None:
            key = turn.key
            with self._database_calls, self._database.tenant_tx(key.tenant_id, call_seconds=_DATABASE_SECONDS) as tx:
                row, probe = tx.root_keys.sealed(key.root_key_id), tx.root_keys.probe(key.root_key_id)
            if row is None or probe is None:
                raise RootKeyRefused("the root key has no canary ciphertext", "change to this root key again")
            turn.canary = _Canary(row, *probe)
        return turn.canary

    def _record(self, key: MonitoredRootKey, health: str) -> datetime | None:
        """Record the new health of a root key and return the time; None if it was not recorded."""
        well = health == HEALTHY
        try:
            with self._database_calls, self._database.tenant_tx(key.tenant_id, call_seconds=_DATABASE_SECONDS) as tx:
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
        log.warning("root key health changed", tenant_id=key.tenant_id, before=key.health, after=health)
        return since
