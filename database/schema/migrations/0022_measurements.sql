-- What each process measures, and counters by hour: pages show nothing that was not measured.

-- The newest report of each running worker, and of each serving and shipping process of the crypto service.
-- `key_server` is `ok`, the code of the last failure, or null for a shipper, which does not measure it. `faults` are
-- other failures of the process, and `watches` the parts of root key monitoring that it carries out
-- (`region/shard/shards`). A crypto process has applied the changes of every transaction before `applied`. No process
-- has a right on this table, and it names no tenant. Unlogged: a report is valid for seconds, and a commit that changes
-- nothing else waits for no disk.
create unlogged table okcm.process_report (
    process     text not null check (process in ('worker', 'crypto', 'shipper')),
    instance    text not null check (length(instance) between 1 and 120),
    started_at  timestamptz not null,
    reported_at timestamptz not null default clock_timestamp(),
    key_server  text check (key_server ~ '^[a-z_]{1,60}$'),
    faults      text[] not null check (cardinality(faults) <= 20),
    watches     text[] not null check (cardinality(watches) <= 1000),
    applied     xid8,
    primary key (process, instance)
) with (fillfactor = 50);

-- Return the process if the login is that of its kind: no process can report for another kind.
create function okcm.own_process(named text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if session_user <> (case named when 'worker' then 'okcm_worker' else 'okcm_crypto' end) then
        raise insufficient_privilege using message = 'a process reports only for itself';
    end if;
    return named;
end
$$;
revoke execute on function okcm.own_process(text) from public;

-- Replace the report of an instance.
create function okcm.report_process(named text, of_instance text, started timestamptz, key_server_state text,
                                    found text[], watching text[], applied_xid xid8) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
    insert into okcm.process_report (process, instance, started_at, key_server, faults, watches, applied)
    values (okcm.own_process(named), of_instance, started, key_server_state, found, watching,
            applied_xid)
    on conflict (process, instance) do update set started_at = excluded.started_at, reported_at = clock_timestamp(),
        key_server = excluded.key_server, faults = excluded.faults, watches = excluded.watches,
        applied = excluded.applied;
    delete from okcm.process_report where reported_at < clock_timestamp() - interval '10 minutes';
$$;
revoke execute on function okcm.report_process(text, text, timestamptz, text, text[], text[], xid8) from public;
grant execute on function okcm.report_process(text, text, timestamptz, text, text[], text[], xid8)
    to okcm_worker, okcm_crypto;

-- Delete the report of an instance that stops, so that it is not missed.
create function okcm.withdraw_report(named text, of_instance text) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
    delete from okcm.process_report
    where process = okcm.own_process(named) and instance = of_instance
$$;
revoke execute on function okcm.withdraw_report(text, text) from public;
grant execute on function okcm.withdraw_report(text, text) to okcm_worker, okcm_crypto;

-- Return all reports, each with its age in seconds by the clock of the database.
create function okcm.process_reports()
returns table (process text, instance text, started_at timestamptz, age double precision, key_server text,
               faults text[], watches text[], applied xid8)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
    select r.process, r.instance, r.started_at, extract(epoch from clock_timestamp() - r.reported_at)::float8,
           r.key_server, r.faults, r.watches, r.applied
    from okcm.process_report r order by r.process, r.instance
$$;
revoke execute on function okcm.process_reports() from public;
grant execute on function okcm.process_reports() to okcm_dashboard, okcm_operator;

-- Counters by hour as usage_day, for courses and for the causes of the rejections of the last minutes: `last_minute`
-- is the newest minute with a use.
create table okcm.usage_hour (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    hour         timestamptz not null check (extract(epoch from hour) % 3600 = 0),
    service      text not null check (service ~ '^([a-z0-9][a-z0-9-]{0,39})?$'),
    operation    text not null check (operation ~ '^[a-z][a-z-]{0,39}$'),
    refusal      text not null check (length(refusal) <= 100),
    count        bigint not null check (count >= 0),
    bytes        bigint not null check (bytes >= 0),
    microseconds bigint not null check (microseconds >= 0),
    latency      bigint[] not null check (
        cardinality(latency) = 40 and array_position(latency, null) is null and 0 <= all (latency)),
    last_minute  timestamptz not null,
    primary key (tenant_id, hour, service, operation, refusal),
    foreign key (tenant_id) references okcm.tenant
) with (fillfactor = 70);
grant select (tenant_id) on okcm.usage_hour to okcm_worker;
grant select on okcm.usage_hour to okcm_operator, okcm_dashboard;
grant select, insert (tenant_id, hour, service, operation, refusal, count, bytes, microseconds, latency, last_minute),
    update (count, bytes, microseconds, latency, last_minute) on okcm.usage_hour to okcm_crypto;

alter table okcm.usage_hour enable row level security, force row level security;
create policy signed on okcm.usage_hour as restrictive for all to public
    using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()));
