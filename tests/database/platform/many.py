"""Ten thousand tenants: in every state, for tests of lists, or in operation, for tests of speed."""

from tests.database.fixtures import Field

TENANTS = 10_000
_CAUSES = 20
"""Error codes of the rejected requests of the first tenant in each hour."""

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


# Row triggers and foreign keys are off (replica): the rows are consistent, and each check would cost a query. Every
# tenant is due for no scheduled task, but for some of each kind.
_IN_OPERATION = """
set session_replication_role = replica;
insert into okcm.tenant (tenant_id, organization, region, state, requested_at, ready_at)
    select 'load-' || lpad(n::text, 6, '0'), 'Organization ' || n, 'eu-west-1', 'active',
        now() - interval '300 days' + n * interval '1 second', now() - interval '300 days' + n * interval '2 seconds'
    from generate_series(1, {tenants}) n;
insert into okcm.key (tenant_id, name, kind, version, created_at, rotated_at)
    select tenant_id, kind || '-' || tenant_id || '-primary', kind, 1, ready_at, now() - interval '20 days'
    from okcm.tenant, unnest(array['L2', 'CA', 'payload']) kind;
insert into okcm.key_fingerprint (tenant_id, name, version, fingerprint)
    select tenant_id, name, version, encode(sha256(tenant_id::bytea), 'hex') from okcm.key where kind = 'L2';
insert into okcm.key_probe (tenant_id, l2_key, version, ciphertext, tried)
    select tenant_id, name, 1, 'vault:v1:' || repeat('x', 70), '' from okcm.key where kind = 'L2';
insert into okcm.certificate_authority (tenant_id, serial, certificate_pem, chain_pem, not_after, recorded_at)
    select tenant_id, md5(tenant_id), repeat('c', 900), repeat('d', 1800), now() + interval '300 days', ready_at
    from okcm.tenant;
insert into okcm.certificate_revocation_list (tenant_id, authority, number, der, this_update, next_update)
    select tenant_id, serial, 1, sha256(tenant_id::bytea), now(), now() + interval '1 day'
    from okcm.certificate_authority;
insert into okcm.route (tenant_id, l2_key, issuer_fingerprint, region, published_at)
    select tenant_id, 'L2-' || tenant_id || '-primary', encode(sha256(tenant_id::bytea), 'hex'), region, ready_at
    from okcm.tenant;
insert into okcm.service (tenant_id, service, kind, state, created_at, connected_at, last_seen_at)
    select tenant_id, service, 'postgresql', 'connected', ready_at, ready_at, now()
    from okcm.tenant, unnest(array['orders', 'users']) service;
insert into okcm.service_request (tenant_id, request_id, service, kind, csr_pem)
    select tenant_id, service || '-1', service, kind, repeat('r', 600) from okcm.service;
insert into okcm.service_certificate (tenant_id, serial, service, generation, request_id, certificate_pem, not_before,
        not_after, authority)
    select s.tenant_id, md5(s.tenant_id || s.service || g), s.service, g, s.service || '-1', repeat('c', 800),
        now() - (4 - g) * interval '1 day', now() + (g - 1) * interval '1 day', md5(s.tenant_id)
    from okcm.service s, generate_series(1, 4) g;
insert into okcm.service_key (tenant_id, service, version, l2_key, root_key_mode, root_key, wrapped, activated_at)
    select tenant_id, service, 1, 'L2-' || tenant_id || '-primary', 'platform', 'root-eu-west-1',
        ('vault:v1:' || repeat('w', 300))::bytea, now() - interval '5 days'
    from okcm.service;
insert into okcm.rotation (tenant_id, number, tenant_key, from_version, services, state, stage, started_at, finished_at)
    select tenant_id, n, true, 1, 'all', 'done', 'destroy', now() - interval '20 days', now() - interval '20 days'
    from okcm.tenant, generate_series(1, 3) n;
insert into okcm.marketplace_event (tenant_id, event_id, kind, organization, region, occurred_at, accepted_at,
        started_at)
    select tenant_id, 'event-1', 'service_enabled', organization, region, requested_at, requested_at, requested_at
    from okcm.tenant;
insert into okcm.operation_step (tenant_id, operation_id, step, number, state, planned_at)
    select tenant_id, 'provision/1', step, number, 'done', requested_at
    from okcm.tenant, unnest(array['plan-provisioning', 'create-keys', 'create-ca', 'check-isolation', 'activate',
        'send-notification']) with ordinality as s (step, number);
insert into okcm.outbox (tenant_id, message_id, channel, kind, subject, body, added_at, sent_at)
    select tenant_id, channel, channel, 'ready', 'ready', 'ready', now() - interval '3 days', now()
    from okcm.tenant, unnest(array['callback', 'email']) channel;
insert into okcm.boundary_clause (tenant_id, examined_at, clause, operation_id, held, breached, not_checked, digest,
        signature, key)
    select tenant_id, now() - d * interval '1 day' + interval '1 hour', 'U' || c, 'run-' || d, 3, 0, 0,
        sha256(tenant_id::bytea), repeat('s', 96), 'audit:1'
    from okcm.tenant, generate_series(1, 10) c, generate_series(1, 2) d;
insert into okcm.boundary_result (tenant_id, recorded_at, number, operation_id, clause, name, outcome, seconds,
        evidence)
    select tenant_id, examined_at, row_number() over (partition by tenant_id, examined_at), operation_id, clause,
        'check-' || clause, 'held', 0.01, repeat('e', 80)
    from okcm.boundary_clause;
insert into okcm.isolation_assessment (tenant_id, due_at, complete_at)
    select tenant_id, now() + interval '1 hour', now() - interval '23 hours' from okcm.tenant;
insert into okcm.audit_head (tenant_id, seq, chain_hash, moved, signed_at)
    select tenant_id, 10, sha256(tenant_id::bytea), false, now() from okcm.tenant;
insert into okcm.audit_signed_head (tenant_id, seq, chain_hash, signature, key)
    select tenant_id, n, sha256(tenant_id::bytea), repeat('s', 96), 'audit:1'
    from okcm.tenant, unnest(array[5, 10]) n;
insert into okcm.audit_event (tenant_id, seq, event_id, record, chain_hash)
    select tenant_id, n, 'event-' || n, '{{"name": "crypto.used", "outcome": "success", "seq": ' || n || '}}',
        sha256(tenant_id::bytea)
    from okcm.tenant, generate_series(1, 10) n;
insert into okcm.audit_hour (tenant_id, hour, name, service, operation, outcome, records, first_seq, last_seq)
    select tenant_id, date_trunc('hour', now(), 'UTC') - (10 - n) * interval '1 hour', 'crypto.used', 'orders',
        'decrypt', 'success', 1, n, n
    from okcm.tenant, generate_series(1, 10) n;
insert into okcm.usage_day (tenant_id, day, service, operation, refusal, count, bytes, microseconds, latency)
    select tenant_id, current_date - d, 'orders', 'encrypt', '', 1, 1, 1, array_fill(0::bigint, array[40])
    from okcm.tenant, generate_series(0, 9) d;
insert into okcm.usage_month (tenant_id, month, service, operation, refusal, count, bytes, microseconds, latency,
        first_day, last_day)
    select tenant_id, month, 'orders', 'encrypt', '', 1, 1, 1, array_fill(0::bigint, array[40]), month, month
    from okcm.tenant, generate_series(0, 9) m,
        lateral (select (date_trunc('month', now()) - m * interval '1 month')::date as month) as months;
insert into okcm.usage_hour (tenant_id, hour, service, operation, refusal, count, bytes, microseconds, latency,
        last_minute)
    select tenant_id, date_trunc('hour', now()) - h * interval '1 hour', 'orders', 'encrypt', '', 1, 1, 1,
        array_fill(0::bigint, array[40]), now()
    from (select tenant_id from okcm.tenant order by tenant_id limit {using}) t, generate_series(0, 9) h;
insert into okcm.usage_hour (tenant_id, hour, service, operation, refusal, count, bytes, microseconds, latency,
        last_minute)
    select 'load-000001', date_trunc('hour', now()) - h * interval '1 hour', 'orders', 'encrypt', 'cause-' || c, 1, 1,
        1, array_fill(0::bigint, array[40]), date_trunc('hour', now()) - h * interval '1 hour'
    from generate_series(0, 2159) h, generate_series(1, {busy}) c;
insert into okcm.usage_minute (tenant_id, minute, service, operation, count, refused, bytes)
    select tenant_id, date_trunc('hour', now()) - m * interval '1 hour', 'orders', 'encrypt', 1, 0, 1
    from okcm.tenant, generate_series(0, 9) m;
insert into okcm.usage_batch (tenant_id, batch_id)
    select tenant_id, 'batch-' || n from okcm.tenant, generate_series(1, 5) n;
insert into okcm.managed_object (tenant_id, l2_key, object_id, service, object_type, state, names, attributes,
        key_version, material, revision)
    select tenant_id, l2_key, service || '-' || n, service, 2, 2, array['name-' || n], '\\x00', version, '\\x00', 1
    from okcm.service_key, generate_series(1, 2) n;
set session_replication_role = origin;
"""


def add_operating_tenants(field: Field, tenants: int = TENANTS, using: int = TENANTS) -> None:
    """Insert active tenants `load-000001` and so on, each with two services and the rows of an operation.

    The first `using` have uses by hour; the first one has had rejected requests for 90 days.
    """
    with field.administrator() as administrator:
        administrator.execute(_IN_OPERATION.format(tenants=tenants, using=using, busy=_CAUSES).encode())
        administrator.execute("vacuum analyze")
