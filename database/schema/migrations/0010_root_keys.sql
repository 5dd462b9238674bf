-- Root keys that customers hold (L1): where they are, how they do, the changes from one to another, and why a tenant is
-- locked.

alter table okcm.tenant drop constraint tenant_root_key_mode_check;
alter table okcm.tenant add constraint tenant_root_key_mode_check
    check (root_key_mode in ('platform', 'aws-kms', 'pkcs11', 'openbao'));
-- Why a tenant is locked and where it goes when the last reason is gone; empty and null while it is not.
alter table okcm.tenant
    add column locks text[] not null default '{}' check (locks <@ array['switch', 'root-key']),
    add column unlocks_to text check (unlocks_to in ('active', 'suspended'));

-- A root key that a customer holds. `place` is public; `credentials` is their ciphertext under the tenant's L2, which a
-- context binds to this row, and is forgotten when the key is retired. `probe` is a known value wrapped by the key when it
-- was admitted: whoever opens it to `probe_digest` uses the very same key, and may decrypt with it.
create table okcm.root_key (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    root_key_id  text not null check (root_key_id ~ '^[0-9a-f]{32}$'),
    mode         text not null check (mode in ('aws-kms', 'pkcs11', 'openbao')),
    name         text not null check (length(name) between 1 and 512),
    place        jsonb not null check (jsonb_typeof(place) = 'object'),
    credentials  text check (length(credentials) between 1 and 16384),
    state        text not null default 'candidate' check (state in ('candidate', 'current', 'retired')),
    probe        bytea check (length(probe) between 1 and 8192),
    probe_digest bytea check (length(probe_digest) = 32),
    health       text not null default 'ok' check (length(health) between 1 and 60),
    health_since timestamptz not null default clock_timestamp(),
    created_at   timestamptz not null default clock_timestamp(),
    primary key (tenant_id, root_key_id),
    foreign key (tenant_id) references okcm.tenant,
    -- What is current has been tried.
    check (state <> 'current' or (probe is not null and probe_digest is not null and credentials is not null))
);
create unique index root_key_current on okcm.root_key (tenant_id) where state = 'current';

-- What somebody outside asks for: a preflight, or a change. `sealed` holds the credentials, encrypted for the worker
-- alone (config/sealing.py), and is emptied as soon as they are taken. `problems` is what a preflight found; null before.
create table okcm.root_key_request (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    request_id   text not null check (request_id ~ '^[0-9a-f]{32}$'),
    place        jsonb not null check (jsonb_typeof(place) = 'object'),
    sealed       text check (length(sealed) between 1 and 32768),
    problems     jsonb check (jsonb_typeof(problems) = 'array'),
    requested_at timestamptz not null default clock_timestamp(),
    primary key (tenant_id, request_id),
    foreign key (tenant_id) references okcm.tenant
);
create index root_key_request_sealed on okcm.root_key_request (requested_at) where sealed is not null;

-- One change of the root key. `wrapped` of `total` service keys lie under the new one as well; they are switched together.
create table okcm.root_key_change (
    tenant_id   text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    number      integer not null check (number > 0),
    from_mode   text not null,
    from_name   text not null,
    to_mode     text not null,
    to_name     text not null,
    root_key_id text,
    state       text not null default 'running' check (state in ('running', 'done', 'failed')),
    total       integer not null default 0 check (total >= 0),
    wrapped     integer not null default 0 check (wrapped between 0 and total),
    problem     text check (length(problem) between 1 and 60),
    started_at  timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    primary key (tenant_id, number),
    foreign key (tenant_id) references okcm.tenant,
    foreign key (tenant_id, root_key_id) references okcm.root_key
);

-- Under which of the customer's keys an L3 lies (null: the platform's), and the wrap that waits to take over.
alter table okcm.service_key
    add column root_key_id    text,
    add column staged_for     integer,
    add column staged_wrapped bytea check (length(staged_wrapped) between 1 and 8192),
    add constraint service_key_root_key_fkey foreign key (tenant_id, root_key_id) references okcm.root_key,
    add constraint service_key_staged_for_fkey
        foreign key (tenant_id, staged_for) references okcm.root_key_change (tenant_id, number),
    add constraint service_key_mode_check check ((root_key_mode = 'platform') = (root_key_id is null)),
    add constraint service_key_staged_check check ((staged_for is null) = (staged_wrapped is null));

do $$
declare
    tenant_table text;
    mine constant text := '(tenant_id = (select current_setting(''app.tenant_id'', true)))';
begin
    foreach tenant_table in array array['root_key', 'root_key_request', 'root_key_change'] loop
        execute format('alter table okcm.%I enable row level security', tenant_table);
        execute format('alter table okcm.%I force row level security', tenant_table);
        execute format('create policy signed on okcm.%I as restrictive for all to public '
                       'using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()))', tenant_table);
        execute format('create policy own_rows on okcm.%I to okcm_worker using %s with check %s',
                       tenant_table, mine, mine);
    end loop;
    foreach tenant_table in array array['root_key', 'root_key_change'] loop
        execute format('create policy own_rows_operator on okcm.%I for select to okcm_operator using %s',
                       tenant_table, mine);
        execute format('create policy own_rows_dashboard on okcm.%I for select to okcm_dashboard using %s',
                       tenant_table, mine);
    end loop;
    execute format('create policy own_rows_operator on okcm.root_key_request to okcm_operator using %s with check %s',
                   mine, mine);
    execute format('create policy own_rows_dashboard on okcm.root_key_request to okcm_dashboard using %s with check %s',
                   mine, mine);
    execute format('create policy own_rows_crypto on okcm.root_key for select to okcm_crypto using %s', mine);
