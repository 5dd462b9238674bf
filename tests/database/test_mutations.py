"""Each wall is taken down or weakened in a database of its own, and the isolation suite must notice.

The mutants are made from the catalog, so a new policy, table or trigger is in the test by itself. A mutant that nobody
notices is a wall that nobody tests.
"""

import re
from collections.abc import Iterator

import pytest

from tests.database.breaking import ATTACKER, VICTIM, breaches_of
from tests.database.builders import a_connected_service, a_leaving, a_provisioned_tenant, a_root_key
from tests.database.fixtures import Field, Server, clone

_CTX_OK = (
    "create or replace function okcm.ctx_ok() returns boolean language plpgsql stable parallel restricted"
    " security definer set search_path = pg_catalog, pg_temp as $$ {} $$"
)


@pytest.fixture(scope="module")
def populated(server: Server, template: str) -> Iterator[Field]:
    """Two tenants with rows everywhere; nobody stays connected, so that it can be cloned."""
    with clone(server, template) as field:
        worker = field.open("worker")
        for tenant in (ATTACKER, VICTIM):
            a_provisioned_tenant(worker, tenant)
            a_connected_service(field, tenant)
            a_root_key(field, tenant)
            a_leaving(field, tenant)
        field.close()
        yield field


def survivors(populated: Field, mutants: list[str]) -> list[str]:
    assert mutants, "nothing was mutated"
    return [mutant for mutant in mutants if not _noticed(populated, mutant)]


def _noticed(populated: Field, mutant: str) -> str | None:
    with clone(populated.server, populated.name) as field:
        with field.administrator() as administrator:
            administrator.execute(mutant)
        # What it was done to comes first; what is noticed by nothing about that must stand everything.
        about = re.search(r"okcm\.(\w+)", mutant)
        return (next(breaches_of(field, about[1]), None) if about else None) or next(breaches_of(field), None)


def _ask(populated: Field, question: str) -> list[tuple[str, ...]]:
    with populated.administrator() as administrator:
        return administrator.execute(question).fetchall()


def test_the_suite_is_green_without_a_mutation(populated: Field) -> None:
    assert _noticed(populated, "select 1") is None


def test_a_dropped_restrictive_policy_is_noticed(populated: Field) -> None:
    rows = _ask(
        populated,
        "select format('drop policy %I on okcm.%I', policyname, tablename) from pg_policies"
        " where schemaname = 'okcm' and permissive = 'RESTRICTIVE' and policyname <> 'begins_requested'",
    )
    assert survivors(populated, [mutant for (mutant,) in rows]) == []


def test_a_permissive_policy_that_lets_everything_through_is_noticed(populated: Field) -> None:
    rows = _ask(
        populated,
        "select format('alter policy %I on okcm.%I using (true)', policyname, tablename)"
        " || case when with_check is null then '' else ' with check (true)' end"
        " from pg_policies where schemaname = 'okcm' and permissive = 'PERMISSIVE'",
    )
    assert survivors(populated, [mutant for (mutant,) in rows]) == []


def test_a_dropped_permissive_policy_is_noticed(populated: Field) -> None:
    """Less access is noticed too: by the positive control that every process sees its own rows."""
    rows = _ask(
        populated,
        "select format('drop policy %I on okcm.%I', policyname, tablename) from pg_policies where schemaname = 'okcm'"
        " and permissive = 'PERMISSIVE' and roles <> '{okcm_owner}' and policyname <> 'every_tenant'",
    )
    assert survivors(populated, [mutant for (mutant,) in rows]) == []


def test_row_security_that_is_off_or_not_forced_is_noticed(populated: Field) -> None:
    rows = _ask(
        populated,
        "select format('alter table okcm.%I %s row level security', relname, how)"
        " from pg_class, unnest(array['disable', 'no force']) as how"
        " where relnamespace = 'okcm'::regnamespace and relrowsecurity"
        " and (not relispartition or relname in ('audit_event_' || ("
        f"   select distinct right(tableoid::regclass::text, 2) from okcm.audit_event where tenant_id = '{VICTIM}')))",
    )
    assert survivors(populated, [mutant for (mutant,) in rows]) == []


def test_an_append_only_trigger_that_is_gone_or_can_be_switched_off_is_noticed(populated: Field) -> None:
    rows = _ask(
        populated,
        "select format(how, tgname, tgrelid::regclass) from pg_trigger,"
        " unnest(array['drop trigger %1$I on %2$s', 'alter table %2$s enable trigger %1$I']) as how"
        " where tgfoid = 'okcm.refuse_change()'::regprocedure and tgparentid = 0"
        " and tgrelid::regclass::text !~ '_(0[1-9]|1.)$'",
    )
    assert survivors(populated, [mutant for (mutant,) in rows]) == []


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("or parts[1] is distinct from tenant", ""),
        ("<= extract(epoch from statement_timestamp())", "<= 0"),
        ("role = session_user::text", "role = 'okcm_worker'"),
        ("role = session_user::text", "role = 'okcm_marketplace'"),
        ("role = session_user::text", "role = current_user::text"),
        ("if not found then\n        return false;", "if not found then\n        return true;"),
        ("return parts[3] = encode(", "return parts[3] <> encode("),
        ("return parts[3] = encode(", "return length(parts[3]) = 64 or parts[3] = encode("),
        ("convert_to(parts[1] || '|' || parts[2], 'UTF8')", "convert_to(parts[2], 'UTF8')"),
    ],
)
def test_a_weakened_line_of_the_context_check_is_noticed(populated: Field, line: str, instead: str) -> None:
    [(body,)] = _ask(populated, "select prosrc from pg_proc where proname = 'ctx_ok'")
    assert line in body
    assert survivors(populated, [_CTX_OK.format(body.replace(line, instead))]) == []


