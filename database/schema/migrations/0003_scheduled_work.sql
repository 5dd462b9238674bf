-- Work that runs on a schedule: audit checkpoints and CRLs in the order of their age, notifications in the order of
-- their next attempt. Each kind is listed as a whole, and the activity stops at the end of its time: a limit by count
-- that is smaller than the due work starves what comes after it.

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


-- ===== Notifications =====

-- The unsent messages of a tenant on a channel are a queue: only the oldest is attempted, and the next one follows
-- when it is sent or expired. `next_try` is the time from which it may be attempted; an attempt first moves it
-- forward, so that no second process attempts the same message. `problem` is the result of the last failed attempt;
-- it contains no address and no response. An expired message is a dead letter: it is kept and no longer attempted.
alter table okcm.outbox
    add column attempts   integer not null default 0 check (attempts >= 0),
    add column next_try   timestamptz not null default now(),
    add column problem    text check (length(problem) <= 200),
    add column expired_at timestamptz check (expired_at is null or sent_at is null);
grant update (attempts, next_try, problem, expired_at) on okcm.outbox to okcm_worker;
drop index okcm.outbox_unsent;
create index outbox_unsent on okcm.outbox (channel, tenant_id, added_at, message_id)
    where sent_at is null and expired_at is null;
-- An operator only makes a dead letter due again: a message that is still attempted cannot be suppressed.
grant update (next_try, expired_at) on okcm.outbox to okcm_operator;
create policy own_rows_operator_retry on okcm.outbox for update to okcm_operator
    using (tenant_id = (select current_setting('app.tenant_id', true)))
    with check (tenant_id = (select current_setting('app.tenant_id', true)));
create policy only_dead_letters on okcm.outbox as restrictive for update to okcm_operator
    using (expired_at is not null) with check (expired_at is null);
-- For undelivered_notifications: a healthy outbox has no such row.
create index outbox_undelivered on okcm.outbox (added_at) where sent_at is null and problem is not null;

-- Return tenants whose oldest unsent message on a channel is due, the longest waiting first. The operation that stored
-- a message younger than ten seconds sends it.
drop function okcm.waiting_outboxes(integer);
create function okcm.due_notifications(of_channel text, at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select oldest.tenant_id from (
            select distinct on (o.tenant_id) o.tenant_id, o.next_try, o.added_at from okcm.outbox o
            where o.channel = of_channel and o.sent_at is null and o.expired_at is null
            order by o.tenant_id, o.added_at, o.message_id) as oldest
        where oldest.next_try <= statement_timestamp()
        and oldest.added_at <= statement_timestamp() - interval '10 seconds'
        order by oldest.next_try limit at_most;
end
$$;
revoke execute on function okcm.due_notifications(text, integer) from public;
grant execute on function okcm.due_notifications(text, integer) to okcm_worker;

-- Return messages that a receiver did not accept, for operators: messages that expired within `since`, the newest
-- first, then those that are still attempted, the oldest first.
create function okcm.undelivered_notifications(since interval, at_most integer)
returns table (tenant_id text, message_id text, channel text, kind text, added_at timestamptz, attempts integer,
               next_try timestamptz, problem text, expired_at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select o.tenant_id, o.message_id, o.channel, o.kind, o.added_at, o.attempts, o.next_try, o.problem,
               o.expired_at
        from okcm.outbox o
        where o.sent_at is null and o.problem is not null
        and (o.expired_at is null or o.expired_at > statement_timestamp() - since)
        order by o.expired_at desc nulls last, o.added_at, o.tenant_id, o.message_id limit at_most;
end
$$;
revoke execute on function okcm.undelivered_notifications(interval, integer) from public;
grant execute on function okcm.undelivered_notifications(interval, integer) to okcm_operator, okcm_dashboard;
