-- Queries of every minute whose time does not grow with the number of tenants, and the row of a tenant's assessments.

-- One row for each tenant since its activation. `due_at` is the next isolation assessment: daily, at a second derived
-- from the id; a rotation, a change of root key or route, or a restore since the newest complete one makes it due at
-- once (`changed_at`). A complete assessment has its lines in boundary_clause, and `complete_at` is their time;
-- `breached` is its verdict, `breached_at` the newest one with a breach. A daily assessment without a breach has only
-- this row: its counts, the signed digest over its results, and `runs`, their number since the newest complete one.
create table okcm.isolation_assessment (
    tenant_id    text primary key check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    due_at       timestamptz not null,
    changed_at   timestamptz,
    complete_at  timestamptz,
    breached     boolean not null default false,
    breached_at  timestamptz,
    examined_at  timestamptz,
    operation_id text check (length(operation_id) between 1 and 200),
    held         integer not null default 0 check (held >= 0),
    not_checked  integer not null default 0 check (not_checked >= 0),
    digest       bytea check (length(digest) = 32),
    signature    text check (length(signature) between 1 and 500),
    key          text check (length(key) between 1 and 200),
    runs         integer not null default 0 check (runs >= 0),
    foreign key (tenant_id) references okcm.tenant,
    constraint isolation_assessment_signed_check check ((examined_at is null) = (operation_id is null)
        and (examined_at is null) = (digest is null) and (examined_at is null) = (signature is null)
        and (examined_at is null) = (key is null))
) with (fillfactor = 70);
create index isolation_assessment_due on okcm.isolation_assessment (due_at);
create index isolation_assessment_breached on okcm.isolation_assessment (breached_at) where breached_at is not null;
grant select,
    insert (tenant_id, due_at, changed_at, complete_at, breached, breached_at),
    update (due_at, changed_at, complete_at, breached, breached_at, examined_at, operation_id, held, not_checked,
        digest, signature, key, runs) on okcm.isolation_assessment to okcm_worker;
grant select on okcm.isolation_assessment to okcm_operator, okcm_dashboard;

-- Compute the row of a tenant again, with the rights of the caller. The first assessment is due within a day of
-- readiness; the gate attacked the tenant before. The platform's own tenants take part in every assessment and have
-- none.
create function okcm.schedule_assessment(of_tenant text) returns void
language sql set search_path = pg_catalog, pg_temp
as $$
    insert into okcm.isolation_assessment as a (tenant_id, due_at, changed_at, complete_at, breached, breached_at)
    select t.tenant_id,
           least(l.last + make_interval(secs => 1 + mod(o.own - mod(floor(extract(epoch from l.last))::bigint, 86400)
                                                        + 86399, 86400)), c.at),
           c.at, n.examined_at, coalesce(n.breached, false), case when n.breached then n.examined_at end
    from okcm.tenant t
    left join okcm.isolation_assessment daily on daily.tenant_id = t.tenant_id
    left join lateral (
        select c.examined_at, bool_or(c.breached > 0) as breached from okcm.boundary_clause c
        where c.tenant_id = t.tenant_id and c.examined_at = (
            select max(newest.examined_at) from okcm.boundary_clause newest where newest.tenant_id = t.tenant_id)
        group by c.examined_at) n on true
    cross join lateral (
        select coalesce(n.examined_at, t.ready_at) as complete,
               coalesce(greatest(n.examined_at, daily.examined_at), t.ready_at) as last) l
    cross join lateral (
        select least((select min(r.finished_at) from okcm.rotation r
                      where r.tenant_id = t.tenant_id and r.finished_at > l.complete),
                     (select min(r.finished_at) from okcm.root_key_change r
                      where r.tenant_id = t.tenant_id and r.finished_at > l.complete),
                     (select r.published_at from okcm.route r
                      where r.tenant_id = t.tenant_id and r.published_at > l.complete),
                     case when t.restored_at > l.complete then t.restored_at end) as at) c
    cross join lateral (select sha256(convert_to(t.tenant_id, 'UTF8')) as h) d
    cross join lateral (
        select mod(get_byte(d.h, 0) * 65536 + get_byte(d.h, 1) * 256 + get_byte(d.h, 2), 86400)::bigint as own) o
    where t.tenant_id = of_tenant and l.last is not null and not starts_with(t.tenant_id, 'openkcm-')
    on conflict (tenant_id) do update set due_at = excluded.due_at, changed_at = excluded.changed_at,
        complete_at = excluded.complete_at, breached = excluded.breached,
        breached_at = coalesce(excluded.breached_at, a.breached_at),
        runs = case when a.complete_at is distinct from excluded.complete_at then 0 else a.runs end
