-- What operators ask across tenants from the dashboard: how far each one is and where it is stuck; nothing of what it has.
-- As in 0005 each question runs as the owner, for a context that the process signed for '*', and is granted to one role.

create policy platform_questions on okcm.tenant for select to okcm_owner
    using ((select current_setting('app.tenant_id', true)) = '*');
create policy platform_questions on okcm.operation_step for select to okcm_owner
    using ((select current_setting('app.tenant_id', true)) = '*');

-- Ready later than promised, not ready and past the promise, or failed. Plain SQL, so that it becomes part of the query
-- that asks; no index serves it: 10,000 tenants are read in milliseconds, and one on state would cost every move.
create function okcm.is_late(state text, requested_at timestamptz, promise_broken_at timestamptz, promise interval)
returns boolean language sql stable
return promise_broken_at is not null or state = 'failed'
    or (state in ('requested', 'provisioning') and requested_at < statement_timestamp() - promise);
revoke execute on function okcm.is_late(text, timestamptz, timestamptz, interval) from public;

-- The platform's own tenants (the canary) are no customers: they are in none of the answers.
create function okcm.count_tenants(promise interval)
returns table (region text, state text, tenants bigint, late bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select t.region, t.state, count(*),
        count(*) filter (where okcm.is_late(t.state, t.requested_at, t.promise_broken_at, promise))
        from okcm.tenant t where not starts_with(t.tenant_id, 'openkcm-')
        group by t.region, t.state;
end
$$;
revoke execute on function okcm.count_tenants(interval) from public;
grant execute on function okcm.count_tenants(interval) to okcm_dashboard;

-- A page in order of ids, from the first one behind `after`; null is no filter. `search` is the beginning of an id or
-- any part of an organization's name, both compared as text: nothing in it is a pattern. Of letters A to Z the case does
-- not matter; of others it does where the database's locale is C, as it is in the embedded one.
create function okcm.page_of_tenants(wanted_state text, wanted_region text, only_late boolean, search text,
                                     promise interval, after text, at_most integer)
returns table (tenant_id text, organization text, region text, state text, root_key_mode text,
               requested_at timestamptz, ready_at timestamptz, promise_broken_at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select t.tenant_id, t.organization, t.region, t.state, t.root_key_mode,
                        t.requested_at, t.ready_at, t.promise_broken_at
        from okcm.tenant t
        where t.tenant_id > after and not starts_with(t.tenant_id, 'openkcm-')
        and (wanted_state is null or t.state = wanted_state)
        and (wanted_region is null or t.region = wanted_region)
        and (not only_late or okcm.is_late(t.state, t.requested_at, t.promise_broken_at, promise))
        and (search is null or starts_with(t.tenant_id, lower(search))
             or position(lower(search) in lower(t.organization)) > 0)
        order by t.tenant_id limit at_most;
end
$$;
revoke execute on function okcm.page_of_tenants(text, text, boolean, text, interval, text, integer) from public;
grant execute on function okcm.page_of_tenants(text, text, boolean, text, interval, text, integer) to okcm_dashboard;

-- Who needs somebody now: failed, or not ready and past the promise, those that wait longest first, with the step they
-- are at (the first of the newest operation that is not done) and the error code of its last try.
create function okcm.stuck_tenants(promise interval, at_most integer)
returns table (tenant_id text, organization text, region text, state text, requested_at timestamptz,
               step text, step_state text, attempts integer, problem text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        with stuck as (
            select t.* from okcm.tenant t
            where (t.state = 'failed' or (t.state in ('requested', 'provisioning')
                                          and t.requested_at < statement_timestamp() - promise))
            and not starts_with(t.tenant_id, 'openkcm-')
            order by t.requested_at, t.tenant_id limit at_most)
        select t.tenant_id, t.organization, t.region, t.state, t.requested_at,
               at.step, at.state, at.attempts, at.problem
        from stuck t left join lateral (
            select s.step, s.state, s.attempts, s.problem from okcm.operation_step s
            where s.tenant_id = t.tenant_id and s.state <> 'done' and s.operation_id = (
                select n.operation_id from okcm.operation_step n where n.tenant_id = t.tenant_id
                order by n.planned_at desc limit 1)
            order by s.number limit 1) as at on true
        order by t.requested_at, t.tenant_id;
end
$$;
revoke execute on function okcm.stuck_tenants(interval, integer) from public;
grant execute on function okcm.stuck_tenants(interval, integer) to okcm_dashboard;

-- How long the newest ready tenants took; which of them it was does not matter to the question.
create function okcm.provisioning_times(at_most integer) returns table (requested_at timestamptz, ready_at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select t.requested_at, t.ready_at from okcm.tenant t
        where t.ready_at is not null and not starts_with(t.tenant_id, 'openkcm-')
        order by t.requested_at desc limit at_most;
end
$$;
revoke execute on function okcm.provisioning_times(integer) from public;
grant execute on function okcm.provisioning_times(integer) to okcm_dashboard;
