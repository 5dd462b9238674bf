"""The protected columns of one database, and the properties of its tables for the analysis of statements.

One query reads them from the database's catalogue: columns, tables, keys.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from uuid import UUID

from openkcm.contract.protected_fields import Mode, ProtectedField, Store
from openkcm.field_encryption import value_format as values
from openkcm.field_encryption.value_format import KeyValue

_COMMENT = re.compile(r"\bopenkcm:\s*encrypt(\s+deterministic)?(?![\w-])")
_KINDS = {20: "int", 21: "int", 23: "int", 25: "text", 1043: "text", 2950: "uuid", 17: "bytea"}
_UUID_DEFAULTS = frozenset({"gen_random_uuid()", "uuid_generate_v4()", "uuidv4()"})


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    number: int
    kind: str
    """int, text, uuid or bytea; empty for other types."""
    mode: Mode | None = None
    plaintext_allowed: bool = False
    made_by_database: str = ""
    """Of a key column: `sequence`, `uuid`, or the text of another default."""
    sequence: str = ""
    always: bool = False
    """GENERATED ALWAYS AS IDENTITY."""
    place: bytes = b""
    longest: int = 0
    """Maximum number of characters of a varchar with a length, else 0."""


@dataclass(frozen=True, slots=True)
class Table:
    oid: int
    schema: str
    name: str
    alone: bool
    """No other table of the database has this name, so that a statement can omit its schema."""
    columns: tuple[Column, ...]
    key: tuple[Column, ...]
    key_name: str
    problem: str = ""
    """Why it cannot be protected."""
    protected: Mapping[str, Column] = field(default_factory=dict, hash=False)

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}"

    def column(self, name: str) -> Column | None:
        return next((one for one in self.columns if one.name == name), None)


@dataclass(frozen=True, slots=True)
class Catalogue:
    tables: Mapping[tuple[str, str], Table]
    avoided: Mapping[tuple[str, str], str]
    """Views and partitions that use protected columns under another name, with the reason to reject them."""
    mentions: re.Pattern[bytes] | None
    """Matches every statement that may use them, or may protect other columns."""

    def named(self, name: str) -> list[Table]:
        return [table for table in self.tables.values() if table.name == name]

    def reason_to_avoid(self, schema: str, name: str) -> str:
        if schema:
            return self.avoided.get((schema, name), "")
        return next((reason for (_, other), reason in self.avoided.items() if other == name), "")


NOTHING = Catalogue({}, {}, None)


def read_answer(answer: str, fields: Iterable[ProtectedField]) -> Catalogue:
    """Return the catalogue from the result of the query that `question` returns."""
    document = json.loads(answer)
    listed: dict[tuple[str, str], dict[str, ProtectedField]] = {}
    for one in fields:
        listed.setdefault(table_of(one), {})[one.field] = one
    described: dict[int, Table] = {}
    for one in document["tables"] or ():
        described[one["oid"]] = _table(one, listed.get((one["schema"], one["name"]), {}))
    found = _with_parents(described, document["parts"] or ())
    tables = {(table.schema, table.name): table for table in found if table.protected or table.problem}
    avoided = _rejected_relations(document, {table.oid: table for table in tables.values()})
    words = sorted({name.replace('"', '""') for _, name in (*tables, *avoided, *listed)})
    # A name can also be written with Unicode escapes; the parser then decides.
    pattern = "|".join([*map(re.escape, words), 'u&"', "openkcm:"])
    return Catalogue(tables, avoided, re.compile(pattern.encode(), re.IGNORECASE))


class ReadTransaction(NamedTuple):
    """The transaction that read a catalogue."""

    number: str | None
    """None while the transaction has changed nothing."""
    snapshot_age: float
    """Maximum age in seconds of the state that it reads; 0 if each statement reads the present state."""


def read_transaction(answer: str) -> ReadTransaction:
    document = json.loads(answer)
    return ReadTransaction(document["transaction"], document["snapshot_age"])


def _table(described: Mapping[str, Any], listed: Mapping[str, ProtectedField]) -> Table:
    schema, name = described["schema"], described["name"]
    numbers = (described["key"] or {}).get("columns", ())
    columns = tuple(_column(one, schema, name, listed) for one in described["columns"] or ())
    by_number = {one.number: one for one in columns}
    protected = {one.name: one for one in columns if one.mode is not None}
    problem = _problem(described, columns, [by_number[number] for number in numbers], listed)
    return Table(
        described["oid"],
        schema,
        name,
        bool(described["alone"]),
        columns,
        tuple(by_number[number] for number in numbers),
        (described["key"] or {}).get("name", ""),
        f"{schema}.{name}: {problem}" if problem else "",
        protected,
    )


def _column(one: Mapping[str, Any], schema: str, table: str, listed: Mapping[str, ProtectedField]) -> Column:
    name = one["name"]
    chosen, comment = listed.get(name), _COMMENT.search(one["comment"] or "")
    mode = None
    if chosen is not None:
        mode = chosen.mode
    elif comment is not None:
        mode = Mode.DETERMINISTIC if comment[1] else Mode.RANDOMISED
    generator, default = "", one["default"] or ""
    if one["identity"] or re.fullmatch(r"nextval\('.*'::regclass\)", default):
        generator = "sequence" if one["sequence"] else default
    elif default:
        generator = "uuid" if default.rpartition(".")[2] in _UUID_DEFAULTS else default
    return Column(
        name,
        one["number"],
        _KINDS.get(one["type"], ""),
        mode,
        chosen is not None and chosen.plaintext_allowed,
        generator,
        one["sequence"] or "",
        one["identity"] == "a",
        values.column_place(Store.POSTGRESQL, schema, table, name) if mode is not None else b"",
        max(0, one["modifier"] - 4) if one["type"] == 1043 else 0,
    )


def _problem(
    described: Mapping[str, Any], columns: tuple[Column, ...], key: list[Column], listed: Mapping[str, ProtectedField]
) -> str:
    """Return why the table's columns cannot be protected, empty if they can."""
    protected = [one for one in columns if one.mode is not None]
    raw = {one["name"]: one for one in described["columns"] or ()}
    missing = sorted(set(listed) - set(raw))
    if missing:
        return f"the protected column {missing[0]} does not exist"
    if not protected:
        return ""
    if described["kind"] not in {"r", "p"}:
        return "only columns of ordinary and partitioned tables can be protected"
    if not key:
        return "a table with protected columns needs a primary key, since each value is bound to it"
    problems = [_key_problem(one, raw[one.name]) for one in key]
    problems += [_column_problem(one, raw[one.name]) for one in protected]
    return next(filter(None, problems), "")


