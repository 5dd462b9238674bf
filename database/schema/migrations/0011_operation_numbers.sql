-- Operation numbers. Each start of a tenant workflow takes a block of a million, so 2,147 starts exceeded an integer.
-- Smaller blocks would repeat the numbers of tenants whose workflows have started more than once. The change rewrites
-- these three tables.
alter table okcm.root_key_change alter column number type bigint;
alter table okcm.rotation alter column number type bigint;
alter table okcm.service_key alter column staged_for type bigint;

-- Return tenants whose keys are not rotated although due, and why: `unfinished`, a rotation runs too long; `failed`,
-- the last scheduled rotation failed and keys are still due; `overdue`, keys are past their cryptoperiod by `overdue`
-- and no rotation began. `number` is the last rotation and `done` the last completed one, 0 without one.
drop function okcm.stuck_rotations(integer, integer, interval, interval, integer);
create function okcm.stuck_rotations(
    default_tenant_key_days integer, default_service_key_days integer, unfinished interval, overdue interval,
    at_most integer)
returns table (tenant_id text, why text, number bigint, problem text, done bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select t.tenant_id,
               case r.state when 'running' then 'unfinished' when 'failed' then 'failed' else 'overdue' end,
               coalesce(r.number, 0), coalesce(r.problem, ''),
               coalesce((select max(d.number) from okcm.rotation d
                         where d.tenant_id = t.tenant_id and d.state = 'done'), 0)
        from okcm.tenant t
        left join okcm.tenant_policy p on p.tenant_id = t.tenant_id
        left join lateral (select n.number, n.problem, n.started_at,
                                  -- A person who requested a rotation was notified of its failure.
                                  case when n.state = 'failed' and not n.scheduled then 'done' else n.state end as state
                           from okcm.rotation n where n.tenant_id = t.tenant_id
                           order by n.number desc limit 1) r on true
        where t.state in ('active', 'suspended', 'locked') and case r.state
            when 'running' then r.started_at < statement_timestamp() - unfinished
            when 'failed' then t.tenant_id in (
                select okcm.due_rotations(default_tenant_key_days, default_service_key_days, 2147483647))
            else t.state <> 'locked' and (
                exists (select from okcm.key k where k.tenant_id = t.tenant_id and k.kind = 'L2'
                        and k.rotated_at < statement_timestamp() - overdue
                            - make_interval(days => coalesce(p.tenant_key_days, default_tenant_key_days)))
                or exists (select from okcm.service_key k join okcm.service s
                           on s.tenant_id = k.tenant_id and s.service = k.service
                           where k.tenant_id = t.tenant_id and k.state = 'active' and s.state <> 'disconnected'
                           and k.activated_at < statement_timestamp() - overdue
                               - make_interval(days => coalesce(p.service_key_days, default_service_key_days))))
            end
        order by (t.scheduled_attempts ->> 'stalled-rotations')::timestamptz nulls first, r.started_at nulls first,
                 t.tenant_id
        limit at_most;
end
$$;
revoke execute on function okcm.stuck_rotations(integer, integer, interval, interval, integer) from public;
grant execute on function okcm.stuck_rotations(integer, integer, interval, interval, integer) to okcm_worker;