def test_a_context_check_that_always_agrees_is_noticed(populated: Field) -> None:
    assert survivors(populated, [_CTX_OK.format("begin return true; end")]) == []


def test_a_grant_too_many_is_noticed(populated: Field) -> None:
    mutants = [
        "grant select on okcm.context_key to okcm_worker",
        "grant select on okcm.audit_event to okcm_marketplace",
        "grant update on okcm.audit_head to okcm_worker",
        "grant insert on okcm.audit_event to okcm_worker",
        "grant update (organization) on okcm.marketplace_event to okcm_marketplace",
        "grant truncate on okcm.outbox to okcm_worker",
        "grant trigger on okcm.route to okcm_worker",
        "grant update on okcm.tenant to okcm_operator",
        "grant execute on all functions in schema okcm to public",
        "grant create on schema okcm to okcm_marketplace",
        "grant update (state) on okcm.service to okcm_crypto",
        "grant update (revoked_at) on okcm.service_certificate to okcm_crypto",
        "grant update (wrapped) on okcm.service_key to okcm_crypto",
        "grant update (object_type) on okcm.managed_object to okcm_crypto",
        "grant delete on okcm.usage_minute to okcm_crypto",
        "grant delete on okcm.usage_day to okcm_crypto",
        "grant update (count) on okcm.usage_day to okcm_dashboard",
        "grant update (last_contact_at) on okcm.agent to okcm_dashboard",
        "grant update (first_contact_at) on okcm.agent to okcm_crypto",
        "grant delete on okcm.agent to okcm_worker",
        "grant select on okcm.protection_use to okcm_operator",
        "grant delete on okcm.protection_use to okcm_crypto",
        "grant select on okcm.backfill to okcm_operator",
        "grant delete on okcm.boundary_clause to okcm_worker",
        "grant update (breached) on okcm.boundary_clause to okcm_worker",
        "grant update (remaining) on okcm.backfill to okcm_dashboard",
        "grant delete on okcm.backfill to okcm_worker",
        "grant delete on okcm.protected_field to okcm_crypto",
        "grant update (version) on okcm.protection to okcm_dashboard",
        "grant update (field) on okcm.protected_field to okcm_operator",
        "grant select (changed_by) on okcm.protected_field to okcm_worker",
        "grant select on okcm.report to okcm_operator",
        "grant update (json) on okcm.report to okcm_dashboard",
        "grant update (until) on okcm.report to okcm_worker",
        "grant select on okcm.audit_event to okcm_crypto",
        "grant select (material) on okcm.managed_object to okcm_worker",
        "grant select (wrapped) on okcm.service_key to okcm_operator",
        "grant update (csr_pem) on okcm.service_request to okcm_operator",
        "grant select on okcm.outbox to okcm_dashboard",
        "grant update (expires_at) on okcm.dashboard_session to okcm_dashboard",
        "grant update (state) on okcm.service to okcm_dashboard",
        "grant select (wrapped) on okcm.service_key to okcm_dashboard",
        "grant update (state) on okcm.approval to okcm_dashboard",
        "grant insert (state) on okcm.approval to okcm_dashboard",
        "grant update (choice) on okcm.approval_vote to okcm_dashboard",
        "grant insert on okcm.join_token to okcm_marketplace",
        "grant update (service) on okcm.enrolment to okcm_marketplace",
        "grant select (csr_pem) on okcm.service_request to okcm_marketplace",
        "grant select (token_hash) on okcm.join_token to okcm_dashboard",
        "grant update (used_at) on okcm.join_token to okcm_operator",
        # Two locks on one door: only both gone let anything through. Who asks and votes must be signed on, which the
        # worker cannot look up; of a tenant's beginning the grant leaves out the column, and the policy its value.
        "grant insert on okcm.approval to okcm_worker; drop trigger signed_on on okcm.approval",
        "grant insert on okcm.approval_vote to okcm_worker; drop trigger signed_on on okcm.approval_vote",
        "grant insert on okcm.tenant to okcm_marketplace; drop policy begins_requested on okcm.tenant",
    ]
    assert survivors(populated, mutants) == []


def test_a_word_of_somebody_who_is_not_signed_on_is_noticed(populated: Field) -> None:
    rows = _ask(
        populated,
        "select format('drop trigger %I on %s', tgname, tgrelid::regclass) from pg_trigger"
        " where tgfoid = 'okcm.require_signed_on()'::regprocedure",
    )
    assert survivors(populated, [mutant for (mutant,) in rows]) == []


def test_a_field_that_goes_without_a_word_is_noticed(populated: Field) -> None:
    assert survivors(populated, ["drop trigger said on okcm.protected_field"]) == []


def test_an_object_without_its_descent_is_noticed(populated: Field) -> None:
    rows = _ask(
        populated,
        "select format('alter table okcm.managed_object drop constraint %I', conname) from pg_constraint"
        " where conrelid = 'okcm.managed_object'::regclass and contype = 'f'",
    )
    assert survivors(populated, [mutant for (mutant,) in rows]) == []


def test_the_policy_alone_keeps_a_tenant_from_beginning_active(populated: Field) -> None:
    assert _noticed(populated, "grant insert on okcm.tenant to okcm_marketplace, okcm_worker") is None


def test_the_platform_questions_ask_for_the_platforms_context(populated: Field) -> None:
    mutant = (
        "create or replace function okcm.require_platform_context() returns void language plpgsql stable"
        " set search_path = pg_catalog, pg_temp as $$ begin end $$"
    )
    assert survivors(populated, [mutant]) == []
