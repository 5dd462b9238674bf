"""KMIP managed objects, indexed [tenant][L2][object] (MTCI M1). Their contents are encrypted or opaque here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from database.keys import VersionUseRow
from database.repository import Repository

_COLUMNS = "object_id, service, l2_key, object_type, state, names, attributes, key_version, material, revision"
_LISTED = _COLUMNS.replace(" material,", " case when material is not null then ''::bytea end,")
"""Without the encrypted content: a search reads thousands of rows, and each may have 64 KiB of it."""
_LISTED_AT_ONCE = 500
_LAST_INDEX = 2**31 - 1
"""The largest index of an array in PostgreSQL."""
_SEARCHED = "search_version, active_at, inactive_at, usage_mask, archived, fresh, terms"
_STATE = """
    case when state = 1 and active_at <= %(now)s and inactive_at <= %(now)s then 3
         when state = 1 and active_at <= %(now)s then 2
         when state = 2 and inactive_at <= %(now)s then 3
         else state end"""
"""KMIP's state at a time; `crypto_service.kmip.objects.states.state_at` is the same in Python."""
_MATCHING = f"""
    from okcm.managed_object
    where service = %(service)s and l2_key = %(l2_key)s and material is not null
    and (%(object_id)s::text is null or object_id = %(object_id)s)
    and (%(object_type)s::bigint is null or object_type = %(object_type)s::bigint)
    and usage_mask & %(usage_mask)s = %(usage_mask)s
    and (%(archived)s::boolean is null or archived = %(archived)s)
    and (fresh or not %(fresh)s)
    and (%(state)s::bigint is null or {_STATE} = %(state)s::bigint)
    and terms @> %(terms)s::bigint[]
"""
_SELECT = f"select {_COLUMNS} from okcm.managed_object where service = %s"  # noqa: S608 - a constant

# Most objects have one name, whose hash has an index; the few with several names are scanned. The exact conditions are
# outside the CTE, where they cannot make the planner use another index.
_NAMED = f"""
with found as materialized (
    select * from okcm.managed_object where name_hash = hashtextextended(%(service)s || '/' || %(name)s, 0)
    union all
    select * from okcm.managed_object where more_names and %(name)s = any (names[2:])
)
select {_LISTED} from found where service = %(service)s and %(name)s = any (names) order by created_at, object_id
"""  # noqa: S608 - constants


class ObjectRow(NamedTuple):
    """A KMIP managed object of one service, indexed [tenant][L2][object] (MTCI M1).

    `object_type` and `state` are KMIP's enumeration values (`state` 0: an object whose type has no state, until it is
    destroyed); `attributes` is an opaque TTLV structure; version `key_version` of the service's L3 key encrypts
    `material`, which is None after destruction. `revision` starts at 1; a change states the revision that it read.
    """

    object_id: str
    service: str
    l2_key: str
    object_type: int
    state: int
    names: tuple[str, ...]
    attributes: bytes
    key_version: int
    material: bytes | None
    revision: int
    search: "SearchValues | None" = None
    """Written with the row and not read; without them a search does not find the object until `index`."""


class SearchValues(NamedTuple):
    """What a search compares, derived from the attributes of an object; times in seconds since the epoch."""

    version: int
    active_at: int | None
    inactive_at: int | None
    usage_mask: int
    archived: bool
    fresh: bool
    terms: Sequence[int]

    def columns(self) -> Sequence[Any]:
        """Return the values in the order of the columns."""
        return [
            self.version,
            self.active_at,
            self.inactive_at,
            self.usage_mask,
            self.archived,
            self.fresh,
            list(self.terms),
        ]


class ObjectFilter(NamedTuple):
    """Conditions that all hold for an object that is found; None and empty ones hold for each.

    Objects are found oldest first, with `newest_first` in reverse order.
    """

    service: str
    l2_key: str
    now: int
    object_id: str | None = None
    object_type: int | None = None
    state: int | None = None
    usage_mask: int = 0
    archived: bool | None = False
    fresh: bool = False
    terms: Sequence[int] = ()
    newest_first: bool = False

    def order(self) -> str:
        """Return the expressions of `order by`."""
        return "created_at desc, object_id desc" if self.newest_first else "created_at, object_id"

    def values(self) -> dict[str, Any]:
        """Return the parameters of a statement."""
        return self._asdict() | {"terms": list(self.terms)}


