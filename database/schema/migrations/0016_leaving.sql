-- Leaving: the grace in which everything comes back, the point behind which nothing does, what is destroyed and erased
-- then, and the statement of it that stays.

-- `returns_to` is the state before, to which a restored tenant goes back with the locks it had. From `destroying_at` on
-- there is no way back, which the check says whatever a process believes. `erased` counts the rows that are gone. What
-- the marketplace said before `restored_at` has been done and undone: it lets nobody leave a second time.
alter table okcm.tenant
    add column leaving_since timestamptz,
    add column leaves_at     timestamptz,
    add column restored_at   timestamptz,
    add column returns_to    text check (returns_to in ('active', 'suspended', 'locked')),
    add column destroying_at timestamptz,
    add column offboarded_at timestamptz,
    add column erased        jsonb check (jsonb_typeof(erased) = 'object'),
    add constraint tenant_leaves_after_check check (leaves_at >= leaving_since),
    add constraint tenant_destroying_check check (destroying_at is null or state in ('leaving', 'offboarded'));

-- What is destroyed, written down before the first of it is: afterwards nobody can say what it was. `fingerprint` is of
-- the public key, the certificate, the wrap, or the key server's own record (docs/offboarding.md).
create table okcm.destruction (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    kind         text not null check (kind in ('L2 tenant key', 'service key', 'payload key', 'certificate authority key',
                                               'service certificate')),
    name         text not null check (length(name) between 1 and 200),
    versions     text not null check (length(versions) between 1 and 200),
    fingerprint  text not null check (fingerprint ~ '^[0-9a-f]{64}$'),
    gathered_at  timestamptz not null default clock_timestamp(),
    destroyed_at timestamptz,
    primary key (tenant_id, kind, name),
    foreign key (tenant_id) references okcm.tenant
);

-- `statement` is exactly what was signed (tenancy/shred.py). There is one, for an id is never used again.
create table okcm.shred_certificate (
    tenant_id text primary key check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    statement text not null check (length(statement) > 0),
    signature text not null check (length(signature) > 0),
    key       text not null check (length(key) > 0),
    issued_at timestamptz not null,
    foreign key (tenant_id) references okcm.tenant
);

do $$
declare
    tenant_table text;
    mine constant text := '(tenant_id = (select current_setting(''app.tenant_id'', true)))';
begin
    foreach tenant_table in array array['destruction', 'shred_certificate'] loop
        execute format('alter table okcm.%I enable row level security', tenant_table);
        execute format('alter table okcm.%I force row level security', tenant_table);
        execute format('create policy signed on okcm.%I as restrictive for all to public '
                       'using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()))', tenant_table);
        execute format('create policy own_rows on okcm.%I to okcm_worker using %s with check %s',
                       tenant_table, mine, mine);
        execute format('create policy own_rows_operator on okcm.%I for select to okcm_operator using %s',
                       tenant_table, mine);
        execute format('create policy own_rows_dashboard on okcm.%I for select to okcm_dashboard using %s',
                       tenant_table, mine);
    end loop;
end
$$;

grant update (leaving_since, leaves_at, restored_at, returns_to, destroying_at, offboarded_at) on okcm.tenant to okcm_worker;
-- What was gathered and certified is rewritten by nobody.
grant select, insert (tenant_id, kind, name, versions, fingerprint), update (destroyed_at) on okcm.destruction to okcm_worker;
grant select, insert on okcm.shred_certificate to okcm_worker;
grant select on okcm.destruction, okcm.shred_certificate to okcm_operator, okcm_dashboard;

-- The owner reaches rows of the tenant whose context is signed (erase), and of it only while it is being destroyed
-- (while_destroying). Both are asked with every row, and not by the function alone that erases: another function of the
-- owner's, or a fault in that one, meets the same wall. Two policies, because pgrls can prove the first by itself.
create function okcm.is_destroying() returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (select from okcm.tenant where tenant_id = current_setting('app.tenant_id', true)
                   and state = 'leaving' and destroying_at is not null);
end
$$;
revoke execute on function okcm.is_destroying() from public;

do $$
declare
    tenant_table text;
    mine constant text := '(tenant_id = (select current_setting(''app.tenant_id'', true)))';
    for_all constant text := '(select current_setting(''app.tenant_id'', true)) = ''*''';
