"""Scheduled runs: tenants whose work fails each time delay no other tenant."""

import pytest
from temporalio.testing import ActivityEnvironment

from activities.runtime.concurrency import run_for_each_tenant
from core.errors.platform import VaultUnavailable
from core.scheduled import ScheduledTask
from database.platform.scheduled import PlatformQueries
from tests.activities.provisioning import Provisioning
from tests.database.fixtures import Field

FAILING = 220
"""More than the limit of each run."""


def add_tenants(field: Field) -> None:
    """Add active tenants without keys in Transit whose CA and tenant key are due for rotation."""
    with field.administrator() as administrator:
        administrator.execute(
            f"""
            insert into okcm.tenant (tenant_id, organization, region, state, requested_at, ready_at)
                select 'failing-' || n, 'Failing', 'eu-west-1', 'active', now(), now()
                from generate_series(1, {FAILING}) n;
            insert into okcm.key (tenant_id, name, kind, version, rotated_at)
                select 'failing-' || n, kind || '-failing-' || n, kind, 1, now() - interval '800 days'
                from generate_series(1, {FAILING}) n, unnest(array['CA', 'L2']) kind;
            insert into okcm.certificate_authority (tenant_id, serial, certificate_pem, chain_pem, recorded_at,
                                                    not_after, key_version, state)
                select 'failing-' || n, 'ff' || lpad(n::text, 8, '0'), 'certificate', 'chain',
                       now() - interval '300 days', now() + interval '1 day', 1, 'current'
                from generate_series(1, {FAILING}) n;
            """
        )


@pytest.mark.parametrize(("name", "batch"), [("find-due-cas", 100), ("find-due-rotations", 200)])
def test_each_due_tenant_gets_its_turn_although_none_is_rotated(tenant, field, name: str, batch: int) -> None:
    add_tenants(field)
    seen: set[str] = set()
    for _ in range(-(-FAILING // batch)):
        turns = tenant.run_platform(name).tenants
        assert len(turns) == batch
        seen |= set(turns)
    assert len(seen) == FAILING


def test_credentials_that_cannot_be_erased_delay_no_other(tenant: Provisioning, field: Field) -> None:
    add_tenants(field)
    with field.administrator() as administrator:
        administrator.execute(
            """
            insert into okcm.tenant (tenant_id, organization, region) values ('last-corp', 'Last', 'eu-west-1');
            insert into okcm.root_key_request (tenant_id, request_id, place, sealed, requested_at)
                select tenant_id, md5(tenant_id), '{}', 'sealed', now() - interval '1 hour' from okcm.tenant
                where tenant_id like 'failing-%' or tenant_id = 'last-corp';
            create function okcm.fail() returns trigger language plpgsql as 'begin raise check_violation; end';
            create trigger fails before update on okcm.root_key_request for each row
                when (new.tenant_id like 'failing-%') execute function okcm.fail();
            """
        )
    tenant.run_platform("purge-unused-credentials")
    left = PlatformQueries(tenant.database).untaken_credentials(FAILING + 1)
    assert len(left) == FAILING
    assert "last-corp" not in left


def test_run_begins_with_the_tenants_that_the_last_one_did_not_reach(parts, field) -> None:
    add_tenants(field)
    database, tried = parts.database, []

    def fail(tenant_id: str) -> None:
        tried.append(tenant_id)
        raise VaultUnavailable

    for _ in range(3):
        due = PlatformQueries(database).due_authorities(FAILING)
        ActivityEnvironment().run(run_for_each_tenant, database, ScheduledTask.CA_ROTATION, due, fail, 0.0)
    assert len(set(tried)) == len(tried) == 3


def test_fault_with_the_data_of_one_tenant_stops_no_other(parts, field) -> None:
    add_tenants(field)
    done = []

    def work(tenant_id: str) -> None:
        if tenant_id == "failing-1":
            raise ValueError(tenant_id)
        done.append(tenant_id)

    due = ["failing-1", "failing-2"]
    ActivityEnvironment().run(run_for_each_tenant, parts.database, ScheduledTask.EXPIRY, due, work)
    assert done == ["failing-2"]
