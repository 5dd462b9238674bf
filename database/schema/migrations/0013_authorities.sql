-- Certificate authorities that are rolled with an overlap, which of them issued each certificate, revocation lists, and
-- what the platform asks about all that ends.

-- The states are those of tenancy/authorities.py. `key_version` is the version of the tenant's Transit key that the
-- certificate is about; a number is never used for two certificates.
alter table okcm.certificate_authority
    add column state       text not null default 'current' check (state in ('prepared', 'current', 'former', 'ended')),
    add column key_version integer not null default 1 check (key_version > 0);
alter table okcm.certificate_authority drop constraint certificate_authority_pkey;
alter table okcm.certificate_authority
    add primary key (tenant_id, serial),
    add unique (tenant_id, key_version);
create unique index certificate_authority_current on okcm.certificate_authority (tenant_id) where state = 'current';
create unique index certificate_authority_former on okcm.certificate_authority (tenant_id) where state = 'former';

-- Whose signature a certificate carries: by that its issuer is found again, and found to be over. Until now each tenant
-- had one authority. Its owner does not see a tenant's rows while row security is forced; this is one transaction.
alter table okcm.service_certificate add column authority text;
alter table okcm.service_certificate no force row level security;
alter table okcm.certificate_authority no force row level security;
update okcm.service_certificate c set authority = a.serial
    from okcm.certificate_authority a where a.tenant_id = c.tenant_id;
alter table okcm.service_certificate force row level security;
alter table okcm.certificate_authority force row level security;
alter table okcm.service_certificate
    alter column authority set not null,
    add foreign key (tenant_id, authority) references okcm.certificate_authority (tenant_id, serial);
create index service_certificate_authority on okcm.service_certificate (tenant_id, authority, not_after);
create index service_certificate_revoked on okcm.service_certificate (tenant_id, authority, revoked_at)
    where revoked_at is not null;

-- The second issuer that is believed, while the former authority's certificates last. It changes with the states above,
-- in one transaction: what no route names opens nothing, whatever it signed.
alter table okcm.route
    add column former_issuer_fingerprint text check (former_issuer_fingerprint ~ '^[0-9a-f]{64}$');

-- The newest revocation list of an authority (RFC 5280, section 5). Numbers go up over all lists of a tenant.
-- `this_update` is when it was read which certificates are revoked, by this server's clock: later ones are not on it.
create table okcm.certificate_revocation_list (
    tenant_id   text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    authority   text not null check (authority ~ '^[0-9a-f]{1,64}$'),
    number      bigint not null check (number > 0),
    der         bytea not null check (length(der) between 1 and 16777216),
    this_update timestamptz not null,
    next_update timestamptz not null check (next_update > this_update),
    primary key (tenant_id, authority),
    foreign key (tenant_id, authority) references okcm.certificate_authority (tenant_id, serial)
);

do $$
declare
    mine constant text := '(tenant_id = (select current_setting(''app.tenant_id'', true)))';
    reader text;
begin
    alter table okcm.certificate_revocation_list enable row level security;
    alter table okcm.certificate_revocation_list force row level security;
    create policy signed on okcm.certificate_revocation_list as restrictive for all to public
        using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()));
    execute format('create policy own_rows on okcm.certificate_revocation_list to okcm_worker using %s with check %s',
                   mine, mine);
    foreach reader in array array['operator', 'dashboard', 'crypto'] loop
        execute format('create policy %I on okcm.certificate_revocation_list for select to %I using %s',
                       'own_rows_' || reader, 'okcm_' || reader, mine);
    end loop;
end
$$;

-- An authority's certificate stays as it was recorded; only what it may do changes.
grant insert (state, key_version), update (state) on okcm.certificate_authority to okcm_worker;
grant insert (former_issuer_fingerprint), update (former_issuer_fingerprint) on okcm.route to okcm_worker;
grant insert (authority) on okcm.service_certificate to okcm_worker;
grant select, insert (tenant_id, authority, number, der, this_update, next_update),
    update (number, der, this_update, next_update) on okcm.certificate_revocation_list to okcm_worker;
grant select on okcm.certificate_revocation_list to okcm_operator, okcm_dashboard, okcm_crypto;

alter table okcm.outbox drop constraint outbox_kind_check;
alter table okcm.outbox add constraint outbox_kind_check check (kind in (
    'ready', 'late', 'failed', 'locked', 'unlocked', 'root-key-warning', 'root-key-changed', 'keys-rotated',
    'expiry-late', 'expiry-lapsed'));

