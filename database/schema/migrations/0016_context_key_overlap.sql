-- A role may have two context keys while processes change from one to the other.

alter table okcm.context_key drop constraint context_key_pkey, add primary key (role, inner_pad);

create or replace function okcm.ctx_ok() returns boolean
language plpgsql stable parallel restricted security definer set search_path = pg_catalog, pg_temp
as $$
declare
    tenant text := current_setting('app.tenant_id', true);
begin
    if tenant is null or tenant = '' then
        return false;
    end if;
    return exists (
        select from okcm.context_key
        where role = session_user::text
            and current_setting('app.ctx', true) = encode(sha256(outer_pad || sha256(inner_pad || convert_to(
                concat_ws('|', tenant, pg_backend_pid(), extract(epoch from transaction_timestamp())), 'UTF8'))), 'hex')
    );
end
$$;