begin
    foreach tenant_table in array array['tenant', 'marketplace_event', 'operation_step', 'key', 'route', 'outbox', 'service',
                                        'service_request', 'service_certificate', 'service_key', 'managed_object',
                                        'usage_minute', 'usage_day', 'usage_batch', 'dashboard_session', 'root_key',
                                        'root_key_request', 'root_key_change', 'tenant_policy', 'rotation',
                                        'certificate_revocation_list', 'approval', 'approval_vote',
                                        'destruction'] loop
        -- The platform's questions (0005) are the owner's too.
        execute format('create policy while_destroying on okcm.%I as restrictive %s to okcm_owner using (%s or %s)',
                       tenant_table, case tenant_table when 'managed_object' then 'for delete' else 'for all' end, for_all,
                       case tenant_table when 'tenant' then '(state = ''leaving'' and destroying_at is not null)'
                                         else '(select okcm.is_destroying())' end);
        -- Objects are counted by the owner at any time (0011), and only erased while the tenant is destroyed.
        if tenant_table = 'managed_object' then
            execute format('create policy erase on okcm.managed_object for delete to okcm_owner using %s', mine);
        else
            execute format('create policy erase on okcm.%I to okcm_owner using %s with check %s',
                           tenant_table, mine, mine);
        end if;
    end loop;
end
$$;

-- Erases at most so many rows of each table and returns whether all are gone, so that a tenant with years of usage is
-- not one statement that is given up half way; what is counted stays with the tenant's row. What stays and why says
-- docs/offboarding.md. Nothing is erased before every key but the payload key is destroyed: until then the rows say
-- what there still is to destroy.
create function okcm.erase_tenant(at_most integer) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    leaver text := current_setting('app.tenant_id', true);
    counts jsonb;
    doomed text;
    gone   bigint;
begin
    if not okcm.ctx_ok() or leaver = '*' then
        raise insufficient_privilege using message = 'the context is not signed for a tenant';
    end if;
    select coalesce(t.erased, '{}') into counts from okcm.tenant t where t.tenant_id = leaver
        and t.state = 'leaving' and t.destroying_at is not null for no key update;
    if not found then
        raise insufficient_privilege using message = 'the tenant is not being destroyed';
    end if;
    perform from okcm.destruction d
        where d.tenant_id = leaver and d.destroyed_at is null and d.kind <> 'payload key';
    if found then
        raise check_violation using message = 'a key of the tenant is not destroyed yet';
    end if;
    -- Who is referred to comes after who refers; votes go with what they were about (0014).
    foreach doomed in array array['managed_object', 'service_key', 'service_certificate', 'service_request', 'service',
                                  'root_key_change', 'root_key_request', 'root_key', 'tenant_policy', 'rotation',
                                  'usage_minute', 'usage_day', 'usage_batch', 'approval', 'dashboard_session',
                                  'certificate_revocation_list', 'outbox',
                                  'operation_step', 'route', 'key'] loop
        execute format('delete from okcm.%I where ctid = any (array('
                       'select ctid from okcm.%I where tenant_id = $1 limit $2))', doomed, doomed)
            using leaver, at_most;
        get diagnostics gone = row_count;
        counts := counts || jsonb_build_object(doomed, coalesce((counts ->> doomed)::bigint, 0) + gone);
        if gone >= at_most then
            update okcm.tenant set erased = counts where tenant_id = leaver;
            return false;
        end if;
    end loop;
    -- The customer's name goes; that there was such an event stays, so that none of them is ever taken for new.
    update okcm.marketplace_event set organization = '(erased)', started_at = coalesce(started_at, clock_timestamp())
        where tenant_id = leaver and (organization <> '(erased)' or started_at is null);
    update okcm.tenant set organization = '(erased)', erased = counts where tenant_id = leaver;
    return true;
end
$$;
revoke execute on function okcm.erase_tenant(integer) from public;
grant execute on function okcm.erase_tenant(integer) to okcm_worker;

alter table okcm.outbox drop constraint outbox_kind_check;
alter table okcm.outbox add constraint outbox_kind_check check (kind in (
    'ready', 'late', 'failed', 'locked', 'unlocked', 'root-key-warning', 'root-key-changed', 'keys-rotated',
    'expiry-late', 'expiry-lapsed', 'approval-waiting', 'leaving', 'leaving-reminder', 'restored', 'farewell'));

-- As in 0005, and of which kind: an event that disables leads to another message.
drop function okcm.unstarted_events(integer);
create function okcm.unstarted_events(at_most integer)
returns table (tenant_id text, event_id text, region text, kind text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select e.tenant_id, e.event_id, e.region, e.kind from okcm.marketplace_event e
        where e.started_at is null order by e.accepted_at limit at_most;
end
$$;
revoke execute on function okcm.unstarted_events(integer) from public;
grant execute on function okcm.unstarted_events(integer) to okcm_marketplace;