create policy own_rows on okcm.usage_hour for select to okcm_worker
    using ((tenant_id = (select current_setting('app.tenant_id', true))));
create policy own_rows_operator on okcm.usage_hour for select to okcm_operator
    using ((tenant_id = (select current_setting('app.tenant_id', true))));
create policy own_rows_crypto on okcm.usage_hour for all to okcm_crypto
    using ((tenant_id = (select current_setting('app.tenant_id', true))))
    with check ((tenant_id = (select current_setting('app.tenant_id', true))));
create policy own_rows_dashboard on okcm.usage_hour for select to okcm_dashboard
    using ((tenant_id = (select current_setting('app.tenant_id', true))));
create policy platform_questions on okcm.usage_hour for select to okcm_owner
    using (((select current_setting('app.tenant_id', true)) = '*'));
create policy erase on okcm.usage_hour for all to okcm_owner
    using ((tenant_id = (select current_setting('app.tenant_id', true))))
    with check ((tenant_id = (select current_setting('app.tenant_id', true))));
create policy while_destroying on okcm.usage_hour as restrictive for all to okcm_owner
    using (((select current_setting('app.tenant_id', true)) = '*') or (select okcm.is_destroying())
           or hour < statement_timestamp() - interval '30 days')
    with check (((select current_setting('app.tenant_id', true)) = '*') or (select okcm.is_destroying()));

-- As before, with usage_hour.
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
        ('usage_minute', 'minute', 30, 'true')
$$;

-- Return the tables that erase_tenant empties. A referenced table follows the tables that reference it; votes are
-- deleted with their approvals.
create function okcm.erased_tables() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$
    select array[
        'protected_field', 'protection', 'agent', 'protection_use', 'backfill', 'key_probe', 'report',
        'managed_object', 'service_key', 'service_certificate', 'service_request', 'service',
        'root_key_change', 'root_key_request', 'root_key', 'tenant_policy', 'rotation', 'usage_minute',
        'usage_hour', 'usage_day', 'usage_batch', 'approval', 'dashboard_session',
        'certificate_revocation_list', 'outbox', 'operation_step', 'route', 'key', 'join_token', 'enrolment',
        'discovery']
$$;
revoke execute on function okcm.erased_tables() from public;

-- As before, with the tables of erased_tables.
create or replace function okcm.erase_tenant(at_most integer) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    signed_tenant text := current_setting('app.tenant_id', true);
    counts        jsonb;
    table_name    text;
    deleted       bigint;
begin
    if not okcm.ctx_ok() or signed_tenant = '*' then
        raise insufficient_privilege using message = 'the context is not signed for a tenant';
    end if;
    select coalesce(t.erased, '{}') into counts from okcm.tenant t where t.tenant_id = signed_tenant
        and t.state = 'offboarding' and t.destroying_at is not null for no key update;
    if not found then
        raise insufficient_privilege using message = 'the tenant is not being destroyed';
    end if;
    perform from okcm.destruction d
        where d.tenant_id = signed_tenant and d.destroyed_at is null and d.kind <> 'payload key';
    if found then
        raise check_violation using message = 'a key of the tenant is not destroyed yet';
    end if;
    foreach table_name in array okcm.erased_tables() loop
        execute format('delete from okcm.%I where ctid = any (array('
                       'select ctid from okcm.%I where tenant_id = $1 limit $2))', table_name, table_name)
            using signed_tenant, at_most;
        get diagnostics deleted = row_count;
        counts := counts || jsonb_build_object(table_name, coalesce((counts ->> table_name)::bigint, 0) + deleted);
        if deleted >= at_most then
            update okcm.tenant set erased = counts where tenant_id = signed_tenant;
            return false;
        end if;
    end loop;
    -- The customer's names are erased. The events stay, so that a repeated one is not processed as new.
    update okcm.marketplace_event set organization = '(erased)', service = null,
            started_at = coalesce(started_at, clock_timestamp())
        where tenant_id = signed_tenant and (organization <> '(erased)' or service is not null or started_at is null);
    update okcm.tenant set organization = '(erased)', erased = counts where tenant_id = signed_tenant;
    return true;
end
$$;
