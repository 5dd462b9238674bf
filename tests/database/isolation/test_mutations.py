"""Each isolation control is removed or weakened in a clone of the database, and the isolation suite must detect it.

The mutants are derived from the catalog, so that they include new policies, tables and triggers automatically. An
undetected mutant is an isolation control without a test.
"""

import re
from collections.abc import Iterator

import pytest

from tests.database.builders import a_dead_letter, a_leaving, an_archive
from tests.database.fixtures import Field, Server, clone
from tests.database.isolation.breaking import ATTACKER, VICTIM, breaches_of
from tests.database.templates import two_tenants

_OWN_KEY = "select from okcm.context_key where role = session_user::text"
_CTX_OK = (
    "create or replace function okcm.ctx_ok() returns boolean language plpgsql stable parallel restricted"
    " security definer set search_path = pg_catalog, pg_temp as $$ {} $$"
)


@pytest.fixture(scope="module")
def populated(server: Server, template: str) -> Iterator[Field]:
    """A database with two tenants and rows in every table; no session remains, so that it can be cloned."""
    with clone(server, template) as field:
        two_tenants(root_keys=True)(field)
        for tenant in (ATTACKER, VICTIM):
            a_leaving(field, tenant)
            an_archive(field, tenant)
            a_dead_letter(field, tenant)
        field.close()
        yield field


def undetected(populated: Field, mutants: list[str]) -> list[str]:
    assert mutants, "the query returned no mutants"
    return [mutant for mutant in mutants if not _first_breach(populated, mutant)]


def _first_breach(populated: Field, mutant: str) -> str | None:
    with clone(populated.server, populated.name) as field:
        with field.administrator() as administrator:
            administrator.execute(mutant)
        # Attacks on the mutated object first; all others only if none of these succeeds.
        about = re.search(r"okcm\.(\w+)", mutant)
        return (next(breaches_of(field, about[1]), None) if about else None) or next(breaches_of(field), None)


def _query(populated: Field, query: str) -> list[tuple[str, ...]]:
    with populated.administrator() as administrator:
        return administrator.execute(query).fetchall()


def test_isolation_suite_detects_a_dropped_policy(populated: Field) -> None:
    assert undetected(populated, ["drop policy signed on okcm.service_key"]) == []


@pytest.mark.full
@pytest.mark.parametrize(
    "query",
    [
        (
            "select format('drop policy %I on okcm.%I', policyname, tablename) from pg_policies"
            " where schemaname = 'okcm' and permissive = 'RESTRICTIVE' and policyname <> 'begins_requested'"
        ),
        (
            "select format('alter policy %I on okcm.%I using (true)', policyname, tablename)"
            " || case when with_check is null then '' else ' with check (true)' end"
            " from pg_policies where schemaname = 'okcm' and permissive = 'PERMISSIVE'"
        ),
        # Less access is detected as well: by the positive control that every process reads its own rows.
        (
            "select format('drop policy %I on okcm.%I', policyname, tablename) from pg_policies where schemaname ="
            " 'okcm' and permissive = 'PERMISSIVE' and roles <> '{okcm_owner}' and policyname <> 'every_tenant'"
        ),
        (
            "select format('alter table okcm.%I %s row level security', relname, how)"
            " from pg_class, unnest(array['disable', 'no force']) as how"
            " where relnamespace = 'okcm'::regnamespace and relrowsecurity"
            " and (not relispartition or relname in ('audit_event_' || (select distinct right(tableoid::regclass::text,"
            f" 2) from okcm.audit_event where tenant_id = '{VICTIM}')))"
        ),
        (
            "select format(how, tgname, tgrelid::regclass) from pg_trigger,"
            " unnest(array['drop trigger %1$I on %2$s', 'alter table %2$s enable trigger %1$I']) as how"
            " where tgfoid = 'okcm.refuse_change()'::regprocedure and tgparentid = 0"
            " and tgrelid::regclass::text !~ '_(0[1-9]|1.)$'"
        ),
        (
            "select format('drop trigger %I on %s', tgname, tgrelid::regclass) from pg_trigger where tgname = 'said'"
            " or tgfoid = 'okcm.require_signed_on()'::regprocedure"
        ),
        (
            "select format('alter table okcm.managed_object drop constraint %I', conname) from pg_constraint"
            " where conrelid = 'okcm.managed_object'::regclass and contype = 'f'"
        ),
    ],
    ids=[
        *("restrictive policy dropped", "permissive policy true", "permissive policy dropped", "row security off"),
        *("append-only trigger off", "trigger of people dropped", "reference of objects dropped"),
    ],
)
def test_isolation_suite_detects_each_removed_control(populated: Field, query: str) -> None:
    assert undetected(populated, [mutant for (mutant,) in _query(populated, query)]) == []


@pytest.mark.full
@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("role = session_user::text", "role = 'okcm_worker'"),
        ("role = session_user::text", "role = 'okcm_marketplace'"),
        ("role = session_user::text", "role = current_user::text"),
        ("return exists", f"return not exists ({_OWN_KEY}) or exists"),
        ("return exists", "return length(current_setting('app.ctx', true)) = 64 or exists"),
    ],
)
def test_isolation_suite_detects_a_weakened_context_check(populated: Field, line: str, instead: str) -> None:
    [(body,)] = _query(populated, "select prosrc from pg_proc where proname = 'ctx_ok'")
    assert line in body
    assert undetected(populated, [_CTX_OK.format(body.replace(line, instead))]) == []


@pytest.mark.full
@pytest.mark.parametrize(
    ("part", "instead"),
    [
        ("tenant, pg_backend_pid()", "'acme', pg_backend_pid()"),
        ("pg_backend_pid()", "pg_backend_pid() + 1"),
        ("extract(epoch from transaction_timestamp())", "extract(epoch from transaction_timestamp()) - 0.000001"),
    ],
)
def test_isolation_suite_detects_a_context_check_that_accepts_others(populated: Field, part: str, instead: str) -> None:
    [(body,)] = _query(populated, "select prosrc from pg_proc where proname = 'ctx_ok'")
    check = re.search(r"return (exists.*?);\nend", body, re.DOTALL)
    assert check is not None
    assert part in check[1]
    weak = body.replace(check[1], f"{check[1]} or {check[1].replace(part, instead)}")
    assert undetected(populated, [_CTX_OK.format(weak)]) == []


@pytest.mark.full
@pytest.mark.parametrize(
    "mutant",
    [
        _CTX_OK.format("begin return true; end"),
        (
            "create or replace function okcm.require_platform_context() returns void language plpgsql stable"
            " set search_path = pg_catalog, pg_temp as $$ begin end $$"
        ),
        "grant select on okcm.context_key to okcm_worker",
        "grant update (first_contact_at) on okcm.agent to okcm_crypto",
        "grant insert (state) on okcm.approval to okcm_dashboard",
        "grant truncate on okcm.outbox to okcm_worker",
        "grant trigger on okcm.route to okcm_worker",
        "grant execute on all functions in schema okcm to public",
        "grant create on schema okcm to okcm_marketplace",
        "revoke select on okcm.report from okcm_worker",
    ],
)
def test_isolation_suite_detects_an_empty_check_and_a_changed_grant(populated: Field, mutant: str) -> None:
    assert undetected(populated, [mutant]) == []
