-- What the crypto service seals anew by itself. A managed object lies under one version of its service's key; when that is
-- no longer the active one, the object is sealed under the one that is, so that the older one can end.

-- When nothing was found sealed under a version any more, and from when on nothing may be. It also is what keeps the
-- question below cheap: of all versions that ever were, those that are not emptied yet are asked for, and no object is.
alter table okcm.service_key
    add column emptied_at timestamptz,
    -- last_opened_at moves every minute: it stays in its page.
    set (fillfactor = 70);
create index service_key_unemptied on okcm.service_key (tenant_id, service, version)
    where state in ('deactivated', 'compromised') and emptied_at is null;
-- How the objects under one version are walked through. Of destroyed ones nothing is sealed.
create index managed_object_sealed on okcm.managed_object (tenant_id, service, key_version, object_id)
    where material is not null;

grant update (emptied_at) on okcm.service_key to okcm_crypto;
grant select (emptied_at) on okcm.service_key to okcm_operator, okcm_dashboard;

-- Whoever sealed something under a version that was active then and stores it only now would lose it with that version.
-- The share lock is what makes it sure: who notes that a version is empty, or destroys it, waits for those that store.
create function okcm.refuse_ended_version() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    lies_under record;
begin
    select k.state, k.emptied_at into lies_under from okcm.service_key k
        where k.tenant_id = new.tenant_id and k.service = new.service and k.version = new.key_version for share;
    if lies_under.state = 'destroyed' or (lies_under.state <> 'active' and lies_under.emptied_at is not null) then
        raise check_violation using message = 'nothing is sealed under this version of the service key any more';
    end if;
    return new;
end
$$;
revoke execute on function okcm.refuse_ended_version() from public;
create trigger refuse_ended_version before insert on okcm.managed_object
    for each row execute function okcm.refuse_ended_version();
create trigger refuse_ended_version_again before update on okcm.managed_object
    for each row when (old.key_version is distinct from new.key_version)
    execute function okcm.refuse_ended_version();

-- An object sealed anew is what it was, and what a process remembers of it opens for as long as the older version does;
-- when that ends, the tenant's own mark is announced. So a million objects sealed anew empty nobody's cache.
drop trigger announce_change on okcm.managed_object;
create trigger announce_change after delete on okcm.managed_object
    for each row execute function okcm.announce_change('/objects');
create trigger announce_update after update on okcm.managed_object for each row
    when (old.key_version = new.key_version or old.state <> new.state or old.names <> new.names
          or old.attributes <> new.attributes or old.material is null or new.material is null)
    execute function okcm.announce_change('/objects');

-- Services with a version under which objects may lie and new ones do not, of tenants whose state decrypts. Names alone:
-- everything that follows is read, opened and changed tenant by tenant.
create function okcm.stale_services(after_tenant text, after_service text, at_most integer)
returns table (tenant_id text, service text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select distinct k.tenant_id, k.service from okcm.service_key k join okcm.tenant t on t.tenant_id = k.tenant_id
        where k.state in ('deactivated', 'compromised') and k.emptied_at is null
        and (k.tenant_id, k.service) > (after_tenant, after_service) and t.state in ('active', 'suspended')
        order by k.tenant_id, k.service limit at_most;
end
$$;
revoke execute on function okcm.stale_services(text, text, integer) from public;
grant execute on function okcm.stale_services(text, text, integer) to okcm_crypto;
