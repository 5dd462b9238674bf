-- Return the tenants of which the key server must have a lock (vault/tenant_locks.py).
create function okcm.denied_tenants()
returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select t.tenant_id from okcm.tenant t where t.state in ('locked', 'offboarding', 'offboarded')
        order by t.tenant_id;
end
$$;
revoke execute on function okcm.denied_tenants() from public;
grant execute on function okcm.denied_tenants() to okcm_worker;

-- Return what the key server and Temporal must agree with, in order of tenant id from the first behind `after`, or of
-- one tenant. The tenant key encrypts keys under its versions from `oldest_wrap` to `newest_wrap`. The newest checkpoint
-- of the audit stream is null before the first one.
create function okcm.store_states(wanted text, after text, at_most integer)
returns table (tenant_id text, state text, busy boolean, destroying boolean,
               l2_version integer, oldest_wrap integer, newest_wrap integer, ca_version integer, payload boolean, seq bigint,
               signed_seq bigint, signed_hash bytea, signature text, signing_key text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select t.tenant_id, t.state,
               exists (select from okcm.rotation r where r.tenant_id = t.tenant_id and r.state = 'running'),
               t.destroying_at is not null,
               (select k.version from okcm.key k where k.tenant_id = t.tenant_id and k.kind = 'L2'),
               w.oldest, w.newest,
               (select max(a.key_version) from okcm.certificate_authority a
                where a.tenant_id = t.tenant_id),
               exists (select from okcm.key k where k.tenant_id = t.tenant_id and k.kind = 'payload'),
               coalesce((select h.seq from okcm.audit_head h where h.tenant_id = t.tenant_id), 0),
               c.seq, c.chain_hash, c.signature, c.key
        from (select * from okcm.tenant o where o.tenant_id > after and (wanted is null or o.tenant_id = wanted)
              order by o.tenant_id limit at_most) t
        cross join lateral (
            select min(u.l2_version) as oldest, max(u.l2_version) as newest from (
                select s.l2_version from okcm.service_key s where s.tenant_id = t.tenant_id and s.state <> 'destroyed'
                union all
                select r.l2_version from okcm.root_key r where r.tenant_id = t.tenant_id and r.credentials is not null
            ) u) w
        left join lateral (select * from okcm.audit_signed_head s where s.tenant_id = t.tenant_id
                           order by s.seq desc limit 1) c on true
        order by t.tenant_id;
end
$$;
revoke execute on function okcm.store_states(text, text, integer) from public;
grant execute on function okcm.store_states(text, text, integer) to okcm_operator, okcm_worker;
