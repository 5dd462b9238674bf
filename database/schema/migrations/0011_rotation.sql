-- Versions of tenant keys (L2) and service keys (L3): which one encrypts, which ones still decrypt, which open nothing any
-- more; how often a tenant wants new ones; and the rotations that make them.

-- What a tenant asks of its keys; without a row the defaults hold. The bounds are those of tenancy/policy.py.
create table okcm.tenant_policy (
    tenant_id        text primary key check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    tenant_key_days  integer not null check (tenant_key_days between 30 and 730),
    service_key_days integer not null check (service_key_days between 7 and 365),
    changed_at       timestamptz not null default clock_timestamp(),
    foreign key (tenant_id) references okcm.tenant
);

-- `version` is the newest of a key, `oldest` the first that still opens anything. Nothing may be stored that lies under
-- an older one: whoever stores looks at it under the tenant's row lock, which whoever raises it holds too.
alter table okcm.key
    add column oldest     integer not null default 1 check (oldest > 0),
    add column rotated_at timestamptz not null default clock_timestamp(),
    add constraint key_versions_check check (oldest <= version);
-- Their owner does not see a tenant's rows while row security is forced; this is one transaction.
alter table okcm.key no force row level security;
update okcm.key set rotated_at = created_at;
alter table okcm.key force row level security;

-- The states of NIST SP 800-57 part 1 (7) that a version goes through. `prepared`: nobody uses it yet. `active`: the one
-- that encrypts. `deactivated`: decrypts only. `compromised`: opens nothing of a caller's, only what is sealed here anew.
-- `destroyed`: the wrap is gone. `l2_version` is the version of L2 that the wrap lies under.
alter table okcm.service_key
    add column state          text not null default 'active'
        check (state in ('prepared', 'active', 'deactivated', 'compromised', 'destroyed')),
    add column l2_version     integer not null default 1 check (l2_version > 0),
    add column activated_at   timestamptz default clock_timestamp(),
    add column deactivated_at timestamptz,
    add column destroyed_at   timestamptz,
    add column last_opened_at timestamptz,
    alter column wrapped drop not null,
    add constraint service_key_destroyed_check
        check ((state = 'destroyed') = (wrapped is null) and (wrapped is not null or staged_wrapped is null));
alter table okcm.service_key no force row level security;
update okcm.service_key set activated_at = created_at;
alter table okcm.service_key force row level security;
alter table okcm.service_key add constraint service_key_activated_check
    check (state in ('prepared', 'destroyed') or activated_at is not null);
create unique index service_key_active on okcm.service_key (tenant_id, service) where state = 'active';
-- The credentials of a root key lie under L2 too.
alter table okcm.root_key add column l2_version integer not null default 1 check (l2_version > 0);

-- One rotation. `services` says whose keys get a new version; `from_version` is the newest L2 when it began, by which a
-- repeated step knows whether it has made the next one. `done` of `total` are through the stage.
create table okcm.rotation (
    tenant_id   text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    number      integer not null check (number > 0),
    tenant_key  boolean not null,
    from_version integer not null check (from_version > 0),
    services    text not null check (services in ('none', 'due', 'all', 'one')),
    service     text check (service ~ '^[a-z0-9][a-z0-9-]{0,39}$'),
    compromised boolean not null default false,
    scheduled   boolean not null default false,
    state       text not null default 'running' check (state in ('running', 'done', 'failed')),
    stage       text not null default 'plan' check (length(stage) between 1 and 60),
    total       integer not null default 0 check (total >= 0),
    done        integer not null default 0 check (done between 0 and total),
    problem     text check (length(problem) between 1 and 60),
    started_at  timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    primary key (tenant_id, number),
    foreign key (tenant_id) references okcm.tenant,
    check ((services = 'one') = (service is not null))
);

do $$
declare
    tenant_table text;
    mine constant text := '(tenant_id = (select current_setting(''app.tenant_id'', true)))';
