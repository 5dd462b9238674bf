-- As before, for less time per event: `seq`, `time` and `tenant_id` are written before the fields of the event instead of
-- merged into them, and all events of a statement have one time, that at which the stream's head was locked. An event
-- with one of these fields is rejected: a text with a field twice would have two meanings. Its statements are planned
-- once in a session: PostgreSQL would plan those for the partitions again in each call, for as long as they take.
create or replace function okcm.audit_append_all(events jsonb) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
declare
    tenant  text := current_setting('app.tenant_id', true);
    newest  text := events -> -1 ->> 'event_id';
    head    record;
    moment  timestamptz;
    stamp   text;
    known   text[];
    fresh   jsonb[];
    ids     text[];
    records text[];
    entry   text;
    link    bytea;
    links   bytea[] := '{}';
begin
    -- Row security would reject each statement as well; this check raises before anything is read.
    if not okcm.ctx_ok() or tenant = '*' then
        raise insufficient_privilege using message = 'the context is not signed for a tenant';
    end if;
    if jsonb_typeof(events) is distinct from 'array' or exists (
        select from jsonb_array_elements(events) as e (event)
        where jsonb_typeof(e.event) is distinct from 'object' or e.event ->> 'event_id' is null
            or e.event ?| array['seq', 'time', 'tenant_id']
    ) then
        raise check_violation using
            message = 'an audit event is an object with an event_id and without seq, time and tenant_id';
    end if;
    select seq, chain_hash into head from okcm.audit_head where tenant_id = tenant for update;
    if not found then
        insert into okcm.audit_head (tenant_id, seq, chain_hash)
            values (tenant, 0, decode(repeat('00', 32), 'hex')) on conflict do nothing;
        select seq, chain_hash into strict head from okcm.audit_head where tenant_id = tenant for update;
    end if;
    known := array(select e.event_id from okcm.audit_event e where e.tenant_id = tenant
        and e.event_id = any (array(select value ->> 'event_id' from jsonb_array_elements(events))));
    moment := clock_timestamp();
    stamp := format(', "time": "%s", "tenant_id": %s, ',
                    to_char(moment at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), to_json(tenant));
    select array_agg(made.event order by made.number), array_agg(made.event_id order by made.number),
           array_agg('{"seq": ' || head.seq + made.number || stamp || substr(made.event::text, 2) order by made.number)
        into fresh, ids, records
        from (
            select one.event, one.event_id, row_number() over (order by one.position) as number
            from (
                select distinct on (value ->> 'event_id') value, value ->> 'event_id', ordinality
                from jsonb_array_elements(events) with ordinality order by value ->> 'event_id', ordinality
            ) as one (event, event_id, position)
            where one.event_id <> all (known)
        ) as made;
    if records is not null then
        link := head.chain_hash;
        foreach entry in array records loop
            link := sha256(link || convert_to(entry, 'UTF8'));
            links := links || link;
        end loop;
        insert into okcm.audit_event (tenant_id, seq, event_id, record, chain_hash)
            select tenant, head.seq + made.number, made.event_id, made.record, made.link
            from unnest(ids, records, links) with ordinality as made (event_id, record, link, number);
        -- The lock of the head orders the appends of a tenant, so no two of them update a row in another order.
        insert into okcm.audit_hour as kept
            (tenant_id, hour, name, service, operation, outcome, records, first_seq, last_seq)
            select tenant, date_trunc('hour', moment, 'UTC'), left(coalesce(made.event ->> 'name', ''), 100),
                   left(okcm.audit_service(made.event), 100),
                   left(coalesce(made.event -> 'details' ->> 'operation', ''), 100),
                   left(coalesce(made.event ->> 'outcome', ''), 100),
                   count(*), head.seq + min(made.number), head.seq + max(made.number)
            from unnest(fresh) with ordinality as made (event, number)
            group by 3, 4, 5, 6
            on conflict (tenant_id, hour, name, service, operation, outcome) do update
                set records = kept.records + excluded.records, last_seq = excluded.last_seq;
        update okcm.audit_head set seq = head.seq + cardinality(records), chain_hash = link, moved = true
            where tenant_id = tenant;
    end if;
    return coalesce(head.seq + array_position(ids, newest),
                    (select e.seq from okcm.audit_event e where e.tenant_id = tenant and e.event_id = newest));
end
$$;