$$;
revoke execute on function okcm.schedule_assessment(text) from public;
grant execute on function okcm.schedule_assessment(text) to okcm_worker;

create function okcm.schedule_changed_tenant() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.schedule_assessment(new.tenant_id);
    return null;
end
$$;
revoke execute on function okcm.schedule_changed_tenant() from public;
create trigger assessment_due after update on okcm.tenant for each row
    when (old.ready_at is distinct from new.ready_at or old.restored_at is distinct from new.restored_at)
    execute function okcm.schedule_changed_tenant();
create trigger assessment_due_first after insert on okcm.tenant for each row when (new.ready_at is not null)
    execute function okcm.schedule_changed_tenant();
create trigger assessment_due after insert or update of finished_at on okcm.rotation for each row
    when (new.finished_at is not null) execute function okcm.schedule_changed_tenant();
create trigger assessment_due after insert or update of finished_at on okcm.root_key_change for each row
    when (new.finished_at is not null) execute function okcm.schedule_changed_tenant();
create trigger assessment_due after insert or update of published_at on okcm.route for each row
    execute function okcm.schedule_changed_tenant();
create trigger assessment_due after update on okcm.isolation_assessment for each row
    when (old.examined_at is distinct from new.examined_at) execute function okcm.schedule_changed_tenant();

-- Once for all lines of an assessment.
create function okcm.schedule_examined_tenants() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.schedule_assessment(tenant_id) from (select distinct tenant_id from added) as examined;
    return null;
end
$$;
revoke execute on function okcm.schedule_examined_tenants() from public;
create trigger assessment_due after insert on okcm.boundary_clause referencing new table as added
    for each statement execute function okcm.schedule_examined_tenants();

alter table okcm.isolation_assessment enable row level security, force row level security;
create policy signed on okcm.isolation_assessment as restrictive for all to public
    using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()));
create policy own_rows on okcm.isolation_assessment for all to okcm_worker
    using ((tenant_id = (select current_setting('app.tenant_id', true))))
    with check ((tenant_id = (select current_setting('app.tenant_id', true))));
create policy own_rows_operator on okcm.isolation_assessment for select to okcm_operator
    using ((tenant_id = (select current_setting('app.tenant_id', true))));
create policy own_rows_dashboard on okcm.isolation_assessment for select to okcm_dashboard
    using ((tenant_id = (select current_setting('app.tenant_id', true))));
create policy platform_questions on okcm.isolation_assessment for select to okcm_owner
    using (((select current_setting('app.tenant_id', true)) = '*'));

