-- As before, but part of the plan of its callers, with the value of `since`: a page of tenants computes the problems of
-- that page instead of those of every tenant.
create or replace function okcm.tenants_with_problems(promise interval, since timestamptz)
returns table (tenant_id text, organization text, region text, state text, root_key_mode text,
               requested_at timestamptz, ready_at timestamptz, promise_broken_at timestamptz, locks text[],
               unlocks_to text, problems text[])
language sql stable
begin atomic
    select t.tenant_id, t.organization, t.region, t.state, t.root_key_mode, t.requested_at, t.ready_at,
           t.promise_broken_at, t.locks, t.unlocks_to,
           array_remove(array[
               case when t.state = 'failed' or (t.state in ('requested', 'provisioning')
                    and t.requested_at < statement_timestamp() - promise) then 'provisioning' end,
               case when v.serves and t.tenant_id in (
                    select k.tenant_id from okcm.root_key k where k.state = 'current' and k.health <> 'ok')
                    then 'root-key' end,
               case when v.serves and ('isolation-breach' = any (t.locks) or t.tenant_id in (
                    select a.tenant_id from okcm.isolation_assessment a where a.breached_at is not null and a.breached))
                    then 'isolation' end,
               case when v.serves and t.tenant_id in (
                    select h.tenant_id from okcm.usage_hour h
                    where h.hour >= date_trunc('hour', since, 'UTC') and h.refusal <> '' and h.last_minute >= since
                        and h.service <> '')
                    then 'requests' end], null)
    from okcm.tenant t
    cross join lateral (select t.state in ('active', 'suspended', 'locked') as serves) v
    where not starts_with(t.tenant_id, 'openkcm-');
end;
-- The planner expects one row after the conditions of row security, and would read and sort all tenants.
alter function okcm.page_with_problems(text, text, text, text, interval, timestamptz, text, integer)
    set enable_sort = off;
alter function okcm.page_with_problems(text, text, text, text, interval, timestamptz, text, integer)
    set plan_cache_mode = force_custom_plan;

-- As before, but without a list of locks for every tenant.
create or replace function okcm.count_problems(promise interval, since timestamptz)
returns table (problem text, tenants bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
as $$
begin
    perform okcm.require_platform_context();
    return query select one.name, count(*) from okcm.tenants_with_problems(promise, since) p
        cross join lateral unnest(
            case when p.state = 'locked' then p.problems || array(select 'locked-' || l from unnest(p.locks) l)
                 else p.problems end) as one (name)
        group by one.name;
end
$$;
