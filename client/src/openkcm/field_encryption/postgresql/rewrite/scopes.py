"""Names in a statement: the sources of FROM, and the protected column of a reference."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openkcm.field_encryption.postgresql.catalog import Catalogue, Column, Table
from openkcm.field_encryption.postgresql.errors import ProtectionUnusable, StatementRefused
from openkcm.field_encryption.postgresql.parser import Node
from openkcm.field_encryption.postgresql.plan import DecryptedColumn

# The use of a query's protected result columns.
EXPORTED, REFUSED, IGNORED = "exported", "refused", "ignored"


@dataclass(frozen=True, slots=True)
class Output:
    """A protected column of a result; `key` names the columns of its primary key in the same result."""

    name: str
    table: Table
    column: Column
    key: tuple[str, ...]

    def read(self) -> DecryptedColumn:
        return DecryptedColumn(self.table, self.column, self.key)


@dataclass(frozen=True, slots=True)
class Field:
    """A protected column of a source; `key` names the source's columns with the row's primary key."""

    name: str
    table: Table
    column: Column
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """A part of FROM. `names` are all its columns, if they are known."""

    alias: str
    fields: tuple[Field, ...] = ()
    names: frozenset[str] | None = None
    schema: str | None = ""
    """The schema that the statement writes, None for a table without one; empty for an alias or a query."""

    def field(self, name: str) -> Field | None:
        return next((one for one in self.fields if one.name == name), None)

    def is_named(self, names: Sequence[str]) -> bool:
        """Return whether a table name, perhaps with a schema, means this source; an alias has no schema."""
        return self.alias == names[-1] and (len(names) == 1 or self.schema is None or self.schema == names[-2])


@dataclass(slots=True)
class Scope:
    parent: "Scope | None" = None
    sources: list[Source] = field(default_factory=list)
    queries: dict[str, Source] = field(default_factory=dict)
    """The queries that WITH defines, by name."""

    def chain(self) -> "Iterator[Scope]":
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def query(self, name: str) -> Source | None:
        return next((scope.queries[name] for scope in self.chain() if name in scope.queries), None)


def refusal(column: Column, table: Table, doing: str) -> StatementRefused:
    """Return the error for an unsupported use of a protected column."""
    return StatementRefused(
        f"{table.full_name}.{column.name} is encrypted by the application, so the database cannot {doing} it",
        "read the rows and do it in the application; `openkcm: encrypt deterministic` allows equality",
    )


def reference(node: Any) -> Mapping[str, Any] | None:
    """Return the column reference in a node, None for another node."""
    return node.get("ColumnRef") if isinstance(node, dict) else None


def path(ref: Mapping[str, Any]) -> tuple[list[str], bool]:
    """Return the names of a reference, and whether it ends with a star."""
    parts = ref["fields"]
    return [part["String"].get("sval", "") for part in parts if "String" in part], "A_Star" in parts[-1]


def find(ref: Mapping[str, Any], scope: Scope) -> tuple[Source, Field] | None:
    """Return the protected column of a reference, None for any other. Raises StatementRefused."""
    names, _ = path(ref)
    if not names:
        return None
    if len(names) > 1:
        return _qualified(names[:-1], names[-1], scope)
    unknown: Source | None = None
    for level in scope.chain():
        hits = [(source, hit) for source in level.sources if (hit := source.field(names[0])) is not None]
        if hits:
            return _certain(hits, unknown)
        if any(source.names is not None and names[0] in source.names for source in level.sources):
            return None
        for source in level.sources:
            if source.alias == names[0] and source.fields:
                raise whole_row(source)
        unknown = unknown or next((source for source in level.sources if source.names is None), None)
    return None


def _certain(hits: list[tuple[Source, Field]], unknown: Source | None) -> tuple[Source, Field]:
    """Return the only hit. `unknown` is a source of an inner query: PostgreSQL prefers a column there."""
    name = hits[0][1].name
    if len(hits) > 1:
        raise StatementRefused(f"the column {name} is ambiguous", "qualify it with its table")
    if unknown is not None:
        raise StatementRefused(
            f"the column {name} may belong to {unknown.alias or 'the inner query'} or to {hits[0][0].alias}",
            "qualify it with its table",
        )
    return hits[0]


def _qualified(table: Sequence[str], name: str, scope: Scope) -> tuple[Source, Field] | None:
    source = _named(table, scope)
    found = None if source is None else source.field(name)
    if found is None and source is not None and source.fields and source.names is not None and name not in source.names:
        raise whole_row(source)
    return None if source is None or found is None else (source, found)


def _named(table: Sequence[str], scope: Scope) -> Source | None:
    """Return the source that a table name means. Raises StatementRefused."""
    for level in scope.chain():
        hits = [source for source in level.sources if source.is_named(table)]
        if len(hits) > 1 and any(source.fields for source in hits):
            raise StatementRefused(f"more than one table is named {table[-1]}", "qualify it with its schema")
        if hits:
            return hits[0]
    return None


def whole_row(source: Source) -> StatementRefused:
    return StatementRefused(
        f"a whole row of {source.alias} contains protected columns, which cannot be separated in it",
        "name the columns, or use a star",
    )


def covered(ref: Mapping[str, Any], scope: Scope) -> list[Source]:
    """Return the sources of a star's columns, in their order."""
    names, _ = path(ref)
    if not names:
        return list(scope.sources)
    found = _named(names, scope)
    return [] if found is None else [found]


def relation_source(relation: Node, table: Table | None) -> Source:
    """Return the source for a table in a statement; `table` is None for an unprotected one."""
    alias = relation.get("alias")
    name = str(alias["aliasname"] if alias else relation["relname"])
    schema = "" if alias else relation.get("schemaname")
    if table is None:
        return Source(name, schema=schema)
    keys = tuple(one.name for one in table.key)
    fields = tuple(Field(one.name, table, one, keys) for one in table.protected.values())
    return Source(name, fields, frozenset(one.name for one in table.columns), schema)


def table_of(relation: Node, catalogue: Catalogue) -> Table | None:
    """Return the protected table that a statement names. Raises StatementRefused, ProtectionUnusable."""
    schema, name = relation.get("schemaname", ""), relation["relname"]
    reason = catalogue.reason_to_avoid(schema, name)
    if reason:
        raise StatementRefused(reason, "use the table itself in the statement")
    if schema:
        found = catalogue.tables.get((schema, name))
    else:
        named = catalogue.named(name)
        if len(named) > 1 or (named and not named[0].alone):
            raise StatementRefused(f"more than one table is named {name}", "qualify it with its schema")
        found = named[0] if named else None
    if found is not None and found.problem:
        raise ProtectionUnusable(found.problem)
    return found


def quoted(name: str) -> bytes:
    return b'"' + name.encode("utf-8").replace(b'"', b'""') + b'"'
