-- The rows from which workflows are started again after the loss of their histories.

-- Each tenant workflow that starts with the state of its row takes the next block of operation numbers, because a
-- number that an earlier workflow used would repeat the ids of its audit events and notifications. Existing tenants
-- have a workflow that took none.
alter table okcm.tenant add column workflow_starts integer not null default 1 check (workflow_starts >= 0);
alter table okcm.tenant alter column workflow_starts set default 0;
grant update (workflow_starts) on okcm.tenant to okcm_worker;

-- Return the tenants that are not offboarded, in order of id from the first behind `after`. `destroying` excludes a
-- tenant workflow: only the offboarding continues.
create function okcm.workflow_tenants(after text, at_most integer)
returns table (tenant_id text, region text, leaving_since timestamptz, leaves_at timestamptz, destroying boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select t.tenant_id, t.region, t.leaving_since, t.leaves_at, t.destroying_at is not null
        from okcm.tenant t where t.tenant_id > after and t.state <> 'offboarded'
        order by t.tenant_id limit at_most;
end
$$;
revoke execute on function okcm.workflow_tenants(text, integer) from public;
grant execute on function okcm.workflow_tenants(text, integer) to okcm_worker;

-- Return the connected services whose certificates are renewed, each with its newest certificate that is not revoked,
-- in order from the first behind (`after_tenant`, `after_service`).
create function okcm.workflow_services(after_tenant text, after_service text, at_most integer)
returns table (tenant_id text, region text, service text, generation integer, not_before timestamptz,
               not_after timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select s.tenant_id, t.region, s.service, c.generation, c.not_before, c.not_after
        from okcm.service s join okcm.tenant t on t.tenant_id = s.tenant_id cross join lateral (
            select n.generation, n.not_before, n.not_after from okcm.service_certificate n
            where n.tenant_id = s.tenant_id and n.service = s.service and n.revoked_at is null
            order by n.generation desc limit 1) c
        where (s.tenant_id, s.service) > (after_tenant, after_service) and s.state = 'connected'
        and t.destroying_at is null
        order by s.tenant_id, s.service limit at_most;
end
$$;
revoke execute on function okcm.workflow_services(text, text, integer) from public;
grant execute on function okcm.workflow_services(text, text, integer) to okcm_worker;