def _key_problem(column: Column, raw: Mapping[str, Any]) -> str:
    if not column.kind or not raw["exact"]:
        return f"the primary key's column {column.name} must be an integer, text, varchar, uuid or bytea"
    return "" if column.mode is None else f"the primary key's column {column.name} cannot itself be protected"


def _column_problem(column: Column, raw: Mapping[str, Any]) -> str:
    if column.kind not in {"text", "bytea"} or raw["modifier"] != -1:
        return (
            f"the protected column {column.name} must be text, varchar without a length, or bytea: "
            "change its type, and store numbers and dates as text"
        )
    if raw["generated"] or raw["default"] not in {None, "NULL::text", "NULL::character varying", "NULL::bytea"}:
        return f"the protected column {column.name} has a default or is generated, which would be stored unencrypted"
    return ""


def _with_parents(described: Mapping[int, Table], parts: Iterable[Mapping[str, Any]]) -> list[Table]:
    """Return the tables without the partitions that their parents protect, whose names place their values.

    A parent that does not protect what its partition does has a problem: its rows would be stored in the partition
    unencrypted.
    """
    problems: dict[int, str] = {}
    covered: set[int] = set()
    for part in parts:
        parent, child = described[part["base"]], described.get(part["oid"])
        inherited = [name for name in child.protected if parent.column(name)] if child is not None else []
        unprotected = [name for name in inherited if name not in parent.protected]
        if child is not None and unprotected:
            problems[child.oid] = problems[parent.oid] = (
                f"{child.full_name}: the protected column {unprotected[0]} is inherited from {parent.full_name}: "
                "protect it there"
            )
        elif inherited:
            covered.add(part["oid"])
    return [
        replace(table, problem=problems.get(oid, table.problem))
        for oid, table in described.items()
        if oid in problems or oid not in covered
    ]


