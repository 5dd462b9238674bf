-- Examinations of tenants' boundaries: every attack of the standard's clauses, daily, its result for each clause signed; the
-- lock of a breach; and what the platform asks about them.

alter table okcm.boundary_result drop constraint boundary_result_outcome_check;
alter table okcm.boundary_result add constraint boundary_result_outcome_check
    check (outcome in ('held', 'breached', 'not-checked'));

-- One clause's line of one examination; its attacks are the rows of okcm.boundary_result of the same time and operation.
-- `digest` is over them and `signature` over the line (tenancy/examination.py), so that it says something also when they
-- are no longer kept.
create table okcm.boundary_clause (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    examined_at  timestamptz not null,
    clause       text not null check (clause ~ '^[A-Z][A-Z0-9-]{0,19}$'),
    operation_id text not null check (length(operation_id) between 1 and 200),
    held         integer not null check (held >= 0),
    breached     integer not null check (breached >= 0),
    not_checked  integer not null check (not_checked >= 0),
    digest       bytea not null check (length(digest) = 32),
    signature    text not null check (length(signature) between 1 and 500),
    key          text not null check (length(key) between 1 and 200),
    primary key (tenant_id, examined_at, clause),
    -- However often a run is recorded, it is once.
    unique (tenant_id, operation_id, clause),
    foreign key (tenant_id) references okcm.tenant
);

do $$
declare
    kinds text;
    mine constant text := '(tenant_id = (select current_setting(''app.tenant_id'', true)))';
    for_all constant text := '(select current_setting(''app.tenant_id'', true)) = ''*''';
    asked text;
    evidence text;
    at text;
begin
    alter table okcm.boundary_clause enable row level security;
    alter table okcm.boundary_clause force row level security;
    create policy signed on okcm.boundary_clause as restrictive for all to public
        using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()));
    execute format('create policy own_rows on okcm.boundary_clause to okcm_worker using %s with check %s', mine, mine);
    execute format('create policy own_rows_operator on okcm.boundary_clause for select to okcm_operator using %s', mine);
    execute format('create policy own_rows_dashboard on okcm.boundary_clause for select to okcm_dashboard using %s', mine);
    -- For okcm.trim_boundaries alone. The owner reaches no row that is younger than this, whatever the function says: what
    -- is new is evidence, and nobody takes it away. Two policies, because pgrls can prove the first by itself.
    for evidence, at in values ('boundary_result', 'recorded_at'), ('boundary_clause', 'examined_at') loop
        execute format('create policy trim on okcm.%I to okcm_owner using %s with check %s', evidence, mine, mine);
        execute format('create policy only_old on okcm.%I as restrictive for all to okcm_owner using '
                       '(%s or %I < statement_timestamp() - interval ''14 days'')',
                       evidence, for_all, at);
    end loop;
    -- Why a tenant is locked: also because a wall of it did not hold.
    alter table okcm.tenant drop constraint tenant_locks_check;
    alter table okcm.tenant add constraint tenant_locks_check check (locks <@ array['switch', 'root-key', 'breach']);
    -- One more kind of message; whatever the others are by now.
    select pg_get_expr(conbin, conrelid) into strict kinds from pg_constraint
        where conrelid = 'okcm.outbox'::regclass and conname = 'outbox_kind_check';
    alter table okcm.outbox drop constraint outbox_kind_check;
    execute format('alter table okcm.outbox add constraint outbox_kind_check check (%s or kind = %L)', kinds, 'breached');
    -- What okcm.examination_dues reads beside what others read already.
    foreach asked in array array['boundary_clause', 'root_key_change', 'route'] loop
        execute format('create policy platform_questions on okcm.%I for select to okcm_owner '
                       'using ((select current_setting(''app.tenant_id'', true)) = ''*'')', asked);
    end loop;
end
$$;

-- Evidence is added and never changed. The time is the examination's own: it was signed before it came here.
grant insert (recorded_at) on okcm.boundary_result to okcm_worker;
grant select, insert (tenant_id, examined_at, clause, operation_id, held, breached, not_checked, digest, signature, key)
    on okcm.boundary_clause to okcm_worker;
grant select on okcm.boundary_clause to okcm_operator, okcm_dashboard;

-- What is kept of a tenant's examinations: each attack for 14 days, the signed lines for 400, a year of them and the time
-- an audit of it takes; of an examination that found a breach all of it for 400 days. The gate's results stay.
create function okcm.trim_boundaries() returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    tenant text := current_setting('app.tenant_id', true);
    longest constant interval := interval '400 days';
    gone bigint;
    also bigint;
