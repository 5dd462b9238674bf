"""Where managed objects are kept: rows of the database, with a cache of what was read.

A cached object is used for at most as long as an opened service key may stay in memory, and forgotten at once when
anything of its tenant changed. Every object that leaves here belongs to the caller's service and descends from the
caller's L2 (MTCI M1); what does not is not there. Changes are compare-and-set: who lost a race looks again and decides
again, so nothing is ever decided on a state that has passed.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from core.errors.keys import KeyVersionRetired
from core.errors.platform import Superseded
from core.errors.services import ObjectNotFound
from crypto_service.interfaces import ClientIdentity, Dependencies
from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.enums import ResultReason, State
from crypto_service.kmip.codec.errors import KmipRefused
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects import managed_object as managed_objects
from crypto_service.kmip.objects import states
from crypto_service.kmip.objects.attributes import Attributes
from crypto_service.kmip.objects.managed_object import ManagedObject
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.postgres.notify import object_hash, tenant_hash
from database.services.managed_objects import ObjectRow

_ATTEMPTS = 20
_KEPT_OF_TENANT = 4096
Result = TypeVar("Result")
Edit = Callable[[ManagedObject], ManagedObject]
Plan = Callable[[ManagedObject, str], tuple[ManagedObject, Attributes]]


def new_object_id() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class NewObject:
    """An object that is about to be: what it holds and how it is described."""

    object_type: int
    attributes: Attributes
    material: Item
    object_id: str = field(default_factory=new_object_id)


class _Kept(NamedTuple):
    managed: ManagedObject
    until: float


class _Lost(Exception):
    """Somebody changed the object since it was read; rolls the transaction back."""


class ObjectStore:
    def __init__(
        self,
        database: Database,
        parts: Dependencies,
        cache_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` says what time it is for the keys; the cache has its own."""
        self.clock = clock
        self._database = database
        self._parts = parts
        self._seconds = cache_seconds
        self._kept: dict[str, dict[tuple[str, str], _Kept]] = {}
        self._tenants: dict[str, str] = {}
        self._changes: dict[str, int] = {}
        self._all_changes = 0
        self._under_way: dict[tuple[Hashable, ...], asyncio.Future[Any]] = {}
        parts.changes.subscribe(self._forget)

    async def get(self, caller: ClientIdentity, object_id: str) -> ManagedObject:
        """Return an object of the caller; raises ObjectNotFound, DatabaseUnavailable."""
        kept = self._kept.get(caller.tenant_id, {}).get((caller.service, object_id))
        if kept is not None and kept.until > time.monotonic():
            return _own(caller, kept.managed)
        return await self._read(caller, object_id)

    async def open(self, caller: ClientIdentity, managed: ManagedObject) -> Item:
        """Return what the object holds."""
        return ttlv.decode(await self.open_written(caller, managed))

    async def open_written(self, caller: ClientIdentity, managed: ManagedObject) -> bytes:
        """Return the encoding of what the object holds: what `_sealed` wrote, since nothing else opens.

        Nothing opened is kept here: it opens as long as the keyring has the service key, and not a moment longer.
        """
        try:
            return await self._open(caller, managed.row)
        except KeyVersionRetired:
            # It may have been sealed anew after this was read, and the older version destroyed since.
            now = await self._read(caller, managed.row.object_id)
            if now.row.key_version == managed.row.key_version:
                raise
            return await self._open(caller, now.row)

    async def add(self, caller: ClientIdentity, *drafts: NewObject) -> Sequence[ManagedObject]:
        """Store new objects, all or none."""
        now = int(self.clock())
        made = [await self._sealed(caller, draft, now) for draft in drafts]

        def work() -> None:
            with self._database.tenant_tx(caller.tenant_id) as tx:
                for managed in made:
                    _check_names(tx, caller, managed.row, ())
                tx.objects.add([managed.row for managed in made])

        seen = self._seen(caller)
        await self._parts.blocking.run(caller.tenant_id, work)
        for managed in made:
            self._keep(caller, managed, seen)
        return made

    async def change(self, caller: ClientIdentity, object_id: str, edit: Edit) -> ManagedObject:
        """Replace an object by what `edit` makes of it, nothing when that is the same.

        `edit` refuses by raising; it runs in a thread, and again when it lost a race.
        """

        def work() -> ManagedObject:
            with self._database.tenant_tx(caller.tenant_id) as tx:
                before = _fresh(tx, caller, object_id)
                return _replaced(tx, caller, before, edit(before))

        return await self._race(caller, work)

    async def serve(self, caller: ClientIdentity, object_id: str, edit: Edit) -> ManagedObject:
        """Do a `change` that everybody who waits for this object would do alike."""
        place = ("serve", caller, object_id, self._seen(caller))
        return await self._once(place, lambda: self.change(caller, object_id, edit))

    async def succeed(self, caller: ClientIdentity, object_id: str, material: Item, plan: Plan) -> ManagedObject:
        """Store `material` as the successor of an object and change that one, both or neither.

        `plan` gets the object and the successor's id, and returns the object as it shall be and the successor's
        attributes.
        """
        kind = (await self.get(caller, object_id)).row.object_type
        made = await self._sealed(caller, NewObject(kind, (), material), 0)

        def work() -> ManagedObject:
            with self._database.tenant_tx(caller.tenant_id) as tx:
                before = _fresh(tx, caller, object_id)
                after, attributes = plan(before, made.row.object_id)
                _replaced(tx, caller, before, after)
                successor = managed_objects.new(made.row, attributes, int(self.clock()))
                _check_names(tx, caller, successor.row, ())
                tx.objects.add([successor.row])
                return successor

        return await self._race(caller, work)

    async def find(
        self,
        caller: ClientIdentity,
        name: str | None,
        wanted: Callable[[ManagedObject], bool],
        needles: Sequence[bytes] = (),
    ) -> Sequence[ManagedObject]:
        """Return the caller's objects that are `wanted` and not destroyed, oldest first; with `name`, that have it.

        `needles` must all stand in the stored attributes. `wanted` runs in a thread: a service may have thousands.
        """

        def work() -> Sequence[ManagedObject]:
            with self._database.tenant_tx(caller.tenant_id) as tx:
                rows = tx.objects.of_service(caller.service) if name is None else tx.objects.named(caller.service, name)
            found = (
                managed_objects.of(row)
                for row in rows
                if row.l2_key == caller.l2_key
                and row.material is not None
                and all(needle in row.attributes for needle in needles)
            )
            return [managed for managed in found if wanted(managed)]

        return await self._parts.blocking.run(caller.tenant_id, work)

    async def _open(self, caller: ClientIdentity, row: ObjectRow) -> bytes:
        if row.material is None:
            raise ObjectNotFound
        return await self._parts.operations.open_object(caller, row.object_id, row.key_version, row.material)

    async def _race(self, caller: ClientIdentity, work: Callable[[], ManagedObject]) -> ManagedObject:
        for _ in range(_ATTEMPTS):
            seen = self._seen(caller)
            try:
                managed = await self._parts.blocking.run(caller.tenant_id, work)
            except _Lost:
                continue
            undisturbed = seen == self._seen(caller)
            # Word of this change is under way; until it comes nothing read before it may be used or kept here.
            self._forget(tenant_hash(caller.tenant_id))
            if undisturbed:
                self._keep(caller, managed, self._seen(caller))
            return managed
        raise Superseded

    async def _sealed(self, caller: ClientIdentity, draft: NewObject, now: int) -> ManagedObject:
        raw = ttlv.encode(draft.material)
        version, sealed = await self._parts.operations.seal_object(caller, draft.object_id, raw)
        state = states.STATELESS if managed_objects.stateless(draft.object_type) else State.PRE_ACTIVE
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
        managed = _own(caller, managed_objects.of(row))
        self._keep(caller, managed, seen)
        return managed

    async def _once(self, place: tuple[Hashable, ...], work: Callable[[], Awaitable[Result]]) -> Result:
        """Do `work` for all who wait for it; `place` holds what was `_seen`, so a change begins it anew."""
        under_way = self._under_way.get(place)
        if under_way is None:
            under_way = self._under_way[place] = asyncio.ensure_future(work())
            under_way.add_done_callback(lambda done: self._ended(place, done))
        result: Result = await asyncio.shield(under_way)
        return result

    def _ended(self, place: tuple[Hashable, ...], done: "asyncio.Future[Any]") -> None:
        del self._under_way[place]
        if not done.cancelled():
            done.exception()  # looked at, for when everybody who waited has gone meanwhile

    async def _row(self, caller: ClientIdentity, object_id: str) -> ObjectRow | None:
        def work() -> ObjectRow | None:
            with self._database.tenant_tx(caller.tenant_id) as tx:
                return tx.objects.get(caller.service, object_id)

        return await self._parts.blocking.run(caller.tenant_id, work)

    # The cache.

    def _seen(self, caller: ClientIdentity) -> tuple[int, int]:
        """Return how much of the changes is known; MUST be taken before the database is read."""
        # Known by its mark from now on: word of a change between reading and keeping must not pass by.
        for known_as in (tenant_hash(caller.tenant_id), object_hash(caller.tenant_id)):
            self._tenants[known_as] = caller.tenant_id
        return self._all_changes, self._changes.get(caller.tenant_id, 0)

    def _keep(self, caller: ClientIdentity, managed: ManagedObject, seen: tuple[int, int]) -> None:
        # Something changed between reading and now: what was read may be what was before, and nobody says so again.
        if seen != (self._all_changes, self._changes.get(caller.tenant_id, 0)):
            return
        of_tenant = self._kept.setdefault(caller.tenant_id, {})
        if len(of_tenant) >= _KEPT_OF_TENANT:
            del of_tenant[next(iter(of_tenant))]
        of_tenant[caller.service, managed.row.object_id] = _Kept(managed, time.monotonic() + self._seconds)

    def _forget(self, tenant: str | None) -> None:
        if tenant is None:
            self._all_changes += 1
            self._kept.clear()
            return
        tenant_id = self._tenants.get(tenant)
        if tenant_id is not None:
            self._changes[tenant_id] = self._changes.get(tenant_id, 0) + 1
            self._kept.pop(tenant_id, None)


