"""The watch over a region's root keys: each is tried in its turn by opening a known value with it.

Nothing is written while nothing changes: one question to the database a second says which root keys there are, and a
try is one call to whoever holds the key. Who is used, or not well, is tried every second, the others rarely: nothing of
theirs is in memory, so a key that was taken away cannot be used until its holder is asked again anyway.
Two pools of threads: those that are out of reach make their callers wait, and must not make the others wait. Neither
is given more than it gets done in a moment: among thousands that are due, one that is used is never far from its turn,
and a round ends soon also when all of them have failed at once.
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
_LOOK_SECONDS = 1.0
_LATELY = timedelta(seconds=90)
"""Longer than a service key stays in memory: whoever was not used for so long has none there."""
_TELL_AGAIN_SECONDS = 5.0
_THREADS, _WAITING_THREADS = 24, 8
_AHEAD = 4
"""Tries begun for each thread: enough to keep it busy for a tick, few enough to be no queue."""
_TOLD_AT_ONCE = 100
"""Tenants named in one result; it and the signals that follow stay small when a whole region's keys have failed."""
_BATCH = 200

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PollIntervals:
    """How often root keys are tried and how long they may be out of reach, seconds."""

    used: float
    idle: float
    grace: float


@dataclass(slots=True, eq=False)
class _Turn:
    """What is remembered of one root key between its tries."""

    key: MonitoredRootKey
    due: float = 0.0
    running: "Future[str | None] | None" = None
    tried: bool = False
    told: float = float("-inf")
    warned: bool = False

    @property
    def rank(self) -> int:
        """Whose turn comes first: something of it may be in memory; something is to change; neither."""
        if self.key.used and not self.key.held:
            return 0
        return 1 if self.key.held or self.key.health != HEALTHY else 2


@dataclass(slots=True)
class _Pool:
    """Threads, and the tries that were given to them."""

    threads: ContextThreadPool
    most: int
    running: list[_Turn] = field(default_factory=list)


@dataclass(slots=True)
class _Region:
    """What is known of one region; one attempt at a time goes its round."""

    well: _Pool
    waiting: _Pool
    turns: dict[tuple[str, str], _Turn] = field(default_factory=dict)
    looked: float = float("-inf")
    run: int = 0
    round: threading.Lock = field(default_factory=threading.Lock)


