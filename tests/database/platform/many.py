"""Ten thousand tenants in every state, for tests of correctness and speed with many tenants."""

from tests.database.fixtures import Field

TENANTS = 10_000

# States, regions, ages and SLO breaches are independent, so that no two filters select the same rows.
_MANY = f"""
insert into okcm.tenant (tenant_id, organization, region, state, requested_at, ready_at, promise_broken_at)
select 'tenant-' || md5(n::text), 'Organization ' || n || case when n % 50 = 0 then ' 100% Söhne' else '' end,
       (array['eu-west-1', 'eu-central-1', 'us-east-1'])[1 + n % 3], state, asked,
       case when state in ('active', 'suspended', 'locked') then asked + (1 + n % 7) * interval '1 second' end,
       case when n % 101 = 0 then asked + interval '3 minutes' end
from (select n, clock_timestamp() - (n % 1000) * interval '10 minutes' as asked,
             case when n % 97 = 0 then 'failed' when n % 89 = 0 then 'provisioning' when n % 83 = 0 then 'requested'
                  when n % 79 = 0 then 'suspended' when n % 73 = 0 then 'locked' else 'active' end as state
      from generate_series(1, {TENANTS}) as n) as made;
insert into okcm.tenant (tenant_id, organization, region, state, requested_at, ready_at)
values ('openkcm-canary', 'OpenKCM', 'eu-west-1', 'failed', now() - interval '1 day', now());
insert into okcm.operation_step (tenant_id, operation_id, step, number, state, attempts, planned_at, problem)
select tenant_id, 'provision/1', step, number, case when number = 1 then 'done' else 'pending' end, 0,
       requested_at, null
from okcm.tenant, unnest(array['plan-provisioning', 'create-keys', 'activate']) with ordinality as s (step, number);
analyze okcm.tenant; analyze okcm.operation_step;
"""


def add_many_tenants(field: Field) -> None:
    """Insert the tenants with their steps, bypassing row-level security, and a canary tenant that has failed."""
    with field.administrator() as administrator:
        administrator.execute(_MANY.encode())