def _own(caller: ClientIdentity, managed: ManagedObject) -> ManagedObject:
    """Return the object if it is the caller's; checked at every use, whatever the database or the cache said."""
    if managed.row.l2_key != caller.l2_key or managed.row.service != caller.service:
        raise ObjectNotFound
    return managed


def _fresh(tx: TenantTransaction, caller: ClientIdentity, object_id: str) -> ManagedObject:
    row = tx.objects.get(caller.service, object_id)
    if row is None:
        raise ObjectNotFound
    return _own(caller, managed_objects.of(row))


def _replaced(
    tx: TenantTransaction, caller: ClientIdentity, before: ManagedObject, after: ManagedObject
) -> ManagedObject:
    if after is before:
        return before
    _check_names(tx, caller, after.row, before.row.names)
    if not tx.objects.change(after.row):
        raise _Lost
    return replace(after, row=replace(after.row, revision=after.row.revision + 1))


def _check_names(tx: TenantTransaction, caller: ClientIdentity, row: ObjectRow, had: Sequence[str]) -> None:
    """Refuse a name that another object of the service has (KMIP 1.4, section 3.2); those destroyed do not count."""
    for name in row.names:
        others = () if name in had else tx.objects.named(caller.service, name)
        if any(other.object_id != row.object_id and other.material is not None for other in others):
            raise KmipRefused(ResultReason.ILLEGAL_OPERATION, "another object has this name")
