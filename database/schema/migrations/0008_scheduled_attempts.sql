-- Scheduled work in the order of its last attempt: work that fails in each run is attempted last in the next one, so it
-- delays no other tenant.

-- The time of the last attempt of each scheduled task (core/scheduled.py) for this tenant.
alter table okcm.tenant add column scheduled_attempts jsonb not null default '{}';
grant update (scheduled_attempts) on okcm.tenant to okcm_worker;

-- Return tenants with credentials that no workflow took within 15 minutes, far longer than a request takes to start.
create or replace function okcm.untaken_credentials(at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select t.tenant_id from okcm.tenant t join okcm.root_key_request r on r.tenant_id = t.tenant_id
        where r.sealed is not null and r.requested_at < now() - interval '15 minutes'
        group by t.tenant_id
        order by (t.scheduled_attempts ->> 'unused-credentials')::timestamptz nulls first, min(r.requested_at)
        limit at_most;
end
$$;

-- Return tenants whose authority has a third of its lifetime left and whose former authority has ended.
create or replace function okcm.due_authorities(at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select a.tenant_id from okcm.certificate_authority a join okcm.tenant t on t.tenant_id = a.tenant_id
        where a.state = 'current' and t.state in ('active', 'suspended', 'locked')
        and (a.not_after - statement_timestamp()) * 3 <= a.not_after - a.recorded_at
        and not exists (select from okcm.certificate_authority f where f.tenant_id = a.tenant_id and f.state = 'former')
        order by (t.scheduled_attempts ->> 'ca-rotation')::timestamptz nulls first, a.not_after limit at_most;
end
$$;

-- Return tenants whose former authority issued no certificate that is still valid.
create or replace function okcm.outlived_authorities(at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select a.tenant_id from okcm.certificate_authority a join okcm.tenant t on t.tenant_id = a.tenant_id
        where a.state = 'former' and not exists (
            select from okcm.service_certificate c where c.tenant_id = a.tenant_id and c.authority = a.serial
            and c.not_after > statement_timestamp())
        order by (t.scheduled_attempts ->> 'ca-retirement')::timestamptz nulls first, a.tenant_id limit at_most;
end
$$;

-- Return tenants whose CRL is missing, older than `oldest`, or without a later revocation; the oldest attempt comes
-- first, then the oldest CRL.
create or replace function okcm.stale_revocation_lists(oldest interval, at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select t.tenant_id from okcm.tenant t join okcm.certificate_authority a on a.tenant_id = t.tenant_id
        left join okcm.certificate_revocation_list l on l.tenant_id = a.tenant_id and l.authority = a.serial
        where a.state in ('current', 'former') and t.state in ('active', 'suspended', 'locked')
        and (l.this_update is null or l.this_update < statement_timestamp() - oldest
             or exists (select from okcm.service_certificate c where c.tenant_id = a.tenant_id
                        and c.authority = a.serial and c.revoked_at > l.this_update))
        group by t.tenant_id
        order by (t.scheduled_attempts ->> 'revocation-lists')::timestamptz nulls first,
                 min(l.this_update) nulls first
        limit at_most;
end
$$;

-- Return certificates, authorities and CRLs with less than a sixth of their lifetime left, or none
-- (core/certificates.py). Of a connected service only the newest certificate counts.
create or replace function okcm.expiring(at_most integer)
returns table (tenant_id text, region text, kind text, name text, serial text, generation integer,
               begins timestamptz, ends timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        with life as (
            select s.tenant_id, 'certificate' as kind, s.service as name, c.serial, c.generation,
                   c.not_before as begins, c.not_after as ends
            from okcm.service s cross join lateral (
                select n.* from okcm.service_certificate n
                where n.tenant_id = s.tenant_id and n.service = s.service and n.revoked_at is null
                order by n.generation desc limit 1) c
            where s.state = 'connected'
            union all
            select a.tenant_id, 'authority', a.serial, a.serial, 0, a.recorded_at, a.not_after
            from okcm.certificate_authority a where a.state = 'current'
            union all
            select l.tenant_id, 'revocation-list', l.authority, l.authority || '-' || l.number, 0,
                   l.this_update, l.next_update
            from okcm.certificate_revocation_list l join okcm.certificate_authority a
            on a.tenant_id = l.tenant_id and a.serial = l.authority and a.state in ('current', 'former'))
        select life.tenant_id, t.region, life.kind, life.name, life.serial, life.generation, life.begins, life.ends
        from life join okcm.tenant t on t.tenant_id = life.tenant_id
        where t.state in ('active', 'suspended', 'locked')
        and (life.ends - statement_timestamp()) * 6 < life.ends - life.begins
        -- Of a tenant, items that have not expired come first, the longest expired last.
        order by (t.scheduled_attempts ->> 'expiry')::timestamptz nulls first, life.ends desc limit at_most;
end
$$;

-- Return the oldest root key version in use, for each tenant whose root key numbers its versions. The worker asks the
-- key server for the newest one. Unhealthy keys are left to the health checks. Tenants with the oldest attempt come
-- first, then those with the oldest last rotation, so that tenants that fail do not delay the others.
create or replace function okcm.numbered_root_keys()
returns table (tenant_id text, region text, root_key_id text, oldest integer, noticed integer)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select t.tenant_id, t.region, r.root_key_id, least(r.probe_version, k.oldest), t.root_key_newest
        from okcm.tenant t
        left join okcm.root_key r on r.tenant_id = t.tenant_id and r.state = 'current'
        left join lateral (select min(s.root_key_version) as oldest from okcm.service_key s
                           where s.tenant_id = t.tenant_id) k on true
        where t.state in ('active', 'suspended') and (r.root_key_id is null or r.health = 'ok')
        and least(r.probe_version, k.oldest) is not null
        order by (t.scheduled_attempts ->> 'root-key-versions')::timestamptz nulls first,
                 (select max(n.started_at) from okcm.rotation n where n.tenant_id = t.tenant_id) nulls first,
                 t.tenant_id;
end
$$;

-- Return tenants with keys past their cryptoperiod, an unfinished rotation, or compromised versions without objects.
-- Tenants with the oldest attempt come first, then those with the oldest last rotation, so that tenants that fail do
-- not delay the others.
create or replace function okcm.due_rotations(
    default_tenant_key_days integer, default_service_key_days integer, at_most integer)
returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select t.tenant_id from okcm.tenant t left join okcm.tenant_policy p on p.tenant_id = t.tenant_id
        where t.state in ('active', 'suspended') and (
            exists (select from okcm.key k where k.tenant_id = t.tenant_id and k.kind = 'L2'
                    and (k.oldest < k.version or k.rotated_at < statement_timestamp()
                         - make_interval(days => coalesce(p.tenant_key_days, default_tenant_key_days))))
            or exists (select from okcm.service_key k join okcm.service s
                       on s.tenant_id = k.tenant_id and s.service = k.service
                       where k.tenant_id = t.tenant_id and k.state = 'active' and s.state <> 'disconnected'
                       and k.activated_at < statement_timestamp()
                           - make_interval(days => coalesce(p.service_key_days, default_service_key_days)))
            or exists (select from okcm.service_key k where k.tenant_id = t.tenant_id and k.state = 'compromised'
                       and not exists (select from okcm.managed_object o
                                       where o.tenant_id = k.tenant_id and o.service = k.service
                                       and o.key_version = k.version and o.material is not null)))
        order by (t.scheduled_attempts ->> 'rotations')::timestamptz nulls first,
                 (select max(r.started_at) from okcm.rotation r where r.tenant_id = t.tenant_id) nulls first,
                 t.tenant_id
        limit at_most;
end
$$;

-- Return tenants whose keys are not rotated although due, and why: `unfinished`, a rotation runs too long; `failed`,
-- the last scheduled rotation failed and keys are still due; `overdue`, keys are past their cryptoperiod by `overdue`
-- and no rotation began. `number` is the last rotation and `done` the last completed one, 0 without one.
create or replace function okcm.stuck_rotations(
    default_tenant_key_days integer, default_service_key_days integer, unfinished interval, overdue interval,
    at_most integer)
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

-- Return enrolments that no workflow has answered yet, oldest first, at most `at_most` of each region: a region without
-- a worker delays no other region.
create or replace function okcm.pending_enrolments(at_most integer)
returns table (tenant_id text, enrolment_id text, region text, service text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select e.tenant_id, e.enrolment_id, e.region, e.service from (
            select p.tenant_id, p.enrolment_id, t.region, p.service, p.requested_at,
                   row_number() over (partition by t.region order by p.requested_at) as place
            from okcm.enrolment p join okcm.tenant t on t.tenant_id = p.tenant_id
            where p.state = 'pending') e
        where e.place <= at_most order by e.requested_at;
end
$$;
