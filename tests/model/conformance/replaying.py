"""Replay of a story of the model with the real statements in PostgreSQL; the state is compared after each step.

A wrap is represented by its position in the model, as bytes. Every decision is the product's: statements, locks,
states, and the checks of activities before they commit (activities/keys.py).
"""

import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import psycopg

from activities.keys import ActiveRootKey, require_active_version, require_current_root_key, root_key_in_force
from core import names as ids
from core.errors.keys import RootKeyDisabled
from core.errors.platform import Superseded
from core.errors.tenants import DestructionStarted
from core.keys.root_keys import OpenBaoKeyRef, PlatformKeyRef
from core.keys.rotation import KeyState, RotationScope
from core.tenants.lifecycle import Transition
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.keys import EncryptedRootKeyRow, ServiceKeyRow
from database.postgres.change_feed import tenant_hash
from database.provisioning import RouteRow
from database.root_keys import RootKeyRequestRow
from database.rotation import RewrappedRow, RotationRequest
from openkcm.contract.services import ServiceKind
from tests.database.builders import a_place, an_event, an_object
from tests.model.people import CODES, ROOT_KEY, SWITCH
from tests.model.state import DESTROYED, PLATFORM, Tenant, Work, Wrap

SERVICE = "orders"
REGION = "eu-west-1"


def as_bytes(wrap: Wrap | None) -> bytes | None:
    return None if wrap is None else f"{wrap.root}/{wrap.l2}".encode()


