-- The few questions that span tenants. Each runs as the owner under the policy platform_questions, which opens only for
-- a context that the calling process signed for '*'; each returns the least that answers it, to the one role that asks.

-- Without it a wrong context would look like an empty answer: no event waiting, or a known serial called unknown, and
-- another tenant's authority adopted.
create function okcm.require_platform_context() returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if not okcm.ctx_ok() or current_setting('app.tenant_id', true) <> '*' then
        raise insufficient_privilege using message = 'the context is not signed for the platform';
    end if;
end
$$;
revoke execute on function okcm.require_platform_context() from public;

create function okcm.unstarted_events(at_most integer) returns table (tenant_id text, event_id text, region text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select e.tenant_id, e.event_id, e.region from okcm.marketplace_event e
        where e.started_at is null order by e.accepted_at limit at_most;
end
$$;
revoke execute on function okcm.unstarted_events(integer) from public;
grant execute on function okcm.unstarted_events(integer) to okcm_marketplace;

create function okcm.unknown_serials(serials text[]) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select s from unnest(serials) as s
        where not exists (select from okcm.certificate_authority c where c.serial = s);
end
$$;
revoke execute on function okcm.unknown_serials(text[]) from public;
grant execute on function okcm.unknown_serials(text[]) to okcm_worker;

create function okcm.moved_heads(at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select h.tenant_id from okcm.audit_head h where h.moved order by h.tenant_id limit at_most;
end
$$;
revoke execute on function okcm.moved_heads(integer) from public;
grant execute on function okcm.moved_heads(integer) to okcm_worker;

-- A minute, because a message younger than that is still in the hands of the workflow that stored it.
create function okcm.waiting_outboxes(at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select distinct o.tenant_id from okcm.outbox o
        where o.sent_at is null and o.added_at < now() - interval '1 minute' limit at_most;
end
$$;
revoke execute on function okcm.waiting_outboxes(integer) from public;
grant execute on function okcm.waiting_outboxes(integer) to okcm_worker;