class RootKeyHealthActivities:
    def __init__(  # noqa: PLR0913, PLR0917 - rows, questions, holders of keys, pace and two clocks
        self,
        database: Database,
        platform: PlatformQueries,
        shelf: RootKeyCache,
        pace: PollIntervals,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._platform = platform
        self._shelf = shelf
        self._pace = pace
        self._clock = clock
        self._monotonic = monotonic
        self._regions: dict[str, _Region] = {}
        # They outlive each run: whoever has news to tell does not wait for tries that are under way.
        self._well = ContextThreadPool(_THREADS, thread_name_prefix="watch")
        self._waiting = ContextThreadPool(_WAITING_THREADS, thread_name_prefix="watch-slow")
        self._probes: dict[tuple[str, str], tuple[EncryptedRootKeyRow, bytes, bytes]] = {}

    # Told to stop it stops by itself: an exception thrown into it anywhere could leave a try without its end.
    @activity.defn(name="watch-root-keys", no_thread_cancel_exception=True)
    def watch_root_keys(self, watch: WatchRootKeysInput) -> WatchResult:
        """Try root keys until some tenant's standing must follow its own, and say which; empty when told to stop."""
        region = self._regions.setdefault(
            watch.region,
            _Region(_Pool(self._well, _AHEAD * _THREADS), _Pool(self._waiting, _AHEAD * _WAITING_THREADS)),
        )
        region.run += 1
        mine = region.run  # an attempt that Temporal has given up ends when the next one begins
        while mine == region.run and not (activity.is_cancelled() or activity.is_worker_shutdown()):
            activity.heartbeat(len(region.turns))
            # Who was given up may be in the middle of a round that takes its time.
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

    @activity.defn(name="forget-untaken-credentials")
    def forget_untaken_credentials(self) -> None:
        """Empty sealed credentials of requests that no workflow took up: refused ones, or while Temporal was down."""
        for tenant_id in self._platform.untaken_credentials(_BATCH):
            with self._database.tenant_tx(tenant_id) as tx:
                tx.root_keys.forget_untaken()
            activity.heartbeat(tenant_id)

    def _round(self, name: str, region: _Region) -> tuple[str, ...]:
        self._look(name, region)
        self._begin(region)
        self._collect(region)
        return self._concerned(region)

    def _look(self, name: str, region: _Region) -> None:
        """Ask which root keys there are; while the database is down those that were there are tried on."""
        now = self._monotonic()
        if now < region.looked + _LOOK_SECONDS:
            return
        region.looked = now
        try:
            found = self._platform.watched_root_keys(name, _LATELY)
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
        """Begin what is due and there is a place for, who is used before the others."""
        now = self._monotonic()
        due = [turn for turn in region.turns.values() if turn.running is None and now >= turn.due]
        due.sort(key=lambda turn: (turn.rank, turn.due))
        for turn in due:
            pool = region.waiting if turn.key.health in OUT_OF_REACH else region.well
            if len(pool.running) < pool.most:
                turn.running = pool.threads.submit(self._try, turn.key)
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
        # Last, for it may fail: what is not reported is found out again.
        for turn, health in found:
            if region.turns.get((turn.key.tenant_id, turn.key.root_key_id)) is turn:
                self._report(turn, health)

    def _pause(self, turn: _Turn, health: str | None) -> float:
        if turn.key.used or turn.key.held or health != HEALTHY:
            return self._pace.used
        # All are tried at once when the watch begins; from then on each at a time of its own, told by its random id.
        return self._pace.idle if turn.tried else self._pace.idle * int(turn.key.root_key_id[:8], 16) / 2**32

    def _concerned(self, region: _Region) -> tuple[str, ...]:
        """Return tenants whose standing is not what their root key asks for, and those to be warned.

        Who was not told yet comes first: those told before, whose turn has not come, must not keep out the others.
        """
        now, present = self._monotonic(), self._clock()
        found: list[tuple[_Turn, bool]] = []
        for turn in region.turns.values():
            key = turn.key
            if (key.health == HEALTHY and not key.held) or now < turn.told + _TELL_AGAIN_SECONDS:
                continue
            due = requires_lock(key.health, (present - key.health_since).total_seconds(), self._pace.grace)
            warn = key.health != HEALTHY and not due and not turn.warned
            if due != key.held or warn:
                found.append((turn, warn))
        found.sort(key=lambda one: one[0].told)
        for turn, warn in found[:_TOLD_AT_ONCE]:
            turn.told, turn.warned = now, turn.warned or warn
        return tuple(turn.key.tenant_id for turn, _ in found[:_TOLD_AT_ONCE])

    def _try(self, key: MonitoredRootKey) -> str | None:
        """Return how a root key does; None when that could not be found out for a reason of ours."""
        health = self._tried(key)
        if health in {HEALTHY, key.health}:
            return health
        # Before it is called news: a rotation wraps probe and credentials anew, and what was kept may be outdated.
        kept = self._probes.pop((key.tenant_id, key.root_key_id), None)
        try:
            return health if kept is None or kept == self._probe(key) else self._tried(key)
        except OpenKcmError:
            return health

    def _tried(self, key: MonitoredRootKey) -> str | None:
        try:
            row, probe, digest = self._probe(key)
            root_key = unwrap_service_key(self._shelf, key.tenant_id, row)
            try:
                plain = root_key.unwrap(probe_context(key.tenant_id, key.root_key_id), probe)
            except WrongContext:
                return RootKeyMismatch.code
            return HEALTHY if hashlib.sha256(plain).digest() == digest else RootKeyMismatch.code
        except CustomerKeyError as failed:
            return failed.code
        except OpenKcmError as failed:
            log.warning("root key not tried", tenant_id=key.tenant_id, code=failed.code)
        except Exception:  # one tenant's trouble must not end the watch over all
            log.exception("root key not tried", tenant_id=key.tenant_id)
        return None

    def _probe(self, key: MonitoredRootKey) -> tuple[EncryptedRootKeyRow, bytes, bytes]:
        place = (key.tenant_id, key.root_key_id)
        kept = self._probes.get(place)
        if kept is None:
            with self._database.tenant_tx(key.tenant_id) as tx:
                row, probe = tx.root_keys.sealed(key.root_key_id), tx.root_keys.probe(key.root_key_id)
            if row is None or probe is None:
                raise RootKeyRefused("there is nothing to try the root key by", "change to it anew")
            kept = self._probes[place] = (row, *probe)
        return kept

    def _report(self, turn: _Turn, health: str) -> None:
        """Put on record how a root key does now."""
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
            log.warning("root key's health not recorded", tenant_id=key.tenant_id, code=failed.code)
            return
        log.warning("root key changed its health", tenant_id=key.tenant_id, before=key.health, after=health)
        turn.key = replace(key, health=health, health_since=since)
        turn.told, turn.warned = float("-inf"), turn.warned and not well
