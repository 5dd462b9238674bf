"""The store of managed objects: database rows with a cache.

An object is cached for at most the cache time of unwrapped service keys, and dropped immediately after a change of its
tenant. Every returned object belongs to the caller's service and to the caller's L2 (MTCI M1); any other is not found.
Changes are compare-and-set: after a conflict the object is read and the change evaluated again, so no decision is
based on a stale state.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from core.errors.keys import KeyVersionRetired
from core.errors.platform import Superseded
from core.errors.services import ObjectLimitReached, ObjectNotFound
from crypto_service.interfaces import ClientIdentity, Dependencies
from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.enums import ResultReason, State
from crypto_service.kmip.codec.errors import KmipRefused
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects import managed_object as managed_objects
from crypto_service.kmip.objects import states
from crypto_service.kmip.objects.attributes import Attributes
from crypto_service.kmip.objects.cache import ObjectCache
from crypto_service.kmip.objects.managed_object import ManagedObject
from crypto_service.kmip.objects.search import search_values
from crypto_service.shared_tasks import retrieve_exception
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.postgres.change_feed import object_hash, tenant_hash
from database.services.managed_objects import ObjectFilter, ObjectRow
from openkcm.contract.audit_events import AuditEvent

_ATTEMPTS = 20
_COST_OF_ROW, _COST_OF_SEARCH = 2, 10
"""Units of `server.limits` for an object whose attributes are decoded, and for a search by the database."""
Result = TypeVar("Result")
Edit = Callable[[ManagedObject], ManagedObject]
Plan = Callable[[ManagedObject, str], tuple[ManagedObject, Attributes]]
Wanted = Callable[[ManagedObject], bool]
"""Decides whether an object matches a search; runs in a thread, because a service may have thousands of objects."""
Charge = Callable[[int], None]
"""Charges the tenant of a request for its work; raises TooManyRequests."""
EventOf = Callable[[str], AuditEvent | None]
"""Returns the audit event of a change, which its transaction appends; the argument is the object's id."""


def new_object_id() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class NewObject:
    """An object to be stored: its content and its attributes."""

    object_type: int
    attributes: Attributes
    material: Item
    object_id: str = field(default_factory=new_object_id)


class _Conflict(Exception):
    """The object was changed since it was read; the exception rolls the transaction back."""


