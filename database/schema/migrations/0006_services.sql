-- Connected services: what they asked for, their certificates and keys, the objects they keep with us, what they used.
-- The crypto service reads these rows in a role of its own (okcm_crypto), which the customer's traffic ends in.

create table okcm.service (
    tenant_id       text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    service         text not null check (service ~ '^[a-z0-9][a-z0-9-]{0,39}$'),
    kind            text not null check (kind in ('mongodb', 'postgresql', 'microservice')),
    state           text not null default 'connecting' check (state in ('connecting', 'connected', 'disconnected')),
    created_at      timestamptz not null default now(),
    connected_at    timestamptz,
    disconnected_at timestamptz,
    last_seen_at    timestamptz,
    primary key (tenant_id, service),
    foreign key (tenant_id) references okcm.tenant
) with (fillfactor = 70);  -- last_seen_at moves every second: it stays in its page

-- What somebody outside asks for. It does not refer to service, which the workflow that reads it makes first.
create table okcm.service_request (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    request_id   text not null check (length(request_id) between 1 and 200),
    service      text not null check (service ~ '^[a-z0-9][a-z0-9-]{0,39}$'),
    kind         text not null check (kind in ('mongodb', 'postgresql', 'microservice')),
    csr_pem      text not null check (length(csr_pem) between 1 and 16384),
    requested_at timestamptz not null default clock_timestamp(),
    primary key (tenant_id, request_id),
    foreign key (tenant_id) references okcm.tenant
);

create table okcm.service_certificate (
    tenant_id       text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    serial          text not null check (serial ~ '^[0-9a-f]{1,64}$'),
    service         text not null check (service ~ '^[a-z0-9][a-z0-9-]{0,39}$'),
    generation      integer not null check (generation > 0),
    request_id      text not null check (length(request_id) between 1 and 200),
    certificate_pem text not null check (length(certificate_pem) between 1 and 16384),
    not_before      timestamptz not null,
    not_after       timestamptz not null check (not_after > not_before),
    recorded_at     timestamptz not null default clock_timestamp(),
    revoked_at      timestamptz,
    primary key (tenant_id, serial),
    unique (tenant_id, service, generation),
    foreign key (tenant_id, service) references okcm.service
);

-- An L3, only ever as L1.wrap(L2.encrypt(L3)): neither the database nor the key server alone can open it.
create table okcm.service_key (
    tenant_id     text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    service       text not null check (service ~ '^[a-z0-9][a-z0-9-]{0,39}$'),
    version       integer not null check (version > 0),
    l2_key        text not null check (length(l2_key) between 1 and 100),
    root_key_mode text not null check (root_key_mode ~ '^[a-z][a-z0-9-]{0,19}$'),
    root_key      text not null check (length(root_key) between 1 and 512),
    wrapped       bytea not null check (length(wrapped) between 1 and 8192),
    created_at    timestamptz not null default clock_timestamp(),
    primary key (tenant_id, service, version),
    -- For the objects below, whose reference carries the whole descent.
    unique (tenant_id, l2_key, service, version),
    foreign key (tenant_id, service) references okcm.service,
    -- A service key descends from a key of the same tenant (MTCI U1).
    foreign key (tenant_id, l2_key) references okcm.key (tenant_id, name)
);

-- MTCI M1: [tenant][L2][object]. The reference says through which L3 an object descends from its L2; a row that claims
-- another L2, another service's key, or a version that was never made cannot be stored.
create table okcm.managed_object (
    tenant_id   text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    l2_key      text not null check (length(l2_key) between 1 and 100),
    object_id   text not null check (length(object_id) between 1 and 200),
    service     text not null check (service ~ '^[a-z0-9][a-z0-9-]{0,39}$'),
    object_type integer not null check (object_type > 0),
    state       integer not null check (state between 0 and 6),
    names       text[] not null check (cardinality(names) <= 64 and array_position(names, null) is null
                                       and length(array_to_string(names, '')) <= 16384),
    attributes  bytea not null check (length(attributes) <= 65536),
    key_version integer not null check (key_version > 0),
    material    bytea check (length(material) between 1 and 65536),
    revision    integer not null check (revision > 0),
    created_at  timestamptz not null default clock_timestamp(),
    -- By these an object is found by name: under row security no index over an array is used, because its operators
    -- are not leakproof. The service is within the hash, so that no index but the unique one begins with tenant and
    -- service: between two such the planner chooses by luck where a tenant has more objects than most.
    name_hash   bigint generated always as (hashtextextended(service || '/' || names[1], 0)) stored,
    more_names  boolean not null generated always as (cardinality(names) > 1) stored,
    primary key (tenant_id, l2_key, object_id),
    -- How a service asks; and no two L2s can hold the same object of one service.
    unique (tenant_id, service, object_id),
    foreign key (tenant_id, l2_key, service, key_version)
        references okcm.service_key (tenant_id, l2_key, service, version)
);
create index managed_object_name on okcm.managed_object (tenant_id, name_hash);
create index managed_object_more_names on okcm.managed_object (tenant_id) where more_names;

