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

-- `version` is the newest of a key, `oldest` the first that still opens anything.
alter table okcm.key
    add column oldest     integer not null default 1 check (oldest > 0),
    add column rotated_at timestamptz not null default clock_timestamp(),
    add constraint key_versions_check check (oldest <= version);
update okcm.key set rotated_at = created_at;

-- The states of NIST SP 800-57 part 1 (7) that a version goes through. `prepared`: nobody uses it yet. `active`: the one
-- that encrypts. `deactivated`: decrypts only. `compromised`: opens nothing of a caller's, only what is sealed here anew.
-- `destroyed`: the wrap is gone. `l2_version` is the version of L2 that the wrap lies under.
alter table okcm.service_key
    add column state          text not null default 'active'
        check (state in ('prepared', 'active', 'deactivated', 'compromised', 'destroyed')),
    add column l2_version     integer not null default 1 check (l2_version > 0),
    add column activated_at   timestamptz,
    add column deactivated_at timestamptz,
    add column destroyed_at   timestamptz,
    add column last_opened_at timestamptz,
    alter column wrapped drop not null,
    add constraint service_key_destroyed_check check ((state = 'destroyed') = (wrapped is null));
update okcm.service_key set activated_at = created_at;
create unique index service_key_active on okcm.service_key (tenant_id, service) where state = 'active';

-- One rotation. `done` of `total` wraps are made anew; `services` says whose keys get a new version.
create table okcm.rotation (
    tenant_id   text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    number      integer not null check (number > 0),
    tenant_key  boolean not null,
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
    -- The crypto service notes when it opened a version: by that a customer sees which one nothing needs any more.
    execute format('create policy opened_crypto on okcm.service_key for update to okcm_crypto using %s with check %s',
                   mine, mine);
end
$$;

grant select, insert (tenant_id, tenant_key_days, service_key_days), update (tenant_key_days, service_key_days, changed_at)
    on okcm.tenant_policy to okcm_worker;
grant select, insert (tenant_id, number, tenant_key, services, service, compromised, scheduled),
    update (state, stage, total, done, problem, finished_at) on okcm.rotation to okcm_worker;
grant update (version, oldest, rotated_at) on okcm.key to okcm_worker;
grant insert (state, l2_version, activated_at),
    update (state, l2_version, activated_at, deactivated_at, destroyed_at) on okcm.service_key to okcm_worker;
grant update (last_opened_at) on okcm.service_key to okcm_crypto;
grant select on okcm.tenant_policy, okcm.rotation to okcm_operator, okcm_dashboard;
grant select (state, l2_version, activated_at, deactivated_at, destroyed_at, last_opened_at)
    on okcm.service_key to okcm_operator, okcm_dashboard;

-- A wrap under a newer L2 opens to the very same key, so nobody has to forget it. Another state, or another root key, is
-- another matter.
drop trigger announce_rewrap on okcm.service_key;
create trigger announce_rewrap after update on okcm.service_key for each row
    when (old.state is distinct from new.state or old.root_key_id is distinct from new.root_key_id)
    execute function okcm.announce_change();