def _rejected_relations(document: Mapping[str, Any], tables: Mapping[int, Table]) -> dict[tuple[str, str], str]:
    found = {}
    for view in document["views"] or ():
        for oid, column in view["uses"] or ():
            table = tables.get(oid)
            if table is not None and column in table.protected:
                found[view["schema"], view["name"]] = f"the view {view['name']} reads protected columns"
    for part in document["parts"] or ():
        parent = tables.get(part["base"])
        if parent is not None and parent.protected:
            found[part["schema"], part["name"]] = f"{part['name']} is a partition of {parent.full_name}: use that name"
    return found


def key_value(kind: str, value: object) -> KeyValue | None:
    """Return a primary key value in the canonical form for places, None for an unsupported value."""
    if kind == "int" and type(value) is int:
        return value
    if kind == "text" and isinstance(value, str):
        return value if type(value) is str else str.__str__(value)
    if kind == "uuid":
        if isinstance(value, UUID):
            return value
        return _uuid(value) if isinstance(value, str) else None
    if kind == "bytea" and isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    return None


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def question(fields: Iterable[ProtectedField]) -> bytes:
    """Return the catalogue query, whose result is one JSON text; it takes no lock and needs no privilege."""
    named = [{"schema": schema, "table": table} for schema, table in sorted({table_of(one) for one in fields})]
    literal = json.dumps(named).replace("\\", "\\\\").replace("'", "''")
    return _QUERY.replace("@named@", f"E'{literal}'").encode("ascii")


def table_of(one: ProtectedField) -> tuple[str, str]:
    """Return schema and table of a protected column; the default schema is `public`."""
    schema, _, table = one.place.rpartition(".")
    return schema or "public", table