class Replay:
    """One tenant in the initial state of the model; `step` replays a step and compares."""

    def __init__(
        self, worker: Database, operator: Database, crypto: Database, administrator: psycopg.Connection
    ) -> None:
        self.tenant_id = f"model-{uuid.uuid4().hex[:12]}"
        self._worker, self._operator, self._administrator = worker, operator, administrator
        self._key_ids: dict[str, str | None] = {PLATFORM: None}
        self._before_begin = 0
        """The number of changes of the root key before the story."""
        self._read: dict[Work, ServiceKeyRow | ActiveRootKey] = {}
        l2_key = ids.l2_key(self.tenant_id)
        with worker.tenant_tx(self.tenant_id) as tx:
            tx.tenants.request(an_event(self.tenant_id))
            tx.tenants.move(Transition.PROVISION)
            tx.keys.record(l2_key, "L2", 1)
            tx.routes.publish(RouteRow(l2_key, "ab" * 32, REGION))
            tx.tenants.move(Transition.ACTIVATE)
            tx.services.connect(SERVICE, ServiceKind.MICROSERVICE)
            first = as_bytes(Wrap(self.tenant_id, PLATFORM, 1)) or b""
            tx.services.record_key(ServiceKeyRow(SERVICE, 1, l2_key, "platform", ids.root_key(REGION), first))
            tx.services.connected(SERVICE)
        with crypto.tenant_tx(self.tenant_id) as tx:
            tx.objects.add([an_object(self.tenant_id, service=SERVICE)])

    def set_root_key(self, tenant: Tenant) -> None:
        """Give the tenant the root key with which the model begins."""
        if tenant.root != PLATFORM:
            self._before_begin = 1
            self._admit(tenant.root, 1)
            with self._worker.tenant_tx(self.tenant_id) as tx:
                staged = as_bytes(tenant.versions[0].wrap) or b""
                tx.root_keys.stage(1, [(row, staged) for row in tx.root_keys.unstaged(1, 10)])
                assert tx.root_keys.switch(1)
        self._was_notified()

    def step(self, words: str, before: Tenant, after: Tenant, *, notified: bool) -> None:
        """Do a step in the database, compare the state, and try what the model forbids."""
        act = self._act(words, before, after)
        if act is not None:
            with self._worker.tenant_tx(self.tenant_id) as tx:
                act(tx)
        assert self._was_notified() == notified, f"notification differs from the model: {words}"
        self._compare(after)
        self._assert_rejections(after)

    def _act(self, words: str, before: Tenant, after: Tenant) -> Callable[[TenantTransaction], object] | None:  # noqa: C901, PLR0911, PLR0912 - one line per step
        change = before.changes + self._before_begin
        match words.split():
            case ["suspends"]:
                return lambda tx: tx.tenants.move(Transition.SUSPEND)
            case ["resumes"]:
                return lambda tx: tx.tenants.move(Transition.RESUME)
            case ["locks"]:
                return lambda tx: tx.tenants.hold(SWITCH)
            case ["unlocks"]:
                return lambda tx: tx.tenants.release(SWITCH)
            case ["leaves"]:
                return lambda tx: tx.leaving.begin(timedelta())
            case ["restores"]:
                return lambda tx: tx.leaving.restore()
            case ["passes", *_]:
                return lambda tx: tx.leaving.begin_destruction(datetime.now(UTC) + timedelta(seconds=5))
            case ["loses", "its", "service", *_]:
                return lambda tx: tx.leaving.destroy_service_keys([SERVICE])
            case ["offboards"]:
                return lambda tx: tx.leaving.end()
            case ["monitoring", *_]:
                code = CODES.get(after.health[0], RootKeyDisabled.code)
                return lambda tx: tx.root_keys.report(self._key_ids[before.root] or "", code)
            case ["the", "worker", "follows", *_, what]:
                return lambda tx: (tx.tenants.hold if what == "locks" else tx.tenants.release)(ROOT_KEY)
            case ["a", "change", *_]:
                self._admit(after.changing_to or "", change + 1)
            case ["stages", *_]:
                self._read_unstaged(after)
            case ["stores", *_]:
                return lambda tx: self._stage(tx, before.changing)
            case ["switches", *_]:
                return lambda tx: self._switch(tx, change)
            case ["the", "change", "is", "abandoned"]:
                return lambda tx: tx.root_keys.abandon(change, "given_up")
            case ["a", "rotation", *_]:
                wanted = RotationRequest(tenant_key=True, services=RotationScope.ALL, compromised=after.for_compromised)
                return lambda tx: tx.rotations.begin(after.rotations, wanted, after.rotating_from)
            case ["the", "new", "version", *_]:
                return lambda tx: tx.rotations.rotated(before.rotations, after.l2.recorded)
            case ["prepares", *_] | ["rewraps", *_]:
                self._read_for_rotation(before, after)
            case ["commits", *_]:
                [work] = set(before.rotating) - set(after.rotating) or {before.rotating[0]}
                return lambda tx: self._commit_work(tx, work)
            case ["the", "prepared", *_]:
                return lambda tx: tx.rotations.activate(before.rotations)
            case ["destroys", "version", number]:
                return lambda tx: tx.rotations.destroy(SERVICE, int(number))
            case ["older", "versions", *_]:
                return lambda tx: self._retire(tx, before)
            case ["the", "rotation", "ends"]:
                return lambda tx: tx.rotations.end(before.rotations)
        return None

    # ── steps with more than one statement ──────────────────────────────────────────────────────────────────

    def _admit(self, root: str, number: int) -> None:
        key_id = uuid.uuid4().hex
        place = PlatformKeyRef() if root == PLATFORM else a_place(key=root.replace(" ", "-").replace("'", ""))
        with self._operator.tenant_tx(self.tenant_id) as tx:
            tx.root_keys.request(RootKeyRequestRow(key_id, place, None))
        with self._worker.tenant_tx(self.tenant_id) as tx:
            held = isinstance(place, OpenBaoKeyRef)
            if held:
                tx.root_keys.admit(EncryptedRootKeyRow(key_id, place, "credentials"), self._newest(tx))
            tx.root_keys.begin(
                number, place.provider, place.name if held else ids.root_key(REGION), key_id if held else None
            )
            if held:
                tx.root_keys.prove(key_id, b"probe", bytes(32))
        self._key_ids[root] = key_id if root != PLATFORM else None

    def _newest(self, tx: TenantTransaction) -> int:
        key = tx.keys.get(ids.l2_key(self.tenant_id))
        assert key is not None
        return key.version

    def _read_unstaged(self, after: Tenant) -> None:
        work = after.changing
        assert work is not None
        with self._worker.tenant_tx(self.tenant_id) as tx:
            rows = {row.version: row for row in tx.root_keys.unstaged(work.number + self._before_begin, 100)}
        assert rows[work.version].wrapped == as_bytes(work.read)
        self._read[work] = rows[work.version]

    def _stage(self, tx: TenantTransaction, work: Work | None) -> None:
        assert work is not None
        row = self._read[work]
        assert isinstance(row, ServiceKeyRow)
        with suppress(Superseded):
            tx.root_keys.stage(work.number + self._before_begin, [(row, as_bytes(work.made) or b"")])

    def _switch(self, tx: TenantTransaction, number: int) -> None:
        """Switch as the activity `switch-root-key` does."""
        tenant = tx.tenants.lock()
        assert tx.root_keys.switch(number)
        if ROOT_KEY in tenant.locks:
            tx.tenants.release(ROOT_KEY)

    def _read_for_rotation(self, before: Tenant, after: Tenant) -> None:
        [work] = set(after.rotating) - set(before.rotating) or {None}
        if work is None:  # another attempt with the same result
            return
        with self._worker.tenant_tx(self.tenant_id) as tx:
            tenant = tx.tenants.get()
            assert tenant is not None
            if work.read is None:
                self._read[work] = root_key_in_force(tx, tenant)
                return
            rows = {row.version: row for row in tx.rotations.outdated(100)}
        assert rows[work.version].wrapped == as_bytes(work.read)
        self._read[work] = rows[work.version]

    def _commit_work(self, tx: TenantTransaction, work: Work) -> None:
        """Commit as the activities `prepare-service-keys` and `rewrap-keys` do."""
        read, made = self._read[work], as_bytes(work.made) or b""
        with suppress(Superseded):
            if isinstance(read, ServiceKeyRow):
                tx.rotations.rewrap(work.number, [RewrappedRow(read, made, work.made.l2)])
            else:
                tx.tenants.lock()
                require_current_root_key(tx, read)
                require_active_version(tx, work.made.l2)
                tx.rotations.prepare(work.number, read.row(SERVICE, work.version, made, work.made.l2))

    def _retire(self, tx: TenantTransaction, before: Tenant) -> None:
        tx.tenants.lock()
        self._rewrap_credentials(tx, before)
        assert tx.rotations.retire_tenant_key(before.rotations) == before.l2.recorded

    def _rewrap_credentials(self, tx: TenantTransaction, before: Tenant) -> None:
        """Rewrap credentials, which the tenant key wraps too; the model omits them (docs/model.md)."""
        for read in tx.rotations.outdated_credentials():
            tx.rotations.rewrap_credentials(before.rotations, read, "credentials", before.l2.recorded)

    # ── comparison of the states ────────────────────────────────────────────────────────────────────────────

    def _compare(self, now: Tenant) -> None:
        life = now.life
        with self._worker.raw_tx(self.tenant_id) as connection:
            [stored] = connection.execute(
                "select state, locks, unlocks_to, returns_to, destroying_at is not null from okcm.tenant"
            ).fetchall()
            versions = connection.execute(
                "select state, wrapped, staged_wrapped, root_key_id from okcm.service_key order by version"
            ).fetchall()
            l2 = connection.execute("select version, oldest from okcm.key where kind = 'L2'").fetchone()
            keys = connection.execute(
                "select root_key_id, state from okcm.root_key where credentials is not null"
            ).fetchall()
            running = connection.execute("select count(*) from okcm.root_key_change where state = 'running'").fetchone()
            rotating = connection.execute("select count(*) from okcm.rotation where state = 'running'").fetchone()
        lock_state = life.lock_state
        assert stored == (
            lock_state.state,
            sorted(lock_state.locks),
            lock_state.unlocks_to,
            life.returns_to,
            life.destroying,
        )
        assert [row[:3] for row in versions] == [
            (one.state, as_bytes(one.wrap), as_bytes(one.staged)) for one in now.versions
        ]
        for row, one in zip(versions, now.versions, strict=True):
            assert one.wrap is None or row[3] == self._key_ids[one.wrap.root]
        assert l2 == (now.l2.recorded, now.l2.recorded_oldest)
        current = [key_id for key_id, state in keys if state == "current"]
        assert current == ([] if now.root == PLATFORM else [self._key_ids[now.root]])
        assert {key_id for key_id, _ in keys} == {self._key_ids[root] for root in now.credentials} - {None}
        assert (running, rotating) == ((int(now.changing_to is not None),), (int(now.rotating_from > 0),))

    def _assert_rejections(self, now: Tenant) -> None:
        """Assert that the statements reject what the model forbids now, and change nothing."""
        if now.changing_to is not None and any(one.staged is None for one in now.versions if one.state != DESTROYED):
            with self._worker.tenant_tx(self.tenant_id) as tx:
                assert not tx.root_keys.switch(now.changes + self._before_begin)
        if now.rotating_from and any(one.wrap and one.wrap.l2 < now.l2.recorded for one in now.versions):
            with self._worker.tenant_tx(self.tenant_id) as tx:
                assert tx.rotations.retire_tenant_key(now.rotations) is None
        if now.life.destroying:
            with suppress(DestructionStarted), self._worker.tenant_tx(self.tenant_id) as tx:
                tx.leaving.restore()
                raise AssertionError("restored after the point of no return")
        compromised = now.versions[now.sealed - 1].state == KeyState.COMPROMISED.value
        if compromised:
            with self._worker.tenant_tx(self.tenant_id) as tx:
                assert tx.rotations.destroy(SERVICE, now.sealed) == 1

    def _was_notified(self) -> bool:
        """Return whether a change of the tenant was notified since the previous call."""
        changes = self._administrator.execute("delete from okcm.cache_change returning encode(hash, 'hex')").fetchall()
        return (tenant_hash(self.tenant_id),) in changes
