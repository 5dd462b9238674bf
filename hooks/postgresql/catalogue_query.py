"""The one question to a database's catalogue: which columns are protected, of which tables, with which keys."""

import json
from collections.abc import Iterable

from tenancy.protection import ProtectedField


def question(fields: Iterable[ProtectedField]) -> bytes:
    """Return the query, whose answer is one JSON text; it takes no lock and needs no privilege."""
    named = [{"schema": schema, "table": table} for schema, table in sorted({table_of(one) for one in fields})]
    literal = json.dumps(named).replace("\\", "\\\\").replace("'", "''")
    return _QUERY.replace("@named@", f"E'{literal}'").encode("ascii")


def table_of(one: ProtectedField) -> tuple[str, str]:
    """Return schema and table of a protected column; a place without a schema is in `public`."""
    schema, _, table = one.place.rpartition(".")
    return schema or "public", table


_QUERY = r"""
WITH RECURSIVE named AS (
  SELECT * FROM pg_catalog.json_to_recordset(@named@) AS one("schema" text, "table" text)
), protected AS (
  SELECT c.oid, n.nspname, c.relname, c.relkind
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND (
     EXISTS (SELECT FROM named WHERE named."schema" = n.nspname AND named."table" = c.relname)
     OR c.oid IN (SELECT d.objoid FROM pg_catalog.pg_description d
                   WHERE d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objsubid > 0
                     AND d.description LIKE '%openkcm:%encrypt%'))
), dependent AS (
  SELECT r.ev_class AS oid, d.refobjid AS base, d.refobjsubid AS attnum
    FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid AND r.ev_class <> d.refobjid
   WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
     AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
     AND d.refobjid IN (SELECT oid FROM protected)
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
     (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(d.base::bigint, d.attnum))
        FROM dependent d WHERE d.oid = v.base)))
   FROM reached v JOIN pg_catalog.pg_class c ON c.oid = v.oid
   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace),
 'parts', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
   'schema', n.nspname, 'name', c.relname, 'base', i.inhparent::bigint))
   FROM pg_catalog.pg_inherits i JOIN protected p ON p.oid = i.inhparent
   JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace)
)::text
"""
