"""The rules for the schema, verified in the catalog after every migration. A finding fails the deployment.

Each rule covers a reproduced or known vulnerability; `test_lint.py` creates one violation per rule and requires a
finding. pgrls proves the logic of the policies in the tests. These rules cover what it cannot: grants, functions,
unique keys, and foreign keys, which PostgreSQL checks without row-level security.
"""

from dataclasses import dataclass
from types import MappingProxyType

import psycopg

from database.postgres.access import OWNER, SESSION_ROLES


@dataclass(frozen=True, slots=True)
class Finding:
    rule: str
    object: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.object}"


# Shared by the rules. `reachable` are our relations on which a process's role, or PUBLIC, has any right.
_COMMON = """
with session_role as (select * from pg_roles where rolname = any(%(session_roles)s)),
ours as (select oid, relname, relkind, relowner, relacl, reloptions, relispartition,
                relrowsecurity and relforcerowsecurity as forced,
                exists (select from pg_attribute where attrelid = c.oid and attname = 'tenant_id') as of_tenant
         from pg_class c where relnamespace = to_regnamespace('okcm') and relkind in ('r', 'p', 'v', 'm', 'f', 'S')),
reachable as (select o.* from ours o where relkind <> 'S' and exists (select from session_role r
              where has_table_privilege(r.oid, o.oid, 'select, insert, update, delete, truncate, references, trigger')
                 or has_any_column_privilege(r.oid, o.oid, 'select, insert, update, references'))),
stream as (select * from ours where relkind in ('r', 'p')
           and relname ~ '^audit_(event|event_.*|signed_head|archive|key)$'),
policy as (select o.relname, p.*, pg_get_expr(polqual, polrelid) as sees, pg_get_expr(polwithcheck, polrelid) as writes
           from pg_policy p join ours o on o.oid = p.polrelid),
procedure as (select oid::regprocedure::text as name, * from pg_proc where pronamespace = to_regnamespace('okcm'))
"""

_TENANT_IS = "(tenant_id = ( SELECT current_setting(''app.tenant_id''::text, true) AS current_setting))"
_PLATFORM_IS = "(( SELECT current_setting(''app.tenant_id''::text, true) AS current_setting) = ''*''::text)"

