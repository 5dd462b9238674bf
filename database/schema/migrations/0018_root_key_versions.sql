-- Versions of root keys (L1): whoever holds one makes a new version of it there, under which everything lies that is wrapped
-- from then on. What lies under an older one is wrapped anew by a rotation, so that its holder can end that version.

-- Derived, never written: the version that a Transit key names in front of what it encrypts (keystores/probing.py). AWS KMS
-- and keys in tokens number none. Being derived it is true of every wrap that is there already, and of one that is forgotten.
alter table okcm.service_key add column root_key_version integer generated always as (
    case when root_key_mode in ('platform', 'openbao')
         then substring(encode(substring(wrapped from 1 for 17), 'escape') from '^vault:v([0-9]{1,9}):')::integer end
) stored;
alter table okcm.root_key add column probe_version integer generated always as (
    case when mode = 'openbao'
         then substring(encode(substring(probe from 1 for 17), 'escape') from '^vault:v([0-9]{1,9}):')::integer end
) stored;

-- The newest version of the root key in force when it was last found that something lies under an older one.
alter table okcm.tenant add column root_key_newest integer check (root_key_newest > 0);
-- The version that a rotation wraps everything under, at the least; null: it has none to follow.
alter table okcm.rotation add column root_key_version integer check (root_key_version > 0);

grant update (root_key_newest) on okcm.tenant to okcm_worker;
grant insert (root_key_version) on okcm.rotation to okcm_worker;
-- Which version a wrap lies under, and nothing of the wrap.
grant select (root_key_version) on okcm.service_key to okcm_operator, okcm_dashboard;
grant select (probe_version) on okcm.root_key to okcm_operator, okcm_dashboard;

-- What the hourly look asks: under which version the oldest wrap of each tenant lies whose root key numbers its versions, so
-- that the key can be asked for its newest. A key that is not well is left alone: the watch sees to it. Those whose last
-- rotation is longest ago come first, so that none that fails keeps out another.
create function okcm.numbered_root_keys()
returns table (tenant_id text, region text, root_key_id text, oldest integer, noticed integer)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select t.tenant_id, t.region, r.root_key_id, least(r.probe_version, k.oldest), t.root_key_newest
        from okcm.tenant t
        left join okcm.root_key r on r.tenant_id = t.tenant_id and r.state = 'current'
        left join lateral (select min(s.root_key_version) as oldest from okcm.service_key s
                           where s.tenant_id = t.tenant_id) k on true
        where t.state in ('active', 'suspended') and (r.root_key_id is null or r.health = 'ok')
        and least(r.probe_version, k.oldest) is not null
        order by (select max(n.started_at) from okcm.rotation n where n.tenant_id = t.tenant_id) nulls first,
                 t.tenant_id;
end
$$;
revoke execute on function okcm.numbered_root_keys() from public;
grant execute on function okcm.numbered_root_keys() to okcm_worker;
