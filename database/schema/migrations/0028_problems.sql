-- As before, but the rejected requests are those of the tenant's services, as in the tenant's status, and are found by
-- the index of rejections. In SQL the function was planned without the value of `since`, and could look through all
-- hours of all services.
create or replace function okcm.tenants_with_problems(promise interval, since timestamptz)
returns table (tenant_id text, organization text, region text, state text, root_key_mode text,
               requested_at timestamptz, ready_at timestamptz, promise_broken_at timestamptz, locks text[],
               unlocks_to text, problems text[])
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
as $$
begin
    return query
    with unreachable as materialized (
        select k.tenant_id from okcm.root_key k where k.state = 'current' and k.health <> 'ok'
    ), breached as materialized (
        select a.tenant_id from okcm.isolation_assessment a where a.breached_at is not null and a.breached
    ), refused as materialized (
        select distinct h.tenant_id from okcm.usage_hour h
        where h.hour >= date_trunc('hour', since, 'UTC') and h.refusal <> '' and h.last_minute >= since
            and h.service <> ''
    )
    select t.tenant_id, t.organization, t.region, t.state, t.root_key_mode, t.requested_at, t.ready_at,
           t.promise_broken_at, t.locks, t.unlocks_to,
           array_remove(array[
               case when t.state = 'failed' or (t.state in ('requested', 'provisioning')
                    and t.requested_at < statement_timestamp() - promise) then 'provisioning' end,
               case when v.serves and t.tenant_id in (select u.tenant_id from unreachable u) then 'root-key' end,
               case when v.serves and ('isolation-breach' = any (t.locks)
                    or t.tenant_id in (select b.tenant_id from breached b)) then 'isolation' end,
               case when v.serves and t.tenant_id in (select r.tenant_id from refused r) then 'requests' end], null)
    from okcm.tenant t
    cross join lateral (select t.state in ('active', 'suspended', 'locked') as serves) v
    where not starts_with(t.tenant_id, 'openkcm-');
end
$$;