@dataclass(frozen=True, slots=True)
class ObjectCountRow:
    """The number of a service's managed objects in a state (KMIP's enumeration, 0: see `ObjectRow`)."""

    service: str
    state: int
    count: int


class ManagedObjects(Repository):
    """Managed objects of one service at a time; objects of other services are not found."""

    def add(self, rows: Sequence[ObjectRow]) -> None:
        with self.connection.cursor() as cursor:
            cursor.executemany(
                f"insert into okcm.managed_object (tenant_id, {_COLUMNS}, {_SEARCHED})"  # noqa: S608 - constants
                " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    [
                        self.tenant_id,
                        row.object_id,
                        row.service,
                        row.l2_key,
                        row.object_type,
                        row.state,
                        list(row.names),
                        row.attributes,
                        row.key_version,
                        row.material,
                        row.revision,
                        *(row.search or _NOT_INDEXED).columns(),
                    ]
                    for row in rows
                ],
            )

    def get(self, service: str, object_id: str) -> ObjectRow | None:
        found = self.connection.execute(f"{_SELECT} and object_id = %s", [service, object_id]).fetchone()
        return None if found is None else _object(found)

    def lock_names(self, service: str) -> None:
        """Permit no other transaction to assign names to a service's objects until this one ends.

        MUST precede the lock of a row, so that two transactions do not deadlock.
        """
        key = f"names/{self.tenant_id}/{service}"
        self.connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [key])

    def named(self, service: str, name: str) -> Sequence[ObjectRow]:
        """Return a service's objects with a name, as `of_service` does, with those that are destroyed."""
        rows = self.connection.execute(_NAMED, {"service": service, "name": name})
        return [_object(row) for row in rows]

    def of_service(self, service: str) -> Iterator[ObjectRow]:
        """Yield a service's objects that are not destroyed, oldest first, reading some at a time.

        Their `material` is empty, which no row may store. The transaction MUST stay open meanwhile.
        """
        listed = f"select {_LISTED} from okcm.managed_object where service = %s and material is not null"  # noqa: S608 - constants
        with self.connection.cursor(name="objects") as cursor:
            cursor.itersize = _LISTED_AT_ONCE
            yield from map(_object, cursor.execute(f"{listed} order by created_at, object_id", [service]))

    def search(self, wanted: ObjectFilter, limit: int, offset: int) -> tuple[int, Sequence[str]]:
        """Return the number of matching objects, and the ids of `limit` of them after `offset`."""
        first = min(offset, _LAST_INDEX - 1 - limit) + 1
        [(total, ids)] = self.connection.execute(
            f"select count(*), (array_agg(object_id order by {wanted.order()}))[%(first)s:%(last)s] {_MATCHING}",
            {**wanted.values(), "first": first, "last": first + limit - 1},
        ).fetchall()
        return int(total), ids or []

    def matching(self, wanted: ObjectFilter) -> Iterator[ObjectRow]:
        """Yield matching objects, some at a time, as `of_service` does."""
        with self.connection.cursor(name="objects") as cursor:
            cursor.itersize = _LISTED_AT_ONCE
            statement = f"select {_LISTED} {_MATCHING} order by {wanted.order()}"
            yield from map(_object, cursor.execute(statement, wanted.values()))

    def not_indexed(self, service: str) -> Sequence[ObjectRow]:
        """Return some objects of a service that have no search values, without their content."""
        rows = self.connection.execute(
            f"select {_LISTED} from okcm.managed_object where service = %s"  # noqa: S608 - constants
            f" and search_version = 0 and material is not null order by object_id limit {_LISTED_AT_ONCE}",
            [service],
        )
        return [_object(row) for row in rows]

    def index(self, rows: Sequence[ObjectRow]) -> None:
        """Store the search values of objects that have not changed since they were read."""
        with self.connection.cursor() as cursor:
            cursor.executemany(
                f"update okcm.managed_object set ({_SEARCHED}) = row(%s, %s, %s, %s, %s, %s, %s)"  # noqa: S608 - constants
                " where service = %s and object_id = %s and revision = %s",
                [
                    [*(row.search or _NOT_INDEXED).columns(), row.service, row.object_id, row.revision]
                    for row in sorted(rows, key=lambda row: row.object_id)
                ],
            )

    def count(self, service: str) -> int:
        """Return the number of a service's objects that are not destroyed."""
        counted = "select count(*) from okcm.managed_object where service = %s and material is not null"
        [(number,)] = self.connection.execute(counted, [service]).fetchall()
        return int(number)

    def some_ids(self, limit: int) -> Sequence[str]:
        """Return the ids of any `limit` objects; the worker may read no other column."""
        rows = self.connection.execute("select object_id from okcm.managed_object limit %s", [limit])
        return [object_id for (object_id,) in rows]

    def counts(self) -> Sequence[ObjectCountRow]:
        """Return the number of objects of each service in each state, including destroyed ones."""
        rows = self.connection.execute(
            "select service, state, count(*) from okcm.managed_object group by service, state order by service, state"
        )
        return [ObjectCountRow(*row) for row in rows]

    def versions(self) -> Sequence[VersionUseRow]:
        """Return the number of objects that each version of a service key encrypts, without unused versions."""
        # The states 5 and 6 (destroyed) have no material. The query tests the state, because some roles cannot read
        # the material.
        rows = self.connection.execute(
            "select service, key_version, count(*) from okcm.managed_object where state not in (5, 6)"
            " group by service, key_version order by service, key_version"
        )
        return [VersionUseRow(*row) for row in rows]

    def change(self, row: ObjectRow) -> bool:
        """Replace a row if it still has `row.revision` and increase that; return False after a concurrent change."""
        changed = self.connection.execute(
            f"update okcm.managed_object set ({_SEARCHED}) = row(%s, %s, %s, %s, %s, %s, %s),"  # noqa: S608 - constants
            " state = %s, names = %s, attributes = %s, key_version = %s, material = %s, revision = revision + 1"
            " where service = %s and object_id = %s and l2_key = %s and object_type = %s and revision = %s",
            [
                *(row.search or _NOT_INDEXED).columns(),
                row.state,
                list(row.names),
                row.attributes,
                row.key_version,
                row.material,
                row.service,
                row.object_id,
                row.l2_key,
                row.object_type,
                row.revision,
            ],
        )
        return changed.rowcount == 1

    def sealed(self, service: str, version: int, after: str, limit: int) -> Sequence[ObjectRow]:
        """Return objects that a key version encrypts, in order of id, starting after `after`."""
        rows = self.connection.execute(
            f"{_SELECT} and key_version = %s and material is not null and object_id > %s order by object_id limit %s",
            [service, version, after, limit],
        )
        return [_object(row) for row in rows]

    def reseal(self, rows: Sequence[ObjectRow]) -> int:
        """Replace the ciphertext of objects (`key_version`, `material`) only; return the number of replaced ones.

        As with `change`, an object whose revision has changed is left unchanged.
        """
        # The revision increases although clients see no change: a caller that read the old row would otherwise restore
        # the former ciphertext, whose key may be about to be destroyed. One statement, because each statement verifies
        # the context's signature. Rows are locked in a fixed order, so that two processes do not deadlock.
        changed = self.connection.execute(
            "update okcm.managed_object o set key_version = w.key_version, material = w.material,"
            " revision = o.revision + 1 from ("
            "  select f.service, f.object_id, r.key_version, r.material from okcm.managed_object f"
            "  join unnest(%(services)s::text[], %(objects)s::text[], %(l2_keys)s::text[], %(revisions)s::integer[],"
            "   %(versions)s::integer[], %(materials)s::bytea[])"
            "   as r (service, object_id, l2_key, revision, key_version, material)"
            "  on f.service = r.service and f.object_id = r.object_id and f.l2_key = r.l2_key"
            "  and f.revision = r.revision and f.material is not null"
            "  order by f.service, f.object_id for no key update of f"
            " ) as w where o.service = w.service and o.object_id = w.object_id",
            {
                "services": [row.service for row in rows],
                "objects": [row.object_id for row in rows],
                "l2_keys": [row.l2_key for row in rows],
                "revisions": [row.revision for row in rows],
                "versions": [row.key_version for row in rows],
                "materials": [row.material for row in rows],
            },
        )
        return changed.rowcount

    def remove(self, service: str, object_id: str) -> bool:
        """Delete a destroyed object; return False if it does not exist."""
        removed = self.connection.execute(
            "delete from okcm.managed_object where service = %s and object_id = %s and material is null",
            [service, object_id],
        )
        return removed.rowcount == 1


_NOT_INDEXED = SearchValues(0, None, None, 0, archived=False, fresh=False, terms=())


def _object(row: tuple[Any, ...]) -> ObjectRow:
    object_id, service, l2_key, object_type, state, names, *rest = row
    return ObjectRow(object_id, service, l2_key, object_type, state, tuple(names), *rest)
