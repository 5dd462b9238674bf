-- Rotations that did not come to their end, for the hourly look that tells people of them; and their kind of message.

-- Whose keys are not rotated although they are to be, and why: `unfinished`, a rotation has run for longer than any
-- should; `failed`, the last one, which the schedule began, ended early, and something is still due; `overdue`, a key is
-- older than its tenant wants by as much again as a rotation may take, and none was begun. `number` is the last rotation,
-- `done` the last that came to its end, 0 where there is none.
create function okcm.stuck_rotations(default_tenant_key_days integer, default_service_key_days integer,
                                     unfinished interval, overdue interval, at_most integer)
returns table (tenant_id text, why text, number integer, problem text, done integer)
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
                                  -- One that a person asked for was told to that person.
                                  case when n.state = 'failed' and not n.scheduled then 'done' else n.state end as state
                           from okcm.rotation n where n.tenant_id = t.tenant_id order by n.number desc limit 1) r on true
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
        order by r.started_at nulls first, t.tenant_id
        limit at_most;
end
$$;
revoke execute on function okcm.stuck_rotations(integer, integer, interval, interval, integer) from public;
grant execute on function okcm.stuck_rotations(integer, integer, interval, interval, integer) to okcm_worker;

do $$
declare
    kinds text;
begin
    -- One more kind of message; whatever the others are by now.
    select pg_get_expr(conbin, conrelid) into strict kinds from pg_constraint
        where conrelid = 'okcm.outbox'::regclass and conname = 'outbox_kind_check';
    alter table okcm.outbox drop constraint outbox_kind_check;
    execute format('alter table okcm.outbox add constraint outbox_kind_check check (%s or kind = %L)',
                   kinds, 'rotation-stuck');
end
$$;