begin
    foreach tenant_table in array array['tenant_policy', 'rotation'] loop
        execute format('alter table okcm.%I enable row level security', tenant_table);
        execute format('alter table okcm.%I force row level security', tenant_table);
        execute format('create policy signed on okcm.%I as restrictive for all to public '
                       'using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()))', tenant_table);
        execute format('create policy own_rows on okcm.%I to okcm_worker using %s with check %s',
                       tenant_table, mine, mine);
        execute format('create policy own_rows_operator on okcm.%I for select to okcm_operator using %s',
                       tenant_table, mine);
        execute format('create policy own_rows_dashboard on okcm.%I for select to okcm_dashboard using %s',
                       tenant_table, mine);
    end loop;
    -- For okcm.objects_sealed alone: how many there are, where the worker may see none of what they hold.
    execute format('create policy own_rows_counted on okcm.managed_object for select to okcm_owner using %s', mine);
    -- The crypto service notes when it opened a version: by that a customer sees which one nothing needs any more.
    drop policy own_rows_crypto on okcm.service_key;
    execute format('create policy own_rows_crypto on okcm.service_key to okcm_crypto using %s with check %s',
                   mine, mine);
end
$$;

grant select, insert (tenant_id, tenant_key_days, service_key_days), update (tenant_key_days, service_key_days, changed_at)
    on okcm.tenant_policy to okcm_worker;
grant select, insert (tenant_id, number, tenant_key, from_version, services, service, compromised, scheduled),
    update (state, stage, total, done, problem, finished_at) on okcm.rotation to okcm_worker;
grant update (version, oldest, rotated_at) on okcm.key to okcm_worker;
grant insert (l2_version), update (l2_version) on okcm.root_key to okcm_worker;
grant insert (state, l2_version, activated_at),
    update (state, l2_version, activated_at, deactivated_at, destroyed_at) on okcm.service_key to okcm_worker;
grant update (last_opened_at) on okcm.service_key to okcm_crypto;
grant select on okcm.tenant_policy, okcm.rotation to okcm_operator, okcm_dashboard;
grant select (state, l2_version, activated_at, deactivated_at, destroyed_at, last_opened_at)
    on okcm.service_key to okcm_operator, okcm_dashboard;

-- A wrap under a newer L2 opens to the very same key, so nobody has to forget it. Another state, or another root key, is
-- another matter; a version that is only prepared is nobody's yet.
drop trigger announce_rewrap on okcm.service_key;
drop trigger announce_change on okcm.service_key;
create trigger announce_change after insert on okcm.service_key for each row when (new.state <> 'prepared')
    execute function okcm.announce_change();
create trigger announce_rewrap after update on okcm.service_key for each row
    when (old.state is distinct from new.state or old.root_key_id is distinct from new.root_key_id)
    execute function okcm.announce_change();

-- How many managed objects are sealed under a version; 0012 has the index for it, and keeps new ones from a version that ends.
create function okcm.objects_sealed(of_service text, of_version integer) returns bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    tenant text := current_setting('app.tenant_id', true);
begin
    if not okcm.ctx_ok() or tenant = '*' then
        raise insufficient_privilege using message = 'the context is not signed for a tenant';
    end if;
    return (select count(*) from okcm.managed_object o
            where o.tenant_id = tenant and o.service = of_service and o.key_version = of_version
            and o.material is not null);
end
$$;
revoke execute on function okcm.objects_sealed(text, integer) from public;
grant execute on function okcm.objects_sealed(text, integer) to okcm_worker;

alter table okcm.outbox drop constraint outbox_kind_check;
alter table okcm.outbox add constraint outbox_kind_check check (kind in (
    'ready', 'late', 'failed', 'locked', 'unlocked', 'root-key-warning', 'root-key-changed', 'keys-rotated'));

-- What the schedule asks: whose keys have become older than their tenant wants, whose rotation was not finished, and who
-- has compromised versions that nothing is sealed under any more. Those whose last rotation is longest ago come first, so
-- that none that fails keeps out another.
do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['tenant_policy', 'key', 'service_key', 'managed_object', 'rotation'] loop
        execute format('create policy platform_questions on okcm.%I for select to okcm_owner '
                       'using ((select current_setting(''app.tenant_id'', true)) = ''*'')', tenant_table);
    end loop;
end
$$;
create function okcm.due_rotations(default_tenant_key_days integer, default_service_key_days integer, at_most integer)
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
        order by (select max(r.started_at) from okcm.rotation r where r.tenant_id = t.tenant_id) nulls first,
                 t.tenant_id
        limit at_most;
end
$$;
revoke execute on function okcm.due_rotations(integer, integer, integer) from public;
grant execute on function okcm.due_rotations(integer, integer, integer) to okcm_worker;
