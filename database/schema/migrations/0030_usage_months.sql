-- Counters by month as usage_day, for periods of many months: a year of 50 services has tens of thousands of days.
-- `first_day` and `last_day` are the first and last day with a use.
create table okcm.usage_month (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    month        date not null check (extract(day from month) = 1),
    service      text not null check (service ~ '^([a-z0-9][a-z0-9-]{0,39})?$'),
    operation    text not null check (operation ~ '^[a-z][a-z-]{0,39}$'),
    refusal      text not null check (length(refusal) <= 100),
    count        bigint not null check (count >= 0),
    bytes        bigint not null check (bytes >= 0),
    microseconds bigint not null check (microseconds >= 0),
    latency      bigint[] not null check (
        cardinality(latency) = 40 and array_position(latency, null) is null and 0 <= all (latency)),
    first_day    date not null,
    last_day     date not null check (last_day >= first_day),
    primary key (tenant_id, month, service, operation, refusal),
    foreign key (tenant_id) references okcm.tenant
) with (fillfactor = 70);
grant select (tenant_id) on okcm.usage_month to okcm_worker;
grant select on okcm.usage_month to okcm_dashboard;
grant select,
    insert (tenant_id, month, service, operation, refusal, count, bytes, microseconds, latency, first_day, last_day),
    update (count, bytes, microseconds, latency, first_day, last_day) on okcm.usage_month to okcm_crypto;

alter table okcm.usage_month enable row level security, force row level security;
create policy signed on okcm.usage_month as restrictive for all to public
    using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()));
create policy own_rows on okcm.usage_month for select to okcm_worker
    using ((tenant_id = (select current_setting('app.tenant_id', true))));
create policy own_rows_crypto on okcm.usage_month for all to okcm_crypto
    using ((tenant_id = (select current_setting('app.tenant_id', true))))
    with check ((tenant_id = (select current_setting('app.tenant_id', true))));
create policy own_rows_dashboard on okcm.usage_month for select to okcm_dashboard
    using ((tenant_id = (select current_setting('app.tenant_id', true))));
create policy platform_questions on okcm.usage_month for select to okcm_owner
    using (((select current_setting('app.tenant_id', true)) = '*'));
create policy erase on okcm.usage_month for all to okcm_owner
    using ((tenant_id = (select current_setting('app.tenant_id', true))))
    with check ((tenant_id = (select current_setting('app.tenant_id', true))));
create policy while_destroying on okcm.usage_month as restrictive for all to okcm_owner
    using (((select current_setting('app.tenant_id', true)) = '*') or (select okcm.is_destroying())
           or month < statement_timestamp() - interval '400 days')
    with check (((select current_setting('app.tenant_id', true)) = '*') or (select okcm.is_destroying()));

-- Return the first month of which usage_month has every use. Earlier ones were counted by day only, at least in part:
-- processes of an earlier release count for up to a day after this migration, and their batches can be older.
create function okcm.usage_months_since() returns date
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
    select (date_trunc('month', m.applied_at at time zone 'UTC' + interval '1 day') + interval '1 month')::date
    from okcm.schema_migration m where m.version = 30
$$;
revoke execute on function okcm.usage_months_since() from public;
grant execute on function okcm.usage_months_since() to okcm_dashboard;

-- As before, with usage_month.
create or replace function okcm.retention_rules() returns table (name text, age text, minimum integer, deletable text)
language sql immutable set search_path = pg_catalog, pg_temp
as $$
    values
        ('approval', 'requested_at', 400, 'r.state not in (''asked'', ''pending'', ''approved'')'),
        -- Results of the gate have no line; those of an assessment with a breach stay as long as its lines.
        ('boundary_result', 'recorded_at', 14,
            'exists (select from okcm.boundary_clause c where c.tenant_id = r.tenant_id'
            ' and c.examined_at = r.recorded_at and c.clause = r.clause)'
            ' and (r.recorded_at < $1 - interval ''386 days'' or not exists (select from okcm.boundary_clause b'
            ' where b.tenant_id = r.tenant_id and b.examined_at = r.recorded_at and b.breached > 0))'),
        ('boundary_clause', 'examined_at', 90,
            'not exists (select from okcm.boundary_result b where b.tenant_id = r.tenant_id'
            ' and b.recorded_at = r.examined_at)'),
        ('dashboard_session', 'expires_at', 30, 'true'),
        ('enrolment', 'requested_at', 30, 'r.state <> ''pending'''),
        ('join_token', 'expires_at', 30, 'true'),
        -- The last word of the marketplace decides about late events, so the newest enable or disable stays.
        ('marketplace_event', 'accepted_at', 90,
            'r.started_at is not null and (r.kind = ''service_discovered'' or exists ('
            'select from okcm.marketplace_event n where n.tenant_id = r.tenant_id and n.accepted_at < $1'
            ' and n.kind in (''service_enabled'', ''service_disabled'') and (n.occurred_at, n.accepted_at, n.event_id)'
            ' > (r.occurred_at, r.accepted_at, r.event_id)))'),
        -- The newest operation stays: it is the one that pages and alerts show.
        ('operation_step', 'planned_at', 30,
            'exists (select from okcm.operation_step n where n.tenant_id = r.tenant_id and n.planned_at < $1'
            ' and n.planned_at > r.planned_at and n.operation_id <> r.operation_id)'),
        ('outbox', 'added_at', 30, 'r.sent_at is not null or r.expired_at is not null'),
        ('protection_use', 'day', 400, 'true'),
        ('report', 'requested_at', 90, 'true'),
        ('root_key_change', 'started_at', 400,
            'r.state <> ''running'' and exists (select from okcm.root_key_change n where n.tenant_id = r.tenant_id'
            ' and n.number > r.number and n.started_at < $1)'),
        ('root_key_request', 'requested_at', 30, 'r.sealed is null'),
        ('rotation', 'started_at', 400,
            'r.state <> ''running'' and exists (select from okcm.rotation n where n.tenant_id = r.tenant_id'
            ' and n.number > r.number and n.state = ''done'' and n.started_at < $1)'),
        -- A generation is never reused, so the newest certificate of a service stays.
        ('service_certificate', 'not_after', 90,
            'exists (select from okcm.service_certificate n where n.tenant_id = r.tenant_id and n.service = r.service'
            ' and n.generation > r.generation and n.not_after < $1)'),
        ('service_request', 'used_at', 90, 'true'),
        -- Longer than the write-ahead log keeps an undelivered batch.
        ('usage_batch', 'added_at', 90, 'true'),
        ('usage_day', 'day', 400, 'true'),
        ('usage_hour', 'hour', 30, 'true'),
        ('usage_minute', 'minute', 30, 'true'),
        ('usage_month', 'month', 400, 'true')
$$;

-- As before, with usage_month.
create or replace function okcm.erased_tables() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$
    select array[
        'protected_field', 'protection', 'agent', 'protection_use', 'backfill', 'key_probe', 'report',
        'managed_object', 'service_key', 'service_certificate', 'service_request', 'service',
        'root_key_change', 'root_key_request', 'root_key', 'tenant_policy', 'rotation', 'usage_minute',
        'usage_hour', 'usage_day', 'usage_month', 'usage_batch', 'approval', 'dashboard_session',
        'certificate_revocation_list', 'outbox', 'notification_target', 'operation_step', 'route', 'key',
        'join_token', 'enrolment', 'discovery']
$$;
