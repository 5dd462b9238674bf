-- Retention in the order of the last attempt (core/scheduled.py): tenants whose deletion or archive fails in each run
-- delay no other tenant.

-- Return tenants with expired rows in a table, and the last attempt to delete such rows. Those with the oldest attempt
-- come first, then those with the oldest row. The recursion steps from tenant to tenant in the index: a table with
-- millions of rows is not read.
drop function okcm.tenants_with_expired_rows(text, integer, integer);
create function okcm.tenants_with_expired_rows(of_table text, days integer, at_most integer)
returns table (tenant_id text, attempted_at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    rule record := okcm.retention_rule(of_table, days);
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
        '    where r.tenant_id = each.tenant_id and r.%2$I < $1 and (%3$s) order by r.%2$I limit 1) oldest'
        ' left join lateral ('
        '    select (t.scheduled_attempts ->> ''row-retention'')::timestamptz as at from okcm.tenant t'
        '    where t.tenant_id = each.tenant_id) attempt on true'
        ' order by attempt.at nulls first, oldest.since limit $2', of_table, rule.age, rule.deletable)
        using statement_timestamp() - make_interval(days => days), at_most;
end
$$;
revoke execute on function okcm.tenants_with_expired_rows(text, integer, integer) from public;
grant execute on function okcm.tenants_with_expired_rows(text, integer, integer) to okcm_worker;

-- Return tenants with a checkpoint from before `cutoff` that is not archived, or with archived records that are not
-- deleted. Those with the oldest attempt come first, then those with the oldest checkpoint.
create or replace function okcm.archivable_streams(cutoff timestamptz, at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select h.tenant_id from okcm.audit_head h left join okcm.tenant t on t.tenant_id = h.tenant_id
        cross join lateral (
            select coalesce(max(a.seq), 0) as seq from okcm.audit_archive a where a.tenant_id = h.tenant_id) archived
        left join lateral (
            select s.signed_at from okcm.audit_signed_head s
            where s.tenant_id = h.tenant_id and s.seq > archived.seq order by s.seq limit 1) next on true
        where next.signed_at < cutoff
        or exists (select from okcm.audit_event e where e.tenant_id = h.tenant_id and e.seq <= archived.seq)
        order by (t.scheduled_attempts ->> 'audit-archive')::timestamptz nulls first, next.signed_at, h.tenant_id
        limit at_most;
end
$$;