_QUERY = r"""
WITH RECURSIVE named AS (
  SELECT * FROM pg_catalog.json_to_recordset(@named@) AS one("schema" text, "table" text)
), chosen AS (
  SELECT c.oid, n.nspname, c.relname, c.relkind
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND (
     EXISTS (SELECT FROM named WHERE named."schema" = n.nspname AND named."table" = c.relname)
     OR c.oid IN (SELECT d.objoid FROM pg_catalog.pg_description d
                   WHERE d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objsubid > 0
                     AND d.description LIKE '%openkcm:%encrypt%'))
), protected AS (
  SELECT * FROM chosen
  UNION
  SELECT c.oid, n.nspname, c.relname, c.relkind
    FROM protected p JOIN pg_catalog.pg_inherits i ON i.inhrelid = p.oid
    JOIN pg_catalog.pg_class c ON c.oid = i.inhparent JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
), family AS (
  SELECT oid, oid AS base FROM protected
  UNION
  SELECT i.inhrelid, f.base FROM family f JOIN pg_catalog.pg_inherits i ON i.inhparent = f.oid
), ruled AS MATERIALIZED (
  SELECT DISTINCT d.objid AS rule, d.refobjid AS oid, f.base
    FROM family f JOIN pg_catalog.pg_depend d ON d.refobjid = f.oid
   WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
     AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
), dependent AS (
  SELECT r.ev_class AS oid, x.base, a.attname
    FROM ruled x JOIN pg_catalog.pg_rewrite r ON r.oid = x.rule AND r.ev_class <> x.oid
    JOIN pg_catalog.pg_class t ON t.oid = x.oid
    -- The use of a whole row, of the table's type or of a join, has no dependency on its columns.
    CROSS JOIN LATERAL (SELECT pg_catalog.concat(r.ev_qual::text, r.ev_action::text)
      ~ pg_catalog.concat(':varattno 0 :vartype (2249|', t.reltype, ') ') AS row OFFSET 0) uses
    JOIN pg_catalog.pg_attribute a ON a.attrelid = x.oid AND a.attnum > 0 AND (uses.row OR EXISTS (
      SELECT FROM pg_catalog.pg_depend d
       WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = x.rule
         AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = x.oid
         AND d.refobjsubid = a.attnum))
), over AS (
  SELECT d.objid AS rule, r.ev_class AS oid, d.refobjid AS base
    FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid AND r.ev_class <> d.refobjid
   WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
     AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.refobjid > 16383
), reached AS (
  SELECT oid, oid AS base FROM dependent
  UNION
  SELECT over.oid, reached.base FROM over JOIN reached ON reached.oid = over.base
), namesakes AS (
  SELECT c.relname, pg_catalog.count(*) AS n FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace t ON t.oid = c.relnamespace
   WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND c.relname IN (SELECT relname FROM protected)
     AND t.nspname NOT LIKE 'pg\_temp%'
   GROUP BY c.relname
)
SELECT pg_catalog.json_build_object(
 'transaction', pg_catalog.pg_current_xact_id_if_assigned()::text,
 'snapshot_age', CASE WHEN pg_catalog.current_setting('transaction_isolation') IN ('repeatable read', 'serializable')
   THEN EXTRACT(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.transaction_timestamp()) ELSE 0 END,
 'tables', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
   'oid', p.oid::bigint, 'schema', p.nspname, 'name', p.relname, 'kind', p.relkind,
   'alone', (SELECT n = 1 FROM namesakes WHERE namesakes.relname = p.relname),
   'columns', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
      'name', a.attname, 'number', a.attnum, 'type', a.atttypid::bigint, 'modifier', a.atttypmod,
      'default', pg_catalog.pg_get_expr(f.adbin, f.adrelid), 'identity', a.attidentity::text,
      'generated', a.attgenerated::text,
      'sequence', CASE WHEN a.atttypid IN (20, 21, 23) THEN pg_catalog.pg_get_serial_sequence(
          pg_catalog.quote_ident(p.nspname) || '.' || pg_catalog.quote_ident(p.relname), a.attname) END,
      'exact', COALESCE((SELECT l.collisdeterministic FROM pg_catalog.pg_collation l
                          WHERE l.oid = a.attcollation), true),
      'comment', pg_catalog.col_description(p.oid, a.attnum)) ORDER BY a.attnum)
      FROM pg_catalog.pg_attribute a
      LEFT JOIN pg_catalog.pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
     WHERE a.attrelid = p.oid AND a.attnum > 0 AND NOT a.attisdropped),
   'key', (SELECT pg_catalog.json_build_object('name', k.conname, 'columns', k.conkey)
             FROM pg_catalog.pg_constraint k WHERE k.conrelid = p.oid AND k.contype = 'p')))
   FROM protected p),
 'views', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
   'schema', n.nspname, 'name', c.relname, 'uses',
     (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(d.base::bigint, d.attname))
        FROM dependent d WHERE d.oid = v.base)))
   FROM reached v JOIN pg_catalog.pg_class c ON c.oid = v.oid
   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace),
 'parts', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
   'oid', c.oid::bigint, 'schema', n.nspname, 'name', c.relname, 'base', f.base::bigint))
   FROM family f JOIN pg_catalog.pg_class c ON c.oid = f.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE f.oid <> f.base)
)::text
"""
