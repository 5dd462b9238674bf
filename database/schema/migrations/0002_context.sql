-- The signed context: who a transaction works for, in a form that SQL cannot forge.
--
-- A process signs `tenant|expiry` with a key of its own (HMAC-SHA256) and sets it as `app.ctx` beside `app.tenant_id`.
-- Anybody who can run SQL can set both, but only the process can sign. The key is looked up by session_user, which no
-- SET ROLE and no SECURITY DEFINER changes: the key of one process is worth nothing in another's session.

-- The key as the two padded blocks of HMAC (RFC 2104), because SQL has no XOR over bytea. Its owner alone reads it.
create table okcm.context_key (
    role      text primary key,
    inner_pad bytea not null check (length(inner_pad) = 64),
    outer_pad bytea not null check (length(outer_pad) = 64)
);

-- True when the transaction's context is signed for the tenant it names and has not expired; anything else is false,
-- never an error, so that hostile input learns nothing. HMAC is two calls of core sha256: no extension is needed.
-- STABLE and called as (select okcm.ctx_ok()), it runs once per statement and table, not once per row.
create function okcm.ctx_ok() returns boolean
language plpgsql stable parallel restricted security definer set search_path = pg_catalog, pg_temp
as $$
declare
    tenant text := current_setting('app.tenant_id', true);
    parts  text[] := string_to_array(current_setting('app.ctx', true), '|');
    pads   record;
begin
    if tenant is null or tenant = '' or array_length(parts, 1) is distinct from 3 or parts[1] is distinct from tenant
       or parts[2] !~ '^[0-9]{1,12}$' then
        return false;
    end if;
    if parts[2]::bigint <= extract(epoch from statement_timestamp()) then
        return false;
    end if;
    select inner_pad, outer_pad into pads from okcm.context_key where role = session_user::text;
    if not found then
        return false;
    end if;
    return parts[3] = encode(
        sha256(pads.outer_pad || sha256(pads.inner_pad || convert_to(parts[1] || '|' || parts[2], 'UTF8'))), 'hex');
end
$$;
revoke execute on function okcm.ctx_ok() from public;
-- A policy's expressions run with the rights of whoever runs the statement.
grant execute on function okcm.ctx_ok() to okcm_worker, okcm_marketplace, okcm_operator;
