-- The audit stream: append-only, gap-free and hash-chained, per tenant. See tenancy/audit.py for the verifier.

-- Appends one event and returns its sequence number; an event id that is on record adds nothing and returns its old one.
-- The head row's lock serialises a tenant's appends, so number, time and chain are all decided inside it, and a
-- transaction that rolls back leaves no gap. The stored text is exactly what was hashed.
create function okcm.audit_append(event jsonb) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    tenant text := current_setting('app.tenant_id', true);
    head   record;
    old    bigint;
    entry  text;
    link   bytea;
begin
    -- Row security would refuse each statement below too; this says so before anything is looked at.
    if not okcm.ctx_ok() or tenant = '*' then
        raise insufficient_privilege using message = 'the context is not signed for a tenant';
    end if;
    if jsonb_typeof(event) is distinct from 'object' or event ->> 'event_id' is null then
        raise check_violation using message = 'an audit event is an object with an event_id';
    end if;
    select seq, chain_hash into head from okcm.audit_head where tenant_id = tenant for update;
    if not found then
        insert into okcm.audit_head (tenant_id, seq, chain_hash)
            values (tenant, 0, decode(repeat('00', 32), 'hex')) on conflict do nothing;
        select seq, chain_hash into strict head from okcm.audit_head where tenant_id = tenant for update;
    end if;
    select seq into old from okcm.audit_event where tenant_id = tenant and event_id = event ->> 'event_id';
    if found then
        return old;
    end if;
    entry := (event || jsonb_build_object(
        'tenant_id', tenant,
        'seq', head.seq + 1,
        'time', to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')))::text;
    link := sha256(head.chain_hash || convert_to(entry, 'UTF8'));
    insert into okcm.audit_event (tenant_id, seq, event_id, record, chain_hash)
        values (tenant, head.seq + 1, event ->> 'event_id', entry, link);
    update okcm.audit_head set seq = head.seq + 1, chain_hash = link, moved = true where tenant_id = tenant;
    return head.seq + 1;
end
$$;
revoke execute on function okcm.audit_append(jsonb) from public;
grant execute on function okcm.audit_append(jsonb) to okcm_worker, okcm_marketplace;

-- Stores a signature over the stream's state at `signed_seq`, refusing one that is not about the record that is there.
create function okcm.audit_save_signed_head(signed_seq bigint, signed_hash bytea, head_signature text, signing_key text)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    tenant text := current_setting('app.tenant_id', true);
begin
    if not okcm.ctx_ok() or tenant = '*' then
        raise insufficient_privilege using message = 'the context is not signed for a tenant';
    end if;
    perform from okcm.audit_event where tenant_id = tenant and seq = signed_seq and chain_hash = signed_hash;
    if not found then
        raise check_violation using message = 'the signed head is not on record';
    end if;
    insert into okcm.audit_signed_head (tenant_id, seq, chain_hash, signature, key)
        values (tenant, signed_seq, signed_hash, head_signature, signing_key) on conflict do nothing;
    update okcm.audit_head set moved = false where tenant_id = tenant and seq = signed_seq;
end
$$;
revoke execute on function okcm.audit_save_signed_head(bigint, bytea, text, text) from public;
grant execute on function okcm.audit_save_signed_head(bigint, bytea, text, text) to okcm_worker;

create function okcm.refuse_change() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    raise insufficient_privilege using message = format('%I is append-only', tg_table_name);
end
$$;
revoke execute on function okcm.refuse_change() from public;

-- For everybody, the owner and a superuser included, and ALWAYS, so that session_replication_role does not switch it off.
-- Row triggers are inherited by the partitions. TRUNCATE triggers are not, and fire where the rows are: so they are there.
do $$
declare
    stream text;
begin
    foreach stream in array array['audit_event', 'audit_signed_head'] loop
        execute format('create trigger append_only before update or delete on okcm.%I '
                       'for each row execute function okcm.refuse_change()', stream);
        execute format('alter table okcm.%I enable always trigger append_only', stream);
    end loop;
    for stream in select relname from pg_class where relnamespace = 'okcm'::regnamespace
                  and relname ~ '^audit_(event_[0-9]{2}|signed_head|head)$' and relkind = 'r' loop
        execute format('create trigger no_truncate before truncate on okcm.%I '
                       'for each statement execute function okcm.refuse_change()', stream);
        execute format('alter table okcm.%I enable always trigger no_truncate', stream);
    end loop;
end
$$;