begin
    if not okcm.ctx_ok() or tenant = '*' then
        raise insufficient_privilege using message = 'the context is not signed for a tenant';
    end if;
    delete from okcm.boundary_result r using okcm.boundary_clause c
        where r.tenant_id = tenant and c.tenant_id = r.tenant_id and c.examined_at = r.recorded_at and c.clause = r.clause
        and (r.recorded_at < statement_timestamp() - longest
             or not exists (select from okcm.boundary_clause b where b.tenant_id = r.tenant_id
                            and b.examined_at = r.recorded_at and b.breached > 0));
    get diagnostics gone = row_count;
    delete from okcm.boundary_clause where tenant_id = tenant and examined_at < statement_timestamp() - longest;
    get diagnostics also = row_count;
    return gone + also;
end
$$;
revoke execute on function okcm.trim_boundaries() from public;
grant execute on function okcm.trim_boundaries() to okcm_worker;

-- When each tenant that was opened and has not left is to be examined: once a day at a second of its own, told by its id,
-- and besides as soon as a rotation, a change of its root key or of its route (a roll of its authority), or a restore has
-- ended since it was last. Who was never examined is due within a day of being ready; the gate attacked it before.
-- The platform's own tenants take part in everybody's examination and have none of their own.
create function okcm.examination_dues()
returns table (tenant_id text, region text, examined_at timestamptz, breached boolean, locked boolean, due_at timestamptz)
language sql stable set search_path = pg_catalog, pg_temp
as $$
    select t.tenant_id, t.region, n.examined_at, coalesce(n.breached, false), 'breach' = any (t.locks),
           least(l.last + make_interval(secs => 1 + mod(o.own - mod(floor(extract(epoch from l.last))::bigint, 86400)
                                                        + 86399, 86400)),
                 (select min(r.finished_at) from okcm.rotation r
                  where r.tenant_id = t.tenant_id and r.finished_at > l.last),
                 (select min(r.finished_at) from okcm.root_key_change r
                  where r.tenant_id = t.tenant_id and r.finished_at > l.last),
                 (select r.published_at from okcm.route r
                  where r.tenant_id = t.tenant_id and r.published_at > l.last),
                 case when t.restored_at > l.last then t.restored_at end)
    from okcm.tenant t
    left join lateral (
        select c.examined_at, bool_or(c.breached > 0) as breached from okcm.boundary_clause c
        where c.tenant_id = t.tenant_id and c.examined_at = (
            select max(newest.examined_at) from okcm.boundary_clause newest where newest.tenant_id = t.tenant_id)
        group by c.examined_at) n on true
    cross join lateral (select coalesce(n.examined_at, t.ready_at) as last) l
    cross join lateral (select sha256(convert_to(t.tenant_id, 'UTF8')) as h) d
    cross join lateral (
        select mod(get_byte(d.h, 0) * 65536 + get_byte(d.h, 1) * 256 + get_byte(d.h, 2), 86400)::bigint as own) o
    where t.state in ('active', 'suspended', 'locked') and not starts_with(t.tenant_id, 'openkcm-')
$$;
revoke execute on function okcm.examination_dues() from public;

-- Whose examination is due, in order of ids from the first behind `after`, so that none that fails keeps out another. A
-- breach that did not lock its tenant is one: whoever was to be told of it was not reached.
create function okcm.due_examinations(after text, at_most integer) returns table (tenant_id text, region text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select d.tenant_id, d.region from okcm.examination_dues() d
        where d.tenant_id > after
        and (d.due_at <= statement_timestamp() or (d.breached and not d.locked))
        order by d.tenant_id limit at_most;
end
$$;
revoke execute on function okcm.due_examinations(text, integer) from public;
grant execute on function okcm.due_examinations(text, integer) to okcm_worker;

-- Who needs somebody now: `breached`, locked for it or found by the newest examination; `late`, due for longer than `late`.
create function okcm.troubled_examinations(late interval, at_most integer)
returns table (tenant_id text, region text, why text, since timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select d.tenant_id, d.region, case when d.breached or d.locked then 'breached' else 'late' end,
               case when d.breached or d.locked then d.examined_at else d.due_at end
        from okcm.examination_dues() d
        where d.breached or d.locked or d.due_at < statement_timestamp() - late
        order by 3, 4, 1 limit at_most;
end
$$;
revoke execute on function okcm.troubled_examinations(interval, integer) from public;
grant execute on function okcm.troubled_examinations(interval, integer) to okcm_worker, okcm_dashboard;