-- Return tenants whose assessment is due, in order of id from the first behind `after`. So one tenant that fails does
-- not delay the others. A breach without a lock is due as well: its signal was lost. So is a tenant of an earlier
-- version, which has no row yet; the row follows with its assessment. Of examination_dues nothing is used any more.
create or replace function okcm.due_examinations(after text, at_most integer)
returns table (tenant_id text, region text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select t.tenant_id, t.region from (
            select a.tenant_id from okcm.isolation_assessment a where a.due_at <= statement_timestamp()
            union
            select a.tenant_id from okcm.isolation_assessment a join okcm.tenant b on b.tenant_id = a.tenant_id
            where a.breached_at is not null and a.breached and not 'isolation-breach' = any (b.locks)
            union
            select n.tenant_id from okcm.tenant n
            where n.ready_at is not null and not starts_with(n.tenant_id, 'openkcm-') and not exists (
                select from okcm.isolation_assessment a where a.tenant_id = n.tenant_id)) as due
        join okcm.tenant t on t.tenant_id = due.tenant_id
        where t.tenant_id > after and t.state in ('active', 'suspended', 'locked')
        order by t.tenant_id limit at_most;
end
$$;

-- Return tenants that need an operator: `breached`, locked for a breach or with one in the newest complete assessment;
-- `late`, with an assessment overdue by `late`.
create or replace function okcm.troubled_examinations(late interval, at_most integer)
returns table (tenant_id text, region text, why text, since timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select t.tenant_id, t.region, case when a.breached or v.locked then 'breached' else 'late' end,
               case when a.breached or v.locked then a.complete_at else a.due_at end
        from (
            select d.tenant_id from okcm.isolation_assessment d where d.due_at < statement_timestamp() - late
            union
            select b.tenant_id from okcm.isolation_assessment b where b.breached_at is not null and b.breached
            union
            select l.tenant_id from okcm.tenant l where 'isolation-breach' = any (l.locks)) as wanted
        join okcm.tenant t on t.tenant_id = wanted.tenant_id
        join okcm.isolation_assessment a on a.tenant_id = t.tenant_id
        cross join lateral (select 'isolation-breach' = any (t.locks) as locked) v
        where t.state in ('active', 'suspended', 'locked')
        order by 3, 4, 1 limit at_most;
end
$$;

-- Return the time of the newest complete assessment of any tenant that found a breach.
create function okcm.newest_breach() returns timestamptz
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return (select max(a.breached_at) from okcm.isolation_assessment a where a.breached_at is not null);
end
$$;
revoke execute on function okcm.newest_breach() from public;
grant execute on function okcm.newest_breach() to okcm_worker;

-- As before, but the services are read in their order, so that a page reads no more of them than it returns.
create or replace function okcm.workflow_services(after_tenant text, after_service text, at_most integer)
returns table (tenant_id text, region text, service text, generation integer, not_before timestamptz,
               not_after timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select s.tenant_id, t.region, s.service, c.generation, c.not_before, c.not_after
        -- A subquery with an order stays separate.
        from (select one.tenant_id, one.service from okcm.service one
              where (one.tenant_id, one.service) > (after_tenant, after_service) and one.state = 'connected'
              order by one.tenant_id, one.service) s
        cross join lateral (
            select o.region from okcm.tenant o
            where o.tenant_id = s.tenant_id and o.destroying_at is null offset 0) t
        cross join lateral (
            select n.generation, n.not_before, n.not_after from okcm.service_certificate n
            where n.tenant_id = s.tenant_id and n.service = s.service and n.revoked_at is null
            order by n.generation desc limit 1) c
        order by s.tenant_id, s.service limit at_most;
end
$$;

-- As before, but of the CRLs only the old ones are read, and of the revocations only those since `oldest`: a CRL that
-- lacks an earlier one is old. The next migration creates the indexes.
create or replace function okcm.stale_revocation_lists(oldest interval, at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select t.tenant_id from (
            select l.tenant_id, l.authority, l.this_update from okcm.certificate_revocation_list l
            where l.this_update < statement_timestamp() - oldest
            union all
            select c.tenant_id, c.authority, l.this_update from okcm.service_certificate c
            join okcm.certificate_revocation_list l on l.tenant_id = c.tenant_id and l.authority = c.authority
            where c.revoked_at is not null and c.revoked_at >= statement_timestamp() - oldest
            and c.revoked_at > l.this_update
            union all
            select a.tenant_id, a.serial, null from okcm.certificate_authority a
            where a.state in ('current', 'former') and not exists (
                select from okcm.certificate_revocation_list l
                where l.tenant_id = a.tenant_id and l.authority = a.serial)) as stale
        join okcm.certificate_authority a on a.tenant_id = stale.tenant_id and a.serial = stale.authority
        join okcm.tenant t on t.tenant_id = stale.tenant_id
        where a.state in ('current', 'former') and t.state in ('active', 'suspended', 'locked')
        group by t.tenant_id
        order by (t.scheduled_attempts ->> 'revocation-lists')::timestamptz nulls first,
                 min(stale.this_update) nulls first
        limit at_most;
end
$$;

-- As before, but a column of type date is compared with a date: compared with a time, its index is not used, and all
-- rows of the table are read. A day is expired when it ended before the time. Each step reads an index: for a small
-- table the planner would read the whole table once for each tenant.
create or replace function okcm.tenants_with_expired_rows(of_table text, days integer, at_most integer)
returns table (tenant_id text, attempted_at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
    set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    rule record := okcm.retention_rule(of_table, days);
    age_type text := (select format_type(a.atttypid, a.atttypmod) from pg_attribute a
                      where a.attrelid = format('okcm.%I', of_table)::regclass and a.attname = rule.age);
begin
    perform okcm.require_platform_context();
    return query execute format(
        'with recursive each as ('
        '    (select r.tenant_id from okcm.%1$I r order by r.tenant_id limit 1)'
        '    union all'
        '    select (select r.tenant_id from okcm.%1$I r where r.tenant_id > each.tenant_id'
        '            order by r.tenant_id limit 1)'
        '    from each where each.tenant_id is not null)'
        ' select each.tenant_id, attempt.at from each cross join lateral ('
        '    select r.%2$I as since from okcm.%1$I r'
        '    where r.tenant_id = each.tenant_id and r.%2$I < $1::%4$s and (%3$s) order by r.%2$I limit 1) oldest'
        ' left join lateral ('
        '    select (t.scheduled_attempts ->> ''row-retention'')::timestamptz as at from okcm.tenant t'
        '    where t.tenant_id = each.tenant_id) attempt on true'
        ' order by attempt.at nulls first, oldest.since limit $2', of_table, rule.age, rule.deletable, age_type)
        using statement_timestamp() - make_interval(days => days), at_most;
end
$$;
