-- Uniqueness of tenant keys shown (MTCI U2): a fingerprint of every version of every L2, of which there can be no two alike,
-- and what each tenant leaves for the keys of the others to be tried on (docs/isolation.md says what each of them shows).

-- The one key in this schema that spans tenants, and on purpose: whoever meets a duplicate here has found a shared key. So
-- that it tells nothing else, no process has any right on the table (the gate sees to it: database/gate.py); one function
-- writes to it and answers in one word, to which a guess of 256 bits would be needed to learn anything of another tenant.
-- A fingerprint is an HMAC under a key of Transit's over an HMAC under the tenant key's own: of no use to a reader. It stays
-- when its tenant has gone, so that a key that comes back from a backup under another's name is found.
create table okcm.key_fingerprint (
    tenant_id   text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    name        text not null check (length(name) between 1 and 100),
    version     integer not null check (version > 0),
    fingerprint text not null check (fingerprint ~ '^[0-9a-f]{64}$'),
    recorded_at timestamptz not null default clock_timestamp(),
    primary key (tenant_id, name, version),
    constraint key_fingerprint_of_one_key_alone unique (fingerprint),
    foreign key (tenant_id) references okcm.tenant
);

-- One ciphertext a tenant, under its own L2 and in the context that all share: no secret, and no other key may open it.
-- `tried`: whose probe was the last that this tenant's own key was tried on, so that in the end all pairs are.
create table okcm.key_probe (
    tenant_id  text primary key check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    l2_key     text not null,
    version    integer not null check (version > 0),
    ciphertext text not null check (length(ciphertext) between 10 and 500),
    tried      text not null check (tried ~ '^([a-z0-9][a-z0-9-]{2,39})?$'),
    left_at    timestamptz not null default clock_timestamp(),
    foreign key (tenant_id, l2_key) references okcm.key (tenant_id, name)
) with (fillfactor = 70);

do $$
declare
    body text;
    mine constant text := '(tenant_id = (select current_setting(''app.tenant_id'', true)))';
    for_all constant text := '(select current_setting(''app.tenant_id'', true)) = ''*''';
    tenant_table text;
begin
    foreach tenant_table in array array['key_fingerprint', 'key_probe'] loop
        execute format('alter table okcm.%I enable row level security', tenant_table);
        execute format('alter table okcm.%I force row level security', tenant_table);
        execute format('create policy signed on okcm.%I as restrictive for all to public '
                       'using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()))', tenant_table);
    end loop;
    -- The function below works inside one tenant, too.
    execute format('create policy own_rows_owner on okcm.key_fingerprint to okcm_owner using %s with check %s', mine, mine);
    execute format('create policy own_rows on okcm.key_probe to okcm_worker using %s with check %s', mine, mine);
    execute format('create policy platform_questions on okcm.key_probe for select to okcm_owner using (%s)', for_all);
    -- As 0016 has it for every table that is erased.
    execute format('create policy while_destroying on okcm.key_probe as restrictive for all to okcm_owner using (%s or %s)',
                   for_all, '(select okcm.is_destroying())');
    execute format('create policy erase on okcm.key_probe to okcm_owner using %s with check %s', mine, mine);
    -- It goes with a tenant, before the key that it refers to; whatever the others are by now.
    select pg_get_functiondef('okcm.erase_tenant(integer)'::regprocedure) into strict body;
    if position('''managed_object'', ' in body) = 0 then
        raise exception 'okcm.erase_tenant is not as this migration knows it';
    end if;
    execute replace(body, '''managed_object'', ', '''key_probe'', ''managed_object'', ');
end
$$;

grant select, insert (tenant_id, l2_key, version, ciphertext, tried), update (l2_key, version, ciphertext, tried, left_at)
    on okcm.key_probe to okcm_worker;

create function okcm.record_fingerprint(key_name text, key_version integer, taken text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    mine text := current_setting('app.tenant_id', true);
    kept text;
begin
    if not okcm.ctx_ok() or mine = '*' then
        raise insufficient_privilege using message = 'the context is not signed for a tenant';
    end if;
    -- Of two that meet here the later waits for the earlier one's end, and then finds it.
    insert into okcm.key_fingerprint (tenant_id, name, version, fingerprint) values (mine, key_name, key_version, taken)
        on conflict do nothing;
    if found then
        return 'recorded';
    end if;
    select f.fingerprint into kept from okcm.key_fingerprint f
        where f.tenant_id = mine and f.name = key_name and f.version = key_version;
    return case when kept is null then 'taken' when kept = taken then 'known' else 'changed' end;
end
$$;
revoke execute on function okcm.record_fingerprint(text, integer, text) from public;
grant execute on function okcm.record_fingerprint(text, integer, text) to okcm_worker;

-- Probes in order of their tenants, from the first one behind `after` and on from the beginning.
create function okcm.key_probes(after text, at_most integer) returns table (tenant_id text, ciphertext text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select p.tenant_id, p.ciphertext from okcm.key_probe p
        order by (p.tenant_id > after) desc, p.tenant_id limit at_most;
end
$$;
revoke execute on function okcm.key_probes(text, integer) from public;
grant execute on function okcm.key_probes(text, integer) to okcm_worker;

-- Under whose key an object lies, so that the examination sees that it is its own tenant's; still nothing in it.
grant select (l2_key) on okcm.managed_object to okcm_worker;