RULES = MappingProxyType(
    {
        # Without both, every role with a grant can read the table, and so can the owner and every definer function.
        "row-security-not-forced": """
            select relname from ours where relkind in ('r', 'p') and not forced
            and (of_tenant or oid in (select oid from reachable))""",
        "reachable-without-tenant-id": "select relname from reachable where not of_tenant",
        # PostgreSQL returns '' for a setting that was reset, and '*' selects all tenants: neither may be a tenant's id.
        "tenant-id-unchecked": """
            select relname from ours o where of_tenant and relkind in ('r', 'p') and not exists (
                select from pg_constraint k join pg_attribute a on a.attrelid = o.oid and a.attname = 'tenant_id'
                where k.conrelid = o.oid and k.contype = 'c' and k.convalidated and a.attnotnull
                and pg_get_constraintdef(k.oid) = 'CHECK ((tenant_id ~ ''^[a-z0-9][a-z0-9-]{2,39}$''::text))')""",
        "signed-policy-missing": """
            select relname from ours o where of_tenant and relkind in ('r', 'p') and not relispartition
            and not exists (select from policy p where p.polrelid = o.oid and not polpermissive and polcmd = '*'
                and polroles = '{0}'
                and sees = '( SELECT okcm.ctx_ok() AS ctx_ok)' and coalesce(writes, sees) = sees)""",
        # Inline and for named roles: only then can pgrls prove it, and a new role starts without rights.
        "permissive-policy-for-everybody": """
            select relname || '.' || polname from policy where polpermissive and polroles && '{0}'""",
        "permissive-policy-not-by-tenant": f"""
            select relname || '.' || polname from policy p, unnest(array[sees, writes]) as part
            where polpermissive and part is not null
            and part <> '{_TENANT_IS}'
            and not (part like '({_TENANT_IS} AND %%' and part not like '%% OR %%')
            and not (part = '{_PLATFORM_IS}' and polcmd = 'r'
                     and polroles <@ array[to_regrole(%(owner)s)::oid, to_regrole('okcm_operator')::oid])""",  # noqa: S608 - constants
        # A direct query of a partition bypasses the policies of its parent.
        "partition-reachable": "select relname from reachable where relispartition",
        "view-with-owners-rights": """
            select relname from ours where relkind = 'v'
            and not coalesce(reloptions @> '{security_invoker=true}', false)""",
        # Row-level security does not apply to stored results.
        "materialized-view": "select relname from ours where relkind = 'm'",
        "foreign-table": "select relname from ours where relkind = 'f'",
        "function-search-path-open": """
            select name from procedure where prosecdef
            and not coalesce(proconfig @> '{"search_path=pg_catalog, pg_temp"}', false)""",
        "function-for-everybody": """
            select name from procedure p where exists (
                select from aclexplode(coalesce(proacl, acldefault('f', proowner))) where grantee = 0)""",
        # PostgreSQL may run a leakproof function on rows before row-level security.
        "function-leakproof": "select name from procedure where proleakproof",
        # The error for a duplicate or a missing reference would reveal another tenant's row. One unique key spans
        # tenants on purpose: a duplicate in it is a shared tenant key. It is permitted only while no process has any
        # right on its table; the function that writes to it returns one word instead of the error.
        "key-not-led-by-tenant": """
            select i.indexrelid::regclass::text from pg_index i join ours o on o.oid = i.indrelid
            where (of_tenant or o.oid in (select oid from reachable)) and (indisunique or indisexclusion)
            and not exists (select from pg_attribute a
                where a.attrelid = o.oid and a.attnum = indkey[0] and a.attname = 'tenant_id')
            and not (i.indexrelid = to_regclass('okcm.key_fingerprint_of_one_key_alone')
                     and o.oid not in (select oid from reachable))""",
        "reference-not-led-by-tenant": """
            select o.relname || '.' || conname from pg_constraint k join ours o on o.oid = k.conrelid
            where contype = 'f' and not (
                exists (select from pg_attribute
                    where attrelid = conrelid and attnum = conkey[1] and attname = 'tenant_id')
                and exists (select from pg_attribute
                    where attrelid = confrelid and attnum = confkey[1] and attname = 'tenant_id'))""",
        # TRUNCATE ignores row-level security, REFERENCES tests for rows, TRIGGER runs code in others' transactions.
        "right-past-row-security": """
            select o.relname || ' to ' || r.rolname from ours o, session_role r where relkind <> 'S'
            and has_table_privilege(r.oid, o.oid, 'truncate, references, trigger')""",
        "granted-to-everybody": "select relname from ours, aclexplode(relacl) where grantee = 0",
        "role-too-powerful": """
            select rolname from session_role r where rolsuper or rolbypassrls or rolcreaterole or rolcreatedb
            or rolinherit or rolreplication
            or exists (select from pg_auth_members where member = r.oid)
            or exists (select from pg_class where relowner = r.oid)
            or exists (select from pg_proc where proowner = r.oid)
            or has_database_privilege(r.oid, current_database(), 'create, temporary')
            or has_schema_privilege(r.oid, 'okcm', 'create') or has_schema_privilege(r.oid, 'public', 'create')""",
        "role-missing": """
            select name from unnest(%(session_roles)s::text[]) as name
            where name not in (select rolname from session_role)""",
        "owner-can-act": """
            select rolname from pg_roles where rolname = %(owner)s and (rolcanlogin or rolsuper or rolbypassrls)""",
        "owned-by-another": """
            select name from (select relname::text as name, relowner as by from ours
                              union all select name, proowner from procedure) as thing
            where by <> to_regrole(%(owner)s)""",
        # UPDATE and DELETE per row, TRUNCATE on tables with rows; ALWAYS, so that replica mode does not disable them.
        "audit-not-append-only": """
            select relname from stream s where (select array_agg(tgname::text order by tgname) from pg_trigger
                where tgrelid = s.oid and tgenabled = 'A' and tgfoid = to_regprocedure('okcm.refuse_change()'))
            is distinct from
            case relkind when 'p' then array['append_only'] else array['append_only', 'no_truncate'] end""",
    }
)

_QUERY = _COMMON + " union all ".join(
    f"select '{name}', object::text from ({rule}) as found (object)"  # noqa: S608 - constants
    for name, rule in RULES.items()
)


def findings(connection: psycopg.Connection) -> tuple[Finding, ...]:
    """Return every violation of a rule, at most one for each rule and object."""
    rows = connection.execute(_QUERY, {"session_roles": list(SESSION_ROLES), "owner": OWNER}).fetchall()
    return tuple(Finding(rule, name) for rule, name in sorted(set(rows)))