-- What the platform asks of all tenants that were opened and have not left: ids, times and states.
create policy platform_questions on okcm.service_certificate for select to okcm_owner
    using ((select current_setting('app.tenant_id', true)) = '*');
create policy platform_questions on okcm.certificate_revocation_list for select to okcm_owner
    using ((select current_setting('app.tenant_id', true)) = '*');

-- Whose authority is to be rolled: a third of its life is left, and the roll before is over.
create function okcm.due_authorities(at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select a.tenant_id from okcm.certificate_authority a join okcm.tenant t on t.tenant_id = a.tenant_id
        where a.state = 'current' and t.state in ('active', 'suspended', 'locked')
        and (a.not_after - statement_timestamp()) * 3 <= a.not_after - a.recorded_at
        and not exists (select from okcm.certificate_authority f where f.tenant_id = a.tenant_id and f.state = 'former')
        order by a.not_after limit at_most;
end
$$;
revoke execute on function okcm.due_authorities(integer) from public;
grant execute on function okcm.due_authorities(integer) to okcm_worker;

-- Whose former authority is over: every certificate that it issued has expired.
create function okcm.outlived_authorities(at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select a.tenant_id from okcm.certificate_authority a
        where a.state = 'former' and not exists (
            select from okcm.service_certificate c where c.tenant_id = a.tenant_id and c.authority = a.serial
            and c.not_after > statement_timestamp())
        limit at_most;
end
$$;
revoke execute on function okcm.outlived_authorities(integer) from public;
grant execute on function okcm.outlived_authorities(integer) to okcm_worker;

-- Whose revocation list is missing, older than `oldest`, or does not have what was revoked since; the oldest first.
create function okcm.stale_revocation_lists(oldest interval, at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select a.tenant_id from okcm.certificate_authority a join okcm.tenant t on t.tenant_id = a.tenant_id
        left join okcm.certificate_revocation_list l on l.tenant_id = a.tenant_id and l.authority = a.serial
        where a.state in ('current', 'former') and t.state in ('active', 'suspended', 'locked')
        and (l.this_update is null or l.this_update < statement_timestamp() - oldest
             or exists (select from okcm.service_certificate c where c.tenant_id = a.tenant_id
                        and c.authority = a.serial and c.revoked_at > l.this_update))
        group by a.tenant_id order by min(l.this_update) nulls first limit at_most;
end
$$;
revoke execute on function okcm.stale_revocation_lists(interval, integer) from public;
grant execute on function okcm.stale_revocation_lists(interval, integer) to okcm_worker;

-- What should have been renewed and was not: less than a sixth of its life is left, or nothing (tenancy/expiry.py).
-- Of a connected service only its newest certificate counts.
create function okcm.expiring(at_most integer)
returns table (tenant_id text, region text, kind text, name text, serial text, generation integer,
               begins timestamptz, ends timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        with life as (
            select s.tenant_id, 'certificate' as kind, s.service as name, c.serial, c.generation,
                   c.not_before as begins, c.not_after as ends
            from okcm.service s cross join lateral (
                select n.* from okcm.service_certificate n
                where n.tenant_id = s.tenant_id and n.service = s.service and n.revoked_at is null
                order by n.generation desc limit 1) c
            where s.state = 'connected'
            union all
            select a.tenant_id, 'authority', a.serial, a.serial, 0, a.recorded_at, a.not_after
            from okcm.certificate_authority a where a.state = 'current'
            union all
            select l.tenant_id, 'revocation-list', l.authority, l.authority || '-' || l.number, 0,
                   l.this_update, l.next_update
            from okcm.certificate_revocation_list l join okcm.certificate_authority a
            on a.tenant_id = l.tenant_id and a.serial = l.authority and a.state in ('current', 'former'))
        select life.tenant_id, t.region, life.kind, life.name, life.serial, life.generation, life.begins, life.ends
        from life join okcm.tenant t on t.tenant_id = life.tenant_id
        where t.state in ('active', 'suspended', 'locked')
        and (life.ends - statement_timestamp()) * 6 < life.ends - life.begins
        -- What can still be saved comes first, what has long been over last.
        order by life.ends desc limit at_most;
end
$$;
revoke execute on function okcm.expiring(integer) from public;
grant execute on function okcm.expiring(integer) to okcm_worker;