-- Counters by the minute. They do not refer to service: a refusal is counted even where no service is on record ('').
create table okcm.usage_minute (
    tenant_id text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    minute    timestamptz not null check (extract(epoch from minute) % 60 = 0),
    service   text not null check (service ~ '^([a-z0-9][a-z0-9-]{0,39})?$'),
    operation text not null check (operation ~ '^[a-z][a-z-]{0,39}$'),
    count     bigint not null check (count >= 0),
    refused   bigint not null check (refused between 0 and count),
    bytes     bigint not null check (bytes >= 0),
    primary key (tenant_id, minute, service, operation),
    foreign key (tenant_id) references okcm.tenant
) with (fillfactor = 70);

-- What has been counted, so that a batch delivered again after a crash is not counted again.
create table okcm.usage_batch (
    tenant_id text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    batch_id  text not null check (length(batch_id) between 1 and 300),
    added_at  timestamptz not null default clock_timestamp(),
    primary key (tenant_id, batch_id),
    foreign key (tenant_id) references okcm.tenant
);
create index usage_batch_age on okcm.usage_batch (tenant_id, added_at);

-- The two policies of 0003 on every new table, and those of the new role.
do $$
declare
    tenant_table text;
    mine constant text := '(tenant_id = (select current_setting(''app.tenant_id'', true)))';
begin
    foreach tenant_table in array array['service', 'service_request', 'service_certificate', 'service_key',
                                        'managed_object', 'usage_minute', 'usage_batch'] loop
        execute format('alter table okcm.%I enable row level security', tenant_table);
        execute format('alter table okcm.%I force row level security', tenant_table);
        execute format('create policy signed on okcm.%I as restrictive for all to public '
                       'using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()))', tenant_table);
        execute format('create policy own_rows on okcm.%I to okcm_worker using %s with check %s',
                       tenant_table, mine, mine);
    end loop;
    foreach tenant_table in array array['service', 'service_certificate', 'service_key', 'managed_object',
                                        'usage_minute', 'usage_batch'] loop
        execute format('create policy own_rows_operator on okcm.%I for select to okcm_operator using %s',
                       tenant_table, mine);
    end loop;
    -- The one thing the operator writes; everything that follows from it goes through Temporal.
    execute format('create policy own_rows_operator on okcm.service_request to okcm_operator using %s with check %s',
                   mine, mine);
    foreach tenant_table in array array['tenant', 'route', 'certificate_authority', 'service_certificate',
                                        'service_key'] loop
        execute format('create policy own_rows_crypto on okcm.%I for select to okcm_crypto using %s',
                       tenant_table, mine);
    end loop;
    foreach tenant_table in array array['service', 'managed_object', 'usage_minute', 'usage_batch'] loop
        execute format('create policy own_rows_crypto on okcm.%I to okcm_crypto using %s with check %s',
                       tenant_table, mine, mine);
    end loop;
end
$$;

grant usage on schema okcm to okcm_crypto;
grant execute on function okcm.ctx_ok() to okcm_crypto;

-- The crypto service faces the customers' networks. It reads who calls and which key opens, and changes none of it.
grant select on okcm.tenant, okcm.route, okcm.certificate_authority, okcm.service, okcm.service_certificate,
    okcm.service_key to okcm_crypto;
grant update (last_seen_at) on okcm.service to okcm_crypto;
-- An object keeps its place for life: tenant, L2, id, service and type are never updated. It can be re-sealed.
grant select, delete,
    insert (tenant_id, l2_key, object_id, service, object_type, state, names, attributes, key_version, material, revision),
    update (state, names, attributes, key_version, material, revision) on okcm.managed_object to okcm_crypto;
grant select, insert (tenant_id, minute, service, operation, count, refused, bytes), update (count, refused, bytes)
    on okcm.usage_minute to okcm_crypto;
grant select, insert (tenant_id, batch_id), delete on okcm.usage_batch to okcm_crypto;

-- The worker connects services. It revokes certificates and never un-makes a key.
grant select, insert (tenant_id, service, kind), update (state, connected_at, disconnected_at)
    on okcm.service to okcm_worker;
grant select on okcm.service_request to okcm_worker;
grant select,
    insert (tenant_id, serial, service, generation, request_id, certificate_pem, not_before, not_after),
    update (revoked_at) on okcm.service_certificate to okcm_worker;
grant select, insert (tenant_id, service, version, l2_key, root_key_mode, root_key, wrapped)
    on okcm.service_key to okcm_worker;
-- Whose rows these are and nothing in them: enough for the boundary gate to attack the tables (database/attacks.py).
grant select (tenant_id) on okcm.managed_object, okcm.usage_minute, okcm.usage_batch to okcm_worker;

-- The operator looks at everything but what is wrapped or sealed, and asks for connections.
grant select on okcm.service, okcm.service_certificate, okcm.usage_minute, okcm.usage_batch to okcm_operator;
grant select, insert (tenant_id, request_id, service, kind, csr_pem) on okcm.service_request to okcm_operator;
grant select (tenant_id, service, version, l2_key, root_key_mode, root_key, created_at)
    on okcm.service_key to okcm_operator;