end
$$;

-- The worker changes root keys. It never puts another place or probe behind a key that was admitted.
grant select,
    insert (tenant_id, root_key_id, mode, name, place, credentials),
    update (credentials, state, probe, probe_digest, health, health_since) on okcm.root_key to okcm_worker;
grant select, update (sealed, problems) on okcm.root_key_request to okcm_worker;
grant select,
    insert (tenant_id, number, from_mode, from_name, to_mode, to_name, root_key_id),
    update (root_key_id, state, total, wrapped, problem, finished_at) on okcm.root_key_change to okcm_worker;
grant insert (root_key_id), update (root_key_mode, root_key, root_key_id, wrapped, staged_for, staged_wrapped)
    on okcm.service_key to okcm_worker;
grant update (root_key_mode, locks, unlocks_to) on okcm.tenant to okcm_worker;
-- The crypto service opens with them and changes none.
grant select (tenant_id, root_key_id, place, credentials, state) on okcm.root_key to okcm_crypto;
-- Who only looks sees neither credentials nor probes, and asks through the request.
grant select (tenant_id, root_key_id, mode, name, place, state, health, health_since, created_at) on okcm.root_key
    to okcm_operator, okcm_dashboard;
grant select on okcm.root_key_change to okcm_operator, okcm_dashboard;
grant select (tenant_id, request_id, place, problems, requested_at), insert (tenant_id, request_id, place, sealed)
    on okcm.root_key_request to okcm_operator, okcm_dashboard;

-- Whoever remembers looks again. Not at a change of health: a key that is only out of reach leaves open what is open, and
-- one that was taken away changes the tenant's state, which is announced.
create trigger announce_change after update on okcm.root_key for each row
    when (old.state is distinct from new.state or old.credentials is distinct from new.credentials)
    execute function okcm.announce_change();
-- A wrap that only waits to take over changes nothing for anybody.
drop trigger announce_change on okcm.service_key;
create trigger announce_change after insert or delete on okcm.service_key
    for each row execute function okcm.announce_change();
create trigger announce_rewrap after update on okcm.service_key for each row
    when (old.wrapped is distinct from new.wrapped or old.root_key_id is distinct from new.root_key_id)
    execute function okcm.announce_change();

alter table okcm.outbox drop constraint outbox_kind_check;
alter table okcm.outbox add constraint outbox_kind_check check (kind in (
    'ready', 'late', 'failed', 'locked', 'unlocked', 'root-key-warning', 'root-key-changed'));

-- What the watch asks: which root keys of a region are to be tried, how each did, and whether a service of the tenant
-- used it lately, so that something of it may be in memory. Ids and states; where the keys are is read tenant by tenant.
create policy platform_questions on okcm.root_key for select to okcm_owner
    using ((select current_setting('app.tenant_id', true)) = '*');
create policy platform_questions on okcm.service for select to okcm_owner
    using ((select current_setting('app.tenant_id', true)) = '*');

create function okcm.watched_root_keys(of_region text, lately interval)
returns table (tenant_id text, root_key_id text, health text, health_since timestamptz, held boolean, used boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select k.tenant_id, k.root_key_id, k.health, k.health_since, 'root-key' = any (t.locks),
               exists (select from okcm.service s where s.tenant_id = k.tenant_id
                       and s.last_seen_at > statement_timestamp() - lately)
        from okcm.root_key k join okcm.tenant t on t.tenant_id = k.tenant_id
        where k.state = 'current' and t.region = of_region and t.state in ('active', 'suspended', 'locked');
end
$$;
revoke execute on function okcm.watched_root_keys(text, interval) from public;
grant execute on function okcm.watched_root_keys(text, interval) to okcm_worker;

-- Credentials that nobody came for: the workflow refused, or was never reached. A quarter of an hour is far longer than a
-- request takes to be taken up.
create policy platform_questions on okcm.root_key_request for select to okcm_owner
    using ((select current_setting('app.tenant_id', true)) = '*');
create function okcm.untaken_credentials(at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select distinct r.tenant_id from okcm.root_key_request r
        where r.sealed is not null and r.requested_at < now() - interval '15 minutes' limit at_most;
end
$$;
revoke execute on function okcm.untaken_credentials(integer) from public;
grant execute on function okcm.untaken_credentials(integer) to okcm_worker;

drop function okcm.page_of_tenants(text, text, boolean, text, interval, text, integer);
-- As in 0008, and why each is locked.
create function okcm.page_of_tenants(wanted_state text, wanted_region text, only_late boolean, search text,
                                     promise interval, after text, at_most integer)
returns table (tenant_id text, organization text, region text, state text, root_key_mode text,
               requested_at timestamptz, ready_at timestamptz, promise_broken_at timestamptz, locks text[],
               unlocks_to text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select t.tenant_id, t.organization, t.region, t.state, t.root_key_mode,
                        t.requested_at, t.ready_at, t.promise_broken_at, t.locks, t.unlocks_to
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