class ObjectStore:
    def __init__(
        self,
        database: Database,
        parts: Dependencies,
        cache_seconds: float,
        most_objects: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """A service may have `most_objects`; `clock` is the time for key states, the cache uses the monotonic clock."""
        self.clock = clock
        self._most_objects = most_objects
        self._database = database
        self._parts = parts
        self._cache = ObjectCache(cache_seconds)
        self._tenants: dict[str, str] = {}
        self._changes: dict[str, int] = {}
        self._all_changes = 0
        self._in_progress: dict[tuple[Hashable, ...], asyncio.Future[Any]] = {}
        parts.changes.subscribe(self._forget)

    async def get(self, caller: ClientIdentity, object_id: str) -> ManagedObject:
        """Return an object of the caller; raise ObjectNotFound, DatabaseUnavailable."""
        cached = self._cache.get(caller.tenant_id, caller.service, object_id)
        if cached is not None:
            return _require_own(caller, cached)
        return await self._read(caller, object_id)

    async def open(self, caller: ClientIdentity, managed: ManagedObject) -> Item:
        """Return the decrypted content of an object."""
        return ttlv.decode(await self.open_written(caller, managed))

    async def open_written(self, caller: ClientIdentity, managed: ManagedObject) -> bytes:
        """Return the encoded content of an object, as `_encrypted` encoded it; nothing else passes authentication.

        Decrypted content is not cached: it is available only as long as the key cache has the service key.
        """
        try:
            return await self._decrypt(caller, managed.row)
        except KeyVersionRetired:
            # It may have been re-encrypted after this read, and the older version destroyed since.
            now = await self._read(caller, managed.row.object_id)
            if now.row.key_version == managed.row.key_version:
                raise
            return await self._decrypt(caller, now.row)

    async def add(self, caller: ClientIdentity, event_of: EventOf, *drafts: NewObject) -> Sequence[ManagedObject]:
        """Store new objects, all or none; the audit event is that of the first."""
        now = int(self.clock())
        made = [await self._encrypted(caller, draft, now) for draft in drafts]
        names = [name for managed in made for name in managed.row.names]
        if len(set(names)) != len(names):
            raise _name_in_use()

        def work() -> None:
            with self._database.tenant_tx(caller.tenant_id) as tx:
                self._require_room(tx, caller, len(made))
                for managed in made:
                    _check_names(tx, caller, managed.row, ())
                tx.objects.add([_searchable(managed) for managed in made])
                _record(tx, event_of, made[0].row.object_id)

        seen = self._seen(caller)
        await self._parts.blocking.run(caller.tenant_id, work)
        for managed in made:
            self._store_in_cache(caller, managed, seen)
        return made

    async def change(
        self, caller: ClientIdentity, object_id: str, edit: Edit, event_of: EventOf | None = None
    ) -> ManagedObject:
        """Replace an object by the result of `edit`; do nothing when that is the same object.

        `edit` rejects by raising; it runs in a thread, and again after a conflict.
        """

        def work() -> ManagedObject:
            with self._database.tenant_tx(caller.tenant_id) as tx:
                before = _read_current(tx, caller, object_id)
                after = _replaced(tx, caller, before, edit(before))
                if event_of is not None:
                    _record(tx, event_of, object_id)
                return after

        return await self._retry_on_conflict(caller, work)

    async def serve(self, caller: ClientIdentity, object_id: str, edit: Edit) -> ManagedObject:
        """Do a `change` that is the same for all concurrent callers of this object, only once."""
        work_id = ("serve", caller, object_id, self._seen(caller))
        return await self._once(work_id, lambda: self.change(caller, object_id, edit))

    async def succeed(
        self, caller: ClientIdentity, object_id: str, material: Item, plan: Plan, event_of: EventOf
    ) -> ManagedObject:
        """Store `material` as the successor of an object and change that object, both or neither.

        `plan` gets the object and the successor's id, and returns the changed object and the successor's attributes.
        """
        kind = (await self.get(caller, object_id)).row.object_type
        made = await self._encrypted(caller, NewObject(kind, (), material), 0)

        def work() -> ManagedObject:
            with self._database.tenant_tx(caller.tenant_id) as tx:
                tx.objects.lock_names(caller.service)
                before = _read_current(tx, caller, object_id)
                after, attributes = plan(before, made.row.object_id)
                _replaced(tx, caller, before, after)
                successor = managed_objects.new(made.row, attributes, int(self.clock()))
                _check_names(tx, caller, successor.row, ())
                self._require_room(tx, caller, 1)
                tx.objects.add([_searchable(successor)])
                _record(tx, event_of, successor.row.object_id)
                return successor

        return await self._retry_on_conflict(caller, work)

    async def named(self, caller: ClientIdentity, name: str, wanted: Wanted) -> Sequence[str]:
        """Return the ids of the caller's matching objects with a name that are not destroyed, oldest first."""
        return await self._find(caller, lambda tx: tx.objects.named(caller.service, name), wanted)

    async def search(
        self, caller: ClientIdentity, charge: Charge, conditions: ObjectFilter, page: slice
    ) -> tuple[int, Sequence[str]]:
        """Return the number of the caller's objects that match, and the ids of those of a page."""
        charge(_COST_OF_SEARCH)
        limit = page.stop - page.start
        return await self._indexed(caller, charge, lambda tx: tx.objects.search(conditions, limit, page.start))

    async def find(
        self, caller: ClientIdentity, charge: Charge, conditions: ObjectFilter, wanted: Wanted
    ) -> Sequence[str]:
        """Return the ids of the caller's objects that match and are `wanted`, in the order of `conditions`.

        The tenant is charged for each object that matches, because its attributes are decoded; raise TooManyRequests.
        """
        objects, _ = await self.search(caller, charge, conditions, slice(0, 0))
        charge(objects * _COST_OF_ROW)
        return await self._find(caller, lambda tx: tx.objects.matching(conditions), wanted)

    async def _indexed(
        self, caller: ClientIdentity, charge: Charge, work: Callable[[TenantTransaction], Result]
    ) -> Result:
        """Do `work` in a transaction, after all objects of the service have what a search compares."""
        found: list[Result] = []

        def attempt() -> int:
            with self._database.tenant_tx(caller.tenant_id) as tx:
                rows = tx.objects.not_indexed(caller.service)
                if rows:
                    tx.objects.index([_searchable(managed_objects.from_row(row)) for row in rows])
                else:
                    found.append(work(tx))
                return len(rows)

        while not found:
            if rows := await self._parts.blocking.run(caller.tenant_id, attempt):
                charge(rows * _COST_OF_ROW)
        return found[0]

    async def _find(
        self, caller: ClientIdentity, rows: Callable[[TenantTransaction], Iterable[ObjectRow]], wanted: Wanted
    ) -> Sequence[str]:
        def work() -> Sequence[str]:
            with self._database.tenant_tx(caller.tenant_id) as tx:
                own = (row for row in rows(tx) if row.l2_key == caller.l2_key and row.material is not None)
                return [row.object_id for row in own if wanted(managed_objects.from_row(row))]

        return await self._parts.blocking.run(caller.tenant_id, work)

    def _require_room(self, tx: TenantTransaction, caller: ClientIdentity, more: int) -> None:
        """Raise ObjectLimitReached; requests at the same time may exceed the limit by their number."""
        if tx.objects.count(caller.service) + more > self._most_objects:
            raise ObjectLimitReached(self._most_objects)

    async def _decrypt(self, caller: ClientIdentity, row: ObjectRow) -> bytes:
        if row.material is None:
            raise ObjectNotFound
        return await self._parts.operations.open_object(caller, row.object_id, row.key_version, row.material)

    async def _retry_on_conflict(self, caller: ClientIdentity, work: Callable[[], ManagedObject]) -> ManagedObject:
        for _ in range(_ATTEMPTS):
            seen = self._seen(caller)
            try:
                managed = await self._parts.blocking.run(caller.tenant_id, work)
            except _Conflict:
                continue
            unchanged = seen == self._seen(caller)
            # The notification of this change is pending; until it arrives no earlier read may be used or cached here.
            self._forget(tenant_hash(caller.tenant_id))
            if unchanged:
                self._store_in_cache(caller, managed, self._seen(caller))
            return managed
        raise Superseded

    async def _encrypted(self, caller: ClientIdentity, draft: NewObject, now: int) -> ManagedObject:
        raw = ttlv.encode(draft.material)
        version, sealed = await self._parts.operations.seal_object(caller, draft.object_id, raw)
        state = states.STATELESS if managed_objects.is_stateless(draft.object_type) else State.PRE_ACTIVE
        row = ObjectRow(
            object_id=draft.object_id,
            service=caller.service,
            l2_key=caller.l2_key,
            object_type=draft.object_type,
            state=int(state),
            names=(),
            attributes=b"",
            key_version=version,
            material=sealed,
            revision=1,
        )
        return managed_objects.new(row, draft.attributes, now)

    async def _read(self, caller: ClientIdentity, object_id: str) -> ManagedObject:
        seen = self._seen(caller)
        row = await self._once(("row", caller, object_id, seen), lambda: self._row(caller, object_id))
        if row is None:
            raise ObjectNotFound
        managed = _require_own(caller, managed_objects.from_row(row))
        self._store_in_cache(caller, managed, seen)
        return managed

    async def _once(self, work_id: tuple[Hashable, ...], work: Callable[[], Awaitable[Result]]) -> Result:
        """Do `work` once for all concurrent callers; `work_id` includes `_seen`, so a change starts it again."""
        in_progress = self._in_progress.get(work_id)
        if in_progress is None:
            in_progress = self._in_progress[work_id] = asyncio.ensure_future(work())
            in_progress.add_done_callback(lambda done: self._ended(work_id, done))
        result: Result = await asyncio.shield(in_progress)
        return result

    def _ended(self, work_id: tuple[Hashable, ...], done: "asyncio.Future[Any]") -> None:
        del self._in_progress[work_id]
        retrieve_exception(done)

    async def _row(self, caller: ClientIdentity, object_id: str) -> ObjectRow | None:
        def work() -> ObjectRow | None:
            with self._database.tenant_tx(caller.tenant_id) as tx:
                return tx.objects.get(caller.service, object_id)

        return await self._parts.blocking.run(caller.tenant_id, work)

    # The cache.

    def _seen(self, caller: ClientIdentity) -> tuple[int, int]:
        """Return the number of notified changes; MUST be called before the database is read."""
        # Registered by hash first: a notification between the read and the store in the cache must not be missed.
        for hashed in (tenant_hash(caller.tenant_id), object_hash(caller.tenant_id)):
            self._tenants[hashed] = caller.tenant_id
        return self._all_changes, self._changes.get(caller.tenant_id, 0)

    def _store_in_cache(self, caller: ClientIdentity, managed: ManagedObject, seen: tuple[int, int]) -> None:
        # A change occurred after the read: the result may be stale, and no further notification will follow.
        if seen != (self._all_changes, self._changes.get(caller.tenant_id, 0)):
            return
        # Clients activate a key on one connection and use it on another one at once, which may be served by a process
        # that has not read the change yet.
        if managed.state_at(self.clock()) == State.PRE_ACTIVE:
            return
        self._cache.store(caller.tenant_id, managed)

    def _forget(self, tenant: str | None) -> None:
        if tenant is None:
            self._all_changes += 1
            self._cache.forget(None)
            return
        tenant_id = self._tenants.get(tenant)
        if tenant_id is not None:
            self._changes[tenant_id] = self._changes.get(tenant_id, 0) + 1
            self._cache.forget(tenant_id)


def _require_own(caller: ClientIdentity, managed: ManagedObject) -> ManagedObject:
    """Return the object if it belongs to the caller; checked at every use, independent of database and cache."""
    if managed.row.l2_key != caller.l2_key or managed.row.service != caller.service:
        raise ObjectNotFound
    return managed


def _read_current(tx: TenantTransaction, caller: ClientIdentity, object_id: str) -> ManagedObject:
    row = tx.objects.get(caller.service, object_id)
    if row is None:
        raise ObjectNotFound
    return _require_own(caller, managed_objects.from_row(row))


def _replaced(
    tx: TenantTransaction, caller: ClientIdentity, before: ManagedObject, after: ManagedObject
) -> ManagedObject:
    if after is before:
        return before
    _check_names(tx, caller, after.row, before.row.names)
    if not tx.objects.change(_searchable(after)):
        raise _Conflict
    return replace(after, row=after.row._replace(revision=after.row.revision + 1))


def _searchable(managed: ManagedObject) -> ObjectRow:
    """Return the row of an object with what a search compares."""
    return managed.row._replace(search=search_values(managed))


def _record(tx: TenantTransaction, event_of: EventOf, object_id: str) -> None:
    """Append the audit event of a change. Last in its transaction, because it locks the stream until the end."""
    event = event_of(object_id)
    if event is not None:
        tx.audit.append(event)


def _check_names(tx: TenantTransaction, caller: ClientIdentity, row: ObjectRow, had: Sequence[str]) -> None:
    """Reject a name that another object of the service has (KMIP 1.4, section 3.2); destroyed objects do not count."""
    added = [name for name in row.names if name not in had]
    if added:
        # Two transactions would otherwise each not find the name of the other one.
        tx.objects.lock_names(caller.service)
    for name in added:
        others = tx.objects.named(caller.service, name)
        if any(other.object_id != row.object_id and other.material is not None for other in others):
            raise _name_in_use()


def _name_in_use() -> KmipRefused:
    message = "another object has this name"
    return KmipRefused(ResultReason.ILLEGAL_OPERATION, message, ResultReason.NON_UNIQUE_NAME_ATTRIBUTE)
