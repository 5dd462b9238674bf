"""The watch over a region's root keys: each is tried in its turn by opening a known value with it.

Nothing is written while nothing changes: one question to the database a second says which root keys there are, and a
try is one call to whoever holds the key. Who is used, or not well, is tried every second, the others rarely: nothing of
theirs is in memory, so a key that was taken away cannot be used until its holder is asked again anyway.
Two pools of threads: those that are out of reach make their callers wait, and must not make the others wait.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Protocol

import structlog
from temporalio import activity

from activities.journal import Clock
from activities.root_keys import opened
from database.interfaces import PlatformDatabase, SealedRootKeyRow, TenantDatabase, WatchedKey
from keystores.interfaces import RootKeyShelf
from tenancy.audit import AuditEvent, AuditName
from tenancy.errors import CustomerKeyError, OpenKcmError, RootKeyRefused, RootKeySwapped, WrongContext
from tenancy.locks import HEALTHY, OUT_OF_REACH, closes
from tenancy.messages import WatchResult, WatchRootKeysInput
from tenancy.root_keys import probe_context

_TICK_SECONDS = 0.1
_LOOK_SECONDS = 1.0
_LATELY = timedelta(seconds=90)
"""Longer than a service key stays in memory: whoever was not used for so long has none there."""
_TELL_AGAIN_SECONDS = 5.0
_THREADS, _WAITING_THREADS = 24, 8

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pace:
    """How often root keys are tried and how long they may be out of reach, seconds."""

    used: float
    idle: float
    grace: float


class Watched(TenantDatabase, PlatformDatabase, Protocol):
    """What the watch needs of the database."""


@dataclass(slots=True)
class _Turn:
    """What is remembered of one root key between its tries."""

    key: WatchedKey
    due: float = 0.0
    running: "Future[str | None] | None" = None
    told: float = float("-inf")
    warned: bool = False


@dataclass(slots=True)
class _Region:
    turns: dict[tuple[str, str], _Turn] = field(default_factory=dict)
    looked: float = float("-inf")
    run: int = 0


class WatchActivities:
    def __init__(
        self,
        database: Watched,
        shelf: RootKeyShelf,
        pace: Pace,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._shelf = shelf
        self._pace = pace
        self._clock = clock
        self._monotonic = monotonic
        self._regions: dict[str, _Region] = {}
        # They outlive each run: whoever has news to tell does not wait for tries that are under way.
        self._well = ThreadPoolExecutor(_THREADS, thread_name_prefix="watch")
        self._waiting = ThreadPoolExecutor(_WAITING_THREADS, thread_name_prefix="watch-slow")
        self._probes: dict[tuple[str, str], tuple[SealedRootKeyRow, bytes, bytes]] = {}

    # Told to stop it stops by itself: an exception thrown into it anywhere could leave a try without its end.
    @activity.defn(name="watch-root-keys", no_thread_cancel_exception=True)
    def watch_root_keys(self, watch: WatchRootKeysInput) -> WatchResult:
        """Try root keys until some tenant's standing must follow its own, and say which; empty when told to stop."""
        region = self._regions.setdefault(watch.region, _Region())
        region.run += 1
        mine = region.run  # an attempt that Temporal has given up ends when the next one begins
        while mine == region.run and not (activity.is_cancelled() or activity.is_worker_shutdown()):
            activity.heartbeat(len(region.turns))
            self._look(watch.region, region)
            self._begin(region)
            self._collect(region)
            concerned = tuple(self._concerned(region))
            if concerned:
                return WatchResult(tenants=concerned)
            time.sleep(_TICK_SECONDS)
        return WatchResult(tenants=())

    def _look(self, name: str, region: _Region) -> None:
        """Ask which root keys there are; while the database is down those that were there are tried on."""
        now = self._monotonic()
        if now < region.looked + _LOOK_SECONDS:
            return
        region.looked = now
        try:
            found = self._database.watched_root_keys(name, _LATELY)
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
        now = self._monotonic()
        for turn in region.turns.values():
            if turn.running is None and now >= turn.due:
                pool = self._waiting if turn.key.health in OUT_OF_REACH else self._well
                turn.running = pool.submit(self._try, turn.key)

    def _collect(self, region: _Region) -> None:
        now = self._monotonic()
        for turn in region.turns.values():
            if turn.running is None or not turn.running.done():
                continue
            health, turn.running = turn.running.result(), None
            pressing = turn.key.used or turn.key.held or health != HEALTHY
            turn.due = now + (self._pace.used if pressing else self._pace.idle)
            if health is not None and health != turn.key.health:
                self._report(turn, health)

    def _concerned(self, region: _Region) -> Iterator[str]:
        """Yield tenants whose standing is not what their root key asks for, and those to be warned."""
        now, present = self._monotonic(), self._clock()
        for turn in region.turns.values():
            key = turn.key
            due = closes(key.health, (present - key.health_since).total_seconds(), self._pace.grace)
            warn = key.health != HEALTHY and not due and not turn.warned
            if (due != key.held or warn) and now >= turn.told + _TELL_AGAIN_SECONDS:
                turn.told, turn.warned = now, turn.warned or warn
                yield key.tenant_id

    def _try(self, key: WatchedKey) -> str | None:
        """Return how a root key does; None when that could not be found out for a reason of ours."""
        try:
            row, probe, digest = self._probe(key)
            root_key = opened(self._shelf, key.tenant_id, row)
            try:
                plain = root_key.unwrap(probe_context(key.tenant_id, key.root_key_id), probe)
            except WrongContext:
                return RootKeySwapped.code
            return HEALTHY if hashlib.sha256(plain).digest() == digest else RootKeySwapped.code
        except CustomerKeyError as failed:
            return failed.code
        except OpenKcmError as failed:
            log.warning("root key not tried", tenant_id=key.tenant_id, code=failed.code)
        except Exception:  # one tenant's trouble must not end the watch over all
            log.exception("root key not tried", tenant_id=key.tenant_id)
        return None

    def _probe(self, key: WatchedKey) -> tuple[SealedRootKeyRow, bytes, bytes]:
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
