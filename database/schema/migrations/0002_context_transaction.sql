-- A context is valid in one transaction of one session. Before, it was valid in every session of its role for 300 s, and
-- hostile SQL could read it in pg_stat_activity. Processes of the former version get no rows: stop them first.
--
-- Each transaction names its tenant in `app.tenant_id` and proves the name in `app.ctx`: HMAC-SHA256, hex, over
-- `tenant|pid of the backend|start of the transaction`. SQL can set both settings. It can neither sign nor change the
-- pid and the start. They identify the transaction: the start has microseconds, and each message of the client, with a
-- round trip before it, begins at most one transaction. Savepoints do not change them.

-- Return whether the context is signed for the current transaction and the tenant that it names. Invalid input returns
-- false, never an error, so that an attacker learns nothing. HMAC is two calls of core sha256, so no extension is needed.
-- STABLE and called as (select okcm.ctx_ok()), it runs once per statement and table instead of once per row. PARALLEL
-- RESTRICTED, because a parallel worker has a different pid. Policies run with the rights of the current role, so every
-- process may execute it. The key is found by session_user, which neither SET ROLE nor SECURITY DEFINER changes. The
-- start is a number, because the text of a timestamp depends on settings of the session.
create or replace function okcm.ctx_ok() returns boolean
language plpgsql stable parallel restricted security definer set search_path = pg_catalog, pg_temp
as $$
declare
    tenant text := current_setting('app.tenant_id', true);
    pads   record;
begin
    select inner_pad, outer_pad into pads from okcm.context_key where role = session_user::text;
    if tenant is null or tenant = '' or not found then
        return false;
    end if;
    return current_setting('app.ctx', true) is not distinct from encode(sha256(pads.outer_pad || sha256(pads.inner_pad
        || convert_to(concat_ws('|', tenant, pg_backend_pid(), extract(epoch from transaction_timestamp())), 'UTF8'))),
        'hex');
end
$$;
