-- Return the locks that the key server must have, to compare its records with them. Of denied_tenants
-- nothing is used any more; processes of the former version call it.
create function okcm.denied_locks()
returns table (tenant_id text, state text, locks text[])
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select t.tenant_id, t.state, t.locks from okcm.tenant t
        where t.state in ('locked', 'offboarding', 'offboarded') order by t.tenant_id;
end
$$;
revoke execute on function okcm.denied_locks() from public;
grant execute on function okcm.denied_locks() to okcm_worker;
