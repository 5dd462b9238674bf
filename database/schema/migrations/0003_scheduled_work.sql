-- Work that runs on a schedule is listed as a whole, oldest first, and the activity stops at the end of its time: a
-- limit by count that is smaller than the due work starves what comes after it.

-- ===== Audit checkpoints =====

-- The time of the newest signature of this stream.
alter table okcm.audit_head add column signed_at timestamptz;
drop index okcm.audit_head_moved;
create index audit_head_moved on okcm.audit_head (signed_at) where moved;

-- A signature of an older state leaves `moved`: the stream has moved since. It counts as signed now, so that a stream
-- with continuous records does not precede the others in each run.
create or replace function okcm.audit_save_signed_head(
    signed_seq bigint, signed_hash bytea, head_signature text, signing_key text)
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
        raise check_violation using message = 'the checkpoint does not match a recorded event';
    end if;
    insert into okcm.audit_signed_head (tenant_id, seq, chain_hash, signature, key)
        values (tenant, signed_seq, signed_hash, head_signature, signing_key) on conflict do nothing;
    update okcm.audit_head set moved = moved and seq > signed_seq, signed_at = clock_timestamp()
        where tenant_id = tenant and seq >= signed_seq;
end
$$;

-- Return the state of each stream with records after its newest checkpoint; the oldest signature comes first.
drop function okcm.moved_heads(integer);
create function okcm.unsigned_streams(at_most integer)
returns table (tenant_id text, seq bigint, chain_hash bytea)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select h.tenant_id, h.seq, h.chain_hash from okcm.audit_head h
        where h.moved order by h.signed_at nulls first limit at_most;
end
$$;
revoke execute on function okcm.unsigned_streams(integer) from public;
grant execute on function okcm.unsigned_streams(integer) to okcm_worker;
