"""The scheduled publication of CRLs: every stale CRL is published, the oldest first."""

from datetime import timedelta

from database.platform.scheduled import PlatformQueries
from tests.activities.provisioning import Provisioning
from tests.database.fixtures import Field

OLD = timedelta(hours=12)
BROKEN = 220


def make_stale(field: Field, tenant: Provisioning) -> None:
    """Make the tenant's CRL 13 hours old, and add tenants with older CRLs whose keys do not exist."""
    with field.administrator() as administrator:
        administrator.execute(
            "update okcm.certificate_revocation_list set this_update = now() - interval '13 hours'"
            " where tenant_id = %s",
            [tenant.tenant_id],
        )
        administrator.execute(
            f"""
            insert into okcm.tenant (tenant_id, organization, region, state, requested_at, ready_at)
                select 'broken-' || n, 'Broken', 'eu-west-1', 'active', now(), now()
                from generate_series(1, {BROKEN}) n;
            insert into okcm.key (tenant_id, name, kind, version)
                select 'broken-' || n, 'CA-broken-' || n, 'CA', 1 from generate_series(1, {BROKEN}) n;
            insert into okcm.certificate_authority (tenant_id, serial, certificate_pem, chain_pem, not_after,
                                                    key_version, state)
                select 'broken-' || n, 'ff' || lpad(n::text, 8, '0'), certificate_pem, chain_pem, not_after, 1,
                       'current'
                from okcm.certificate_authority, generate_series(1, {BROKEN}) n;
            insert into okcm.certificate_revocation_list (tenant_id, authority, number, der, this_update, next_update)
                select 'broken-' || n, 'ff' || lpad(n::text, 8, '0'), 1, der, now() - interval '20 hours', next_update
                from okcm.certificate_revocation_list, generate_series(1, {BROKEN}) n;
            """
        )


def test_crls_that_cannot_be_signed_delay_no_other(active, field) -> None:
    active.run("publish-revocation-list")
    make_stale(field, active)
    queries = PlatformQueries(active.database)
    assert queries.stale_revocation_lists(OLD, BROKEN + 9)[-1] == active.tenant_id
    active.run_platform("publish-revocation-lists")
    assert len(queries.stale_revocation_lists(OLD, BROKEN + 9)) == BROKEN
    assert active.read(lambda tx: tx.certificates.revocation_lists()[0].number) == 2
