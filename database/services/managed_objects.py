"""KMIP managed objects, indexed [tenant][L2][object] (MTCI M1). What they are is sealed or opaque here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.rows import TupleRow

from database.keys import VersionUseRow

_COLUMNS = "object_id, service, l2_key, object_type, state, names, attributes, key_version, material, revision"
_SELECT = f"select {_COLUMNS} from okcm.managed_object where service = %s"  # noqa: S608 - a constant

# Most objects have one name, whose hash has an index; the few with more are looked through. What makes a row the right
# one is asked outside, where it cannot lead the planner to another index.
_NAMED = f"""
with found as materialized (
    select * from okcm.managed_object where name_hash = hashtextextended(%(service)s || '/' || %(name)s, 0)
    union all
    select * from okcm.managed_object where more_names and %(name)s = any (names[2:])
)
select {_COLUMNS} from found where service = %(service)s and %(name)s = any (names) order by created_at, object_id
"""  # noqa: S608 - constants


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """A KMIP managed object of one service, indexed [tenant][L2][object] (MTCI M1).

    `object_type` and `state` are KMIP's enumeration values (`state` 0: the type has none); `attributes` is a TTLV
    structure, opaque here; `material` is sealed under the service's L3 of `key_version`, None once destroyed.
    `revision` is 1 when created; a change names the revision it saw.
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


@dataclass(frozen=True, slots=True)
class ObjectCountRow:
    """How many managed objects of a service are in a state (KMIP's enumeration, 0: the type has none)."""

    service: str
    state: int
    count: int


@dataclass(frozen=True, slots=True)
class ManagedObjects:
    """KMIP objects of one service at a time: another service's object is not there."""

    connection: Connection[TupleRow]
    tenant_id: str

    def add(self, rows: Sequence[ObjectRow]) -> None:
        with self.connection.cursor() as cursor:
            cursor.executemany(
                f"insert into okcm.managed_object (tenant_id, {_COLUMNS})"  # noqa: S608 - a constant
                " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
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
                    ]
                    for row in rows
                ],
            )

    def get(self, service: str, object_id: str) -> ObjectRow | None:
        found = self.connection.execute(f"{_SELECT} and object_id = %s", [service, object_id]).fetchone()
        return None if found is None else _object(found)

    def named(self, service: str, name: str) -> Sequence[ObjectRow]:
        rows = self.connection.execute(_NAMED, {"service": service, "name": name})
        return [_object(row) for row in rows]

    def of_service(self, service: str, limit: int = 10_000) -> Sequence[ObjectRow]:
        """Return a service's objects that were not destroyed, oldest first."""
        living = f"{_SELECT} and material is not null order by created_at, object_id limit %s"
        rows = self.connection.execute(living, [service, limit])
        return [_object(row) for row in rows]

    def some_ids(self, limit: int) -> Sequence[str]:
        """Return the ids of a few objects, whichever come first; it is all that the worker may read of them."""
        rows = self.connection.execute("select object_id from okcm.managed_object limit %s", [limit])
        return [object_id for (object_id,) in rows]

    def counts(self) -> Sequence[ObjectCountRow]:
        """Return how many objects each service has in each state, destroyed ones among them."""
        rows = self.connection.execute(
            "select service, state, count(*) from okcm.managed_object group by service, state order by service, state"
        )
        return [ObjectCountRow(*row) for row in rows]

    def versions(self) -> Sequence[VersionUseRow]:
        # What is destroyed in KMIP's words has no material any more, which not every role may look at.
        """Return how many objects lie under each version of a service key; versions that have none are left out."""
        rows = self.connection.execute(
            "select service, key_version, count(*) from okcm.managed_object where state not in (5, 6)"
            " group by service, key_version order by service, key_version"
        )
        return [VersionUseRow(*row) for row in rows]

    def change(self, row: ObjectRow) -> bool:
        """Replace a row if it still has `row.revision`, which becomes one more; False when somebody was faster."""
        changed = self.connection.execute(
            "update okcm.managed_object set state = %s, names = %s, attributes = %s, key_version = %s, material = %s,"
            " revision = revision + 1"
            " where service = %s and object_id = %s and l2_key = %s and object_type = %s and revision = %s",
            [
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
        """Return objects that are sealed under a version, in order of id, from the first one behind `after`."""
        rows = self.connection.execute(
            f"{_SELECT} and key_version = %s and material is not null and object_id > %s order by object_id limit %s",
            [service, version, after, limit],
        )
        return [_object(row) for row in rows]

    def reseal(self, rows: Sequence[ObjectRow]) -> int:
        # The revision moves, although nothing that a client sees does: whoever read the row before and changes it now
        # would put the former seal back, under a key that may be about to end. One statement, because each asks for
        # the context's signature; locked in one order, so that two processes with the same rows do not wait for each
        # other.
        """Give objects another seal (`key_version`, `material`) and change nothing else; return how many got it.

        As with `change`, those whose revision is another by now keep what they have.
        """
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
        """Forget an object that was destroyed; False when it is not there."""
        removed = self.connection.execute(
            "delete from okcm.managed_object where service = %s and object_id = %s and material is null",
            [service, object_id],
        )
        return removed.rowcount == 1


def _object(row: tuple[Any, ...]) -> ObjectRow:
    object_id, service, l2_key, object_type, state, names, *rest = row
    return ObjectRow(object_id, service, l2_key, object_type, state, tuple(names), *rest)
