-- The Operations page: counters of all tenants, a page of tenants with their problems, and the platform's backlog. These
-- functions return ids, states, times and counts, and nothing of a customer's keys, services or usage.

-- Return the tenants of customers with their problems: `provisioning` (failed, or not ready after `promise`), `root-key`
-- (the recorded health is a failure), `isolation` (a check failed) and `requests` (some were rejected since `since`).
-- Requests are looked up through the primary key, in the current hours of each tenant that can have any.
create function okcm.tenants_with_problems(promise interval, since timestamptz)
returns table (tenant_id text, organization text, region text, state text, root_key_mode text,
               requested_at timestamptz, ready_at timestamptz, promise_broken_at timestamptz, locks text[],
               unlocks_to text, problems text[])
language sql stable set search_path = pg_catalog, pg_temp
as $$
    with unreachable as materialized (
        select k.tenant_id from okcm.root_key k where k.state = 'current' and k.health <> 'ok'
    ), breached as materialized (
        select a.tenant_id from okcm.isolation_assessment a where a.breached_at is not null and a.breached
    )
    select t.tenant_id, t.organization, t.region, t.state, t.root_key_mode, t.requested_at, t.ready_at,
           t.promise_broken_at, t.locks, t.unlocks_to,
           array_remove(array[
               case when t.state = 'failed' or (t.state in ('requested', 'provisioning')
                    and t.requested_at < statement_timestamp() - promise) then 'provisioning' end,
               case when v.serves and t.tenant_id in (select u.tenant_id from unreachable u) then 'root-key' end,
               case when v.serves and ('isolation-breach' = any (t.locks)
                    or t.tenant_id in (select b.tenant_id from breached b)) then 'isolation' end,
               case when v.serves and exists (
                    select from okcm.usage_hour h where h.tenant_id = t.tenant_id
                    and h.hour >= date_trunc('hour', since, 'UTC') and h.refusal <> '' and h.last_minute >= since)
                    then 'requests' end], null)
    from okcm.tenant t
    cross join lateral (select t.state in ('active', 'suspended', 'locked') as serves) v
    where not starts_with(t.tenant_id, 'openkcm-')
$$;
revoke execute on function okcm.tenants_with_problems(interval, timestamptz) from public;

-- Return how many tenants have each problem, each lock (`locked-` and its reason), and were ready later than `promise`.
create function okcm.count_problems(promise interval, since timestamptz) returns table (problem text, tenants bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select one.name, count(*) from okcm.tenants_with_problems(promise, since) p
        cross join lateral unnest(p.problems || array(select 'locked-' || l from unnest(p.locks) l
                                                      where p.state = 'locked')) as one (name)
        group by one.name;
end
$$;
revoke execute on function okcm.count_problems(interval, timestamptz) from public;
grant execute on function okcm.count_problems(interval, timestamptz) to okcm_dashboard;

-- Return a page of tenants as page_of_tenants, with their problems. `wanted_problem` is `any`, a problem, `locked-` and
-- a reason, or `late`: failed, or not ready or ready after `promise`.
create function okcm.page_with_problems(wanted_state text, wanted_region text, wanted_problem text, search text,
                                        promise interval, since timestamptz, after text, at_most integer)
returns table (tenant_id text, organization text, region text, state text, root_key_mode text,
               requested_at timestamptz, ready_at timestamptz, promise_broken_at timestamptz, locks text[],
               unlocks_to text, problems text[])
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select p.* from okcm.tenants_with_problems(promise, since) p
        where p.tenant_id > after
        and (wanted_state is null or p.state = wanted_state)
        and (wanted_region is null or p.region = wanted_region)
        and (search is null or starts_with(p.tenant_id, lower(search))
             or position(lower(search) in lower(p.organization)) > 0)
        and case when wanted_problem is null then true
                 when wanted_problem = 'any' then cardinality(p.problems) > 0
                 when wanted_problem = 'late'
                     then okcm.is_late(p.state, p.requested_at, p.promise_broken_at, promise)
                 else wanted_problem = any (p.problems)
                     or (p.state = 'locked' and wanted_problem = any (
                         select 'locked-' || l from unnest(p.locks) l)) end
        order by p.tenant_id limit at_most;
end
$$;
revoke execute on function okcm.page_with_problems(text, text, text, text, interval, timestamptz, text, integer)
    from public;
grant execute on function okcm.page_with_problems(text, text, text, text, interval, timestamptz, text, integer)
    to okcm_dashboard;

-- Return the notifications that wait for their delivery and those that are no longer attempted, for `dead_for`; and the
-- current certificate authorities of tenants in use that end within `ending`, with the first end.
create function okcm.platform_backlog(dead_for interval, ending interval)
returns table (waiting bigint, waiting_since timestamptz, dead bigint, authorities bigint, first_end timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select w.number, w.since, d.number, c.number, c.first
        from (select count(*) as number, min(o.added_at) as since from okcm.outbox o
              where o.sent_at is null and o.expired_at is null) w,
             (select count(*) as number from okcm.outbox o where o.sent_at is null and o.problem is not null
              and o.expired_at > statement_timestamp() - dead_for) d,
             (select count(*) as number, min(a.not_after) as first
              from okcm.certificate_authority a join okcm.tenant t on t.tenant_id = a.tenant_id
              where a.state = 'current' and a.not_after < statement_timestamp() + ending
              and t.state in ('active', 'suspended', 'locked')) c;
end
$$;
revoke execute on function okcm.platform_backlog(interval, interval) from public;
grant execute on function okcm.platform_backlog(interval, interval) to okcm_dashboard;