grant select (tenant_id, l2_key, object_id, service, object_type, state, names, key_version, revision, created_at)
    on okcm.managed_object to okcm_operator;

-- Word of a change, for caches that must not outlive it. LISTEN has no access control, so the payload is a hash: it
-- tells those who know a tenant that they should look again, and nobody who the tenants are. Delivered at commit, once
-- per transaction and tenant. The trigger's argument gives a change of objects a mark of its own (no tenant id has a
-- slash): who merely revokes a key must not make every process open the tenant's L3 again.
create function okcm.announce_change() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    tenant text := case tg_op when 'DELETE' then old.tenant_id else new.tenant_id end;
begin
    perform pg_notify('okcm_changed', encode(sha256(convert_to(tenant || coalesce(tg_argv[0], ''), 'UTF8')), 'hex'));
    return null;
end
$$;
revoke execute on function okcm.announce_change() from public;

do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['route', 'certificate_authority', 'service_certificate', 'service_key'] loop
        execute format('create trigger announce_change after insert or update or delete on okcm.%I '
                       'for each row execute function okcm.announce_change()', tenant_table);
    end loop;
    -- A state opens and closes; that a service was seen, or a promise broken, changes nothing for anybody.
    foreach tenant_table in array array['tenant', 'service'] loop
        execute format('create trigger announce_change after update of state on okcm.%I '
                       'for each row when (old.state is distinct from new.state) '
                       'execute function okcm.announce_change()', tenant_table);
    end loop;
end
$$;
-- Not at insert: of an object that was not there nobody remembers anything.
create trigger announce_change after update or delete on okcm.managed_object
    for each row execute function okcm.announce_change('/objects');

-- Appends events of one tenant in order, under one lock of the stream's head, and returns the last one's sequence number;
-- an event id that is on record adds nothing. The only place where a record is made: audit_append (0004) goes through it.
-- Set by set and not event by event, because each statement asks for the context's signature again.
create function okcm.audit_append_all(events jsonb) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    tenant  text := current_setting('app.tenant_id', true);
    head    record;
    event   jsonb;
    entry   text;
    link    bytea;
    ids     text[];
    numbers bigint[];
    known   text[];
    records text[] := '{}';
    links   bytea[] := '{}';
begin
    -- Row security would refuse each statement below too; this says so before anything is looked at.
    if not okcm.ctx_ok() or tenant = '*' then
        raise insufficient_privilege using message = 'the context is not signed for a tenant';
    end if;
    if jsonb_typeof(events) is distinct from 'array' or exists (
        select from jsonb_array_elements(events) as e (event)
        where jsonb_typeof(e.event) is distinct from 'object' or e.event ->> 'event_id' is null
    ) then
        raise check_violation using message = 'an audit event is an object with an event_id';
    end if;
    select seq, chain_hash into head from okcm.audit_head where tenant_id = tenant for update;
    if not found then
        insert into okcm.audit_head (tenant_id, seq, chain_hash)
            values (tenant, 0, decode(repeat('00', 32), 'hex')) on conflict do nothing;
        select seq, chain_hash into strict head from okcm.audit_head where tenant_id = tenant for update;
    end if;
    link := head.chain_hash;
    select coalesce(array_agg(e.event_id), '{}'), coalesce(array_agg(e.seq), '{}') into known, numbers
        from okcm.audit_event e where e.tenant_id = tenant
        and e.event_id = any (array(select value ->> 'event_id' from jsonb_array_elements(events)));
    ids := known;
    for event in
        select value from (
            select distinct on (value ->> 'event_id') value, ordinality
            from jsonb_array_elements(events) with ordinality order by value ->> 'event_id', ordinality
        ) as fresh
        where value ->> 'event_id' <> all (known) order by ordinality
    loop
        entry := (event || jsonb_build_object(
            'tenant_id', tenant,
            'seq', head.seq + cardinality(records) + 1,
            'time', to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')))::text;
        link := sha256(link || convert_to(entry, 'UTF8'));
        records := records || entry;
        links := links || link;
        ids := ids || (event ->> 'event_id');
        numbers := numbers || (head.seq + cardinality(records));
    end loop;
    if records <> '{}' then
        insert into okcm.audit_event (tenant_id, seq, event_id, record, chain_hash)
            select tenant, made.seq, made.event_id, made.record, made.link
            from unnest(numbers[cardinality(known) + 1:], ids[cardinality(known) + 1:], records, links)
                as made (seq, event_id, record, link);
        update okcm.audit_head set seq = head.seq + cardinality(records), chain_hash = link, moved = true
            where tenant_id = tenant;
    end if;
    return numbers[array_position(ids, events -> -1 ->> 'event_id')];
end
$$;
revoke execute on function okcm.audit_append_all(jsonb) from public;
grant execute on function okcm.audit_append_all(jsonb) to okcm_worker, okcm_marketplace, okcm_crypto;

create or replace function okcm.audit_append(event jsonb) returns bigint language sql
return okcm.audit_append_all(jsonb_build_array(event));
grant execute on function okcm.audit_append(jsonb) to okcm_crypto;
