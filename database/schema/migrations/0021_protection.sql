-- Which fields of a service's data its programs keep encrypted: administrators change the list, the crypto service tells
-- it to the service's programs. Names of columns and fields, and of nothing that is in them.

-- One row for each service whose list was ever changed. The version rises with every change and never falls.
create table okcm.protection (
    tenant_id  text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    service    text not null,
    version    bigint not null default 0 check (version >= 0),
    changed_by text not null check (length(changed_by) between 1 and 300),
    changed_at timestamptz not null default now(),
    primary key (tenant_id, service),
    foreign key (tenant_id, service) references okcm.service
) with (fillfactor = 70);

-- Names are checked closer where they come in (tenancy/protection.py); here what would hurt the readers is kept out.
create table okcm.protected_field (
    tenant_id     text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    service       text not null,
    store         text not null check (store in ('postgresql', 'mongodb')),
    place         text not null check (length(place) between 3 and 180 and place !~ '[[:cntrl:]]'),
    field         text not null check (length(field) between 1 and 180 and field !~ '[[:cntrl:]]'),
    mode          text not null check (mode in ('randomised', 'deterministic')),
    plain_allowed boolean not null,
    changed_by    text not null check (length(changed_by) between 1 and 300),
    changed_at    timestamptz not null,
    primary key (tenant_id, service, store, place, field),
    foreign key (tenant_id, service) references okcm.protection
);

do $$
declare
    tenant_table text;
    body text;
    mine constant text := '(tenant_id = (select current_setting(''app.tenant_id'', true)))';
    for_all constant text := '(select current_setting(''app.tenant_id'', true)) = ''*''';
begin
    foreach tenant_table in array array['protection', 'protected_field'] loop
        execute format('alter table okcm.%I enable row level security', tenant_table);
        execute format('alter table okcm.%I force row level security', tenant_table);
        execute format('create policy signed on okcm.%I as restrictive for all to public '
                       'using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()))', tenant_table);
        execute format('create policy own_rows on okcm.%I for select to okcm_worker using %s', tenant_table, mine);
        execute format('create policy own_rows_crypto on okcm.%I for select to okcm_crypto using %s',
                       tenant_table, mine);
        -- Whoever speaks for the tenant changes the list, as with join tokens (0019).
        execute format('create policy own_rows_operator on okcm.%I to okcm_operator using %s with check %s',
                       tenant_table, mine, mine);
        execute format('create policy own_rows_dashboard on okcm.%I to okcm_dashboard using %s with check %s',
                       tenant_table, mine, mine);
        -- As 0016 has it for every table that is erased.
        execute format('create policy while_destroying on okcm.%I as restrictive for all to okcm_owner using (%s or %s)',
                       tenant_table, for_all, '(select okcm.is_destroying())');
        execute format('create policy erase on okcm.%I to okcm_owner using %s with check %s',
                       tenant_table, mine, mine);
    end loop;
    -- Two more tables that go with a tenant, before the service that they refer to; whatever the others are by now.
    select pg_get_functiondef('okcm.erase_tenant(integer)'::regprocedure) into strict body;
    if position('array[''agent''' in body) = 0 then
        raise exception 'okcm.erase_tenant is not as this migration knows it';
    end if;
    execute replace(body, 'array[''agent''', 'array[''protected_field'', ''protection'', ''agent''');
end
$$;

-- Nobody writes a version or a time: the triggers below do.
grant select, insert (tenant_id, service, changed_by), update (changed_by)
    on okcm.protection to okcm_operator, okcm_dashboard;
grant select, delete, insert (tenant_id, service, store, place, field, mode, plain_allowed, changed_by),
    update (mode, plain_allowed, changed_by) on okcm.protected_field to okcm_operator, okcm_dashboard;
grant select (tenant_id, service, version) on okcm.protection to okcm_crypto;
grant select (tenant_id, service, store, place, field, mode, plain_allowed) on okcm.protected_field to okcm_crypto;
-- Whose rows these are and nothing in them: enough for the boundary gate to attack the tables (database/attacks.py).
grant select (tenant_id) on okcm.protection, okcm.protected_field to okcm_worker;

create function okcm.raise_protection_version() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    new.version := old.version + 1;
    new.changed_at := now();
    return new;
end
$$;
revoke execute on function okcm.raise_protection_version() from public;
create trigger risen before update on okcm.protection for each row execute function okcm.raise_protection_version();

-- A change of a field raises the version of its list, under the list's row lock; so the bound holds for two at once too.
create function okcm.version_protected_field() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    insert into okcm.protection as kept (tenant_id, service, changed_by)
        values (new.tenant_id, new.service, new.changed_by) on conflict do nothing;
    update okcm.protection set changed_by = new.changed_by
        where tenant_id = new.tenant_id and service = new.service;
    new.changed_at := now();
    if tg_op = 'INSERT' and (select count(*) from okcm.protected_field f
                             where f.tenant_id = new.tenant_id and f.service = new.service) >= 500 then
        raise check_violation using message = 'a service has at most 500 protected fields';
    end if;
    return new;
end
$$;
revoke execute on function okcm.version_protected_field() from public;
create trigger versioned before insert or update on okcm.protected_field
    for each row execute function okcm.version_protected_field();

-- A row that is deleted cannot say who did it. So whoever unprotects a field writes his name on it first, in the same
-- transaction, which raises the version too. The owner deletes when a tenant's rows are erased, and for nothing else.
create function okcm.require_who_unprotects() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if old.changed_at <> now() then
        raise insufficient_privilege using message = 'who unprotects a field says so first';
    end if;
    return old;
end
$$;
revoke execute on function okcm.require_who_unprotects() from public;
create trigger said before delete on okcm.protected_field
    for each row when (current_user <> 'okcm_owner') execute function okcm.require_who_unprotects();

-- Every change is in the tenant's stream, whoever made it and whatever made it (as okcm.audit_join_token, 0019).
create function okcm.audit_protection() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    field  okcm.protected_field := case when tg_op = 'DELETE' then old else new end;
    event  text := format('protection/%s/%s', field.service, gen_random_uuid());
    told   text := 'protection.field_protected';
    known  text := 'configurationCreate';
    details jsonb := jsonb_build_object('store', field.store, 'place', field.place, 'field', field.field,
                                        'mode', field.mode, 'plain_allowed', field.plain_allowed::text);
begin
    if tg_op = 'DELETE' then
        told := 'protection.field_unprotected';
        known := 'configurationDelete';
    elsif tg_op = 'UPDATE' then
        if (new.mode, new.plain_allowed) = (old.mode, old.plain_allowed) then
            return null;
        end if;
        told := 'protection.field_changed';
        known := 'configurationUpdate';
        details := details || jsonb_build_object('former_mode', old.mode,
                                                 'former_plain_allowed', old.plain_allowed::text);
    end if;
    perform okcm.audit_append_all(jsonb_build_array(jsonb_build_object(
        'event_id', event, 'name', told, 'actor_kind', 'human', 'actor', field.changed_by, 'subject', field.service,
        'outcome', 'success', 'correlation_id', event, 'source', '', 'details', details, 'upstream_event_type', known)));
    return null;
end
$$;
revoke execute on function okcm.audit_protection() from public;
create trigger audited after insert or update on okcm.protected_field
    for each row execute function okcm.audit_protection();
create trigger audited_deletion after delete on okcm.protected_field
    for each row when (current_user <> 'okcm_owner') execute function okcm.audit_protection();
