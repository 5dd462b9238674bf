-- Whether the audit records of key operations name the resource. The crypto service reads it with the caller's rights.
alter table okcm.tenant_policy add column resources_recorded boolean not null default false;
grant insert (resources_recorded), update (resources_recorded) on okcm.tenant_policy to okcm_worker;
grant select (resources_recorded) on okcm.tenant_policy to okcm_crypto;
create trigger announce_recording after insert on okcm.tenant_policy for each row
    when (new.resources_recorded and not new.revoked_keys_readable) execute function okcm.announce_change();
create trigger announce_recording_update after update on okcm.tenant_policy for each row
    when (old.resources_recorded <> new.resources_recorded and old.revoked_keys_readable = new.revoked_keys_readable)
    execute function okcm.announce_change();

-- The number of records of each hour, and the first and last of them, by what the Audit page filters exactly: so the
-- page counts without reading records, and a search reads only the part of the stream that has a match. The append
-- maintains it in its transaction. Records from before this migration are in no row. The stream outlives all other rows
-- of a tenant, and so do these rows; they are deleted with the archived records.
create table okcm.audit_hour (
    tenant_id text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    hour      timestamptz not null,
    name      text not null,
    service   text not null,
    operation text not null,
    outcome   text not null,
    records   bigint not null check (records > 0),
    first_seq bigint not null check (first_seq > 0),
    last_seq  bigint not null check (last_seq >= first_seq),
    primary key (tenant_id, hour, name, service, operation, outcome)
) with (fillfactor = 70);
alter table okcm.audit_hour enable row level security, force row level security;
create policy signed on okcm.audit_hour as restrictive for all to public
    using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()));
create policy own_rows_dashboard on okcm.audit_hour for select to okcm_dashboard
    using (tenant_id = (select current_setting('app.tenant_id', true)));
create policy own_rows_owner on okcm.audit_hour for all to okcm_owner
    using (tenant_id = (select current_setting('app.tenant_id', true)))
    with check (tenant_id = (select current_setting('app.tenant_id', true)));
grant select on okcm.audit_hour to okcm_dashboard;

-- Return the service that an audit event is about, or an empty text; `service_of` in core/audit.py is the same rule.
create function okcm.audit_service(event jsonb) returns text language sql immutable
return case
    when event ->> 'actor_kind' = 'service' then coalesce(event ->> 'actor', '')
    when event ->> 'name' ~ '^(service|enrolment|protection|key\.service_key|certificate\.service_certificate)[._]'
        then split_part(coalesce(event ->> 'subject', ''), ' ', 1)
    else '' end;
revoke execute on function okcm.audit_service(jsonb) from public;

-- As before, and the records are counted in okcm.audit_hour.
create or replace function okcm.audit_append_all(events jsonb) returns bigint
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
    moment  timestamptz;
    fresh   jsonb[] := '{}';
    moments timestamptz[] := '{}';
begin
    -- Row security would reject each statement as well; this check raises before anything is read.
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
        moment := clock_timestamp();
        entry := (event || jsonb_build_object(
            'tenant_id', tenant,
            'seq', head.seq + cardinality(records) + 1,
            'time', to_char(moment at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')))::text;
        link := sha256(link || convert_to(entry, 'UTF8'));
        records := records || entry;
        links := links || link;
        ids := ids || (event ->> 'event_id');
        numbers := numbers || (head.seq + cardinality(records));
        fresh := fresh || event;
        moments := moments || moment;
    end loop;
    if records <> '{}' then
        insert into okcm.audit_event (tenant_id, seq, event_id, record, chain_hash)
            select tenant, made.seq, made.event_id, made.record, made.link
            from unnest(numbers[cardinality(known) + 1:], ids[cardinality(known) + 1:], records, links)
                as made (seq, event_id, record, link);
        -- The lock of the head orders the appends of a tenant, so no two of them update a row in another order.
        insert into okcm.audit_hour as kept
            (tenant_id, hour, name, service, operation, outcome, records, first_seq, last_seq)
            select tenant, date_trunc('hour', made.moment, 'UTC'), left(coalesce(made.event ->> 'name', ''), 100),
                   left(okcm.audit_service(made.event), 100),
                   left(coalesce(made.event -> 'details' ->> 'operation', ''), 100),
                   left(coalesce(made.event ->> 'outcome', ''), 100), count(*), min(made.seq), max(made.seq)
            from unnest(numbers[cardinality(known) + 1:], fresh, moments) as made (seq, event, moment)
            group by 2, 3, 4, 5, 6
            on conflict (tenant_id, hour, name, service, operation, outcome) do update
                set records = kept.records + excluded.records, last_seq = excluded.last_seq;
        update okcm.audit_head set seq = head.seq + cardinality(records), chain_hash = link, moved = true
            where tenant_id = tenant;
    end if;
    return numbers[array_position(ids, events -> -1 ->> 'event_id')];
end
$$;

-- As before, and the counts of the deleted records follow them.
create or replace function okcm.delete_archived_events(at_most integer) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    tenant   text := current_setting('app.tenant_id', true);
    archived bigint;
    upto     bigint;
    deleted  bigint;
begin
    if not okcm.ctx_ok() or tenant = '*' then
        raise insufficient_privilege using message = 'the context is not signed for a tenant';
    end if;
    select coalesce(max(a.seq), 0) into archived from okcm.audit_archive a where a.tenant_id = tenant;
    select least(archived, min(e.seq) + at_most - 1) into upto from okcm.audit_event e where e.tenant_id = tenant;
    delete from okcm.audit_event where tenant_id = tenant and seq <= upto;
    get diagnostics deleted = row_count;
    if upto >= archived then
        delete from okcm.audit_signed_head where tenant_id = tenant and seq < archived;
        delete from okcm.audit_hour where tenant_id = tenant and last_seq <= archived;
    end if;
    return deleted;
end
$$;
