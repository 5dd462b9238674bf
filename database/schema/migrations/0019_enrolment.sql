-- Discovery and enrolment: services that the platform found, one-time tokens by which an agent may be one of them, and
-- what became of each agent's request. Of a secret nothing is here but its SHA-256 hash.

-- Made by an administrator for one service of one kind. Which enrolment used it is said once and stays.
create table okcm.join_token (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    token_hash   text not null check (token_hash ~ '^[0-9a-f]{64}$'),
    service      text not null check (service ~ '^[a-z0-9][a-z0-9-]{0,39}$'),
    kind         text not null check (kind in ('mongodb', 'postgresql', 'microservice')),
    made_by      text not null check (length(made_by) between 1 and 300),
    made_at      timestamptz not null default clock_timestamp(),
    expires_at   timestamptz not null,
    used_at      timestamptz,
    enrolment_id text check (enrolment_id ~ '^[0-9a-f]{32}$'),
    primary key (tenant_id, token_hash),
    foreign key (tenant_id) references okcm.tenant,
    constraint join_token_lifetime_check check (expires_at <= made_at + interval '24 hours'),
    constraint join_token_used_check check ((used_at is null) = (enrolment_id is null))
);

-- A request of an agent. `proof_hash` is what must not prove two keys: of a join token its hash, of a JWT that of issuer
-- and jti. `key_hash` is of the public key to be certified; the request itself lies in service_request, under the same id.
create table okcm.enrolment (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    enrolment_id text not null check (enrolment_id ~ '^[0-9a-f]{32}$'),
    service      text not null check (service ~ '^[a-z0-9][a-z0-9-]{0,39}$'),
    kind         text not null check (kind in ('mongodb', 'postgresql', 'microservice')),
    proof        text not null check (proof in ('join_token', 'jwt')),
    proof_hash   text not null check (proof_hash ~ '^[0-9a-f]{64}$'),
    key_hash     text not null check (key_hash ~ '^[0-9a-f]{64}$'),
    ticket_hash  text not null check (ticket_hash ~ '^[0-9a-f]{64}$'),
    state        text not null default 'pending' check (state in ('pending', 'issued', 'refused')),
    requested_at timestamptz not null default clock_timestamp(),
    settled_at   timestamptz,
    code         text check (length(code) between 1 and 60),
    message      text check (length(message) <= 500),
    hint         text check (length(hint) <= 500),
    primary key (tenant_id, enrolment_id),
    unique (tenant_id, proof_hash),
    foreign key (tenant_id) references okcm.tenant,
    constraint enrolment_settled_check check ((settled_at is null) = (state = 'pending')),
    constraint enrolment_refused_check check ((code is null) = (state <> 'refused'))
);
-- What the sweep reads: empty while Temporal is up.
create index enrolment_pending on okcm.enrolment (requested_at) where state = 'pending';

-- A service that the platform says is there. It becomes one of okcm.service when it is connected.
create table okcm.discovery (
    tenant_id     text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    service       text not null check (service ~ '^[a-z0-9][a-z0-9-]{0,39}$'),
    kind          text not null check (kind in ('mongodb', 'postgresql', 'microservice')),
    discovered_at timestamptz not null default clock_timestamp(),
    primary key (tenant_id, service),
    foreign key (tenant_id) references okcm.tenant
);

alter table okcm.marketplace_event
    add column service text check (service ~ '^[a-z0-9][a-z0-9-]{0,39}$'),
    drop constraint marketplace_event_kind_check,
    add constraint marketplace_event_kind_check check (kind in ('service_enabled', 'service_disabled',
                                                                'service_discovered'));

do $$
declare
    tenant_table text;
    mine constant text := '(tenant_id = (select current_setting(''app.tenant_id'', true)))';
    for_all constant text := '(select current_setting(''app.tenant_id'', true)) = ''*''';
begin
    foreach tenant_table in array array['join_token', 'enrolment', 'discovery'] loop
        execute format('alter table okcm.%I enable row level security', tenant_table);
        execute format('alter table okcm.%I force row level security', tenant_table);
        execute format('create policy signed on okcm.%I as restrictive for all to public '
                       'using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()))', tenant_table);
        execute format('create policy own_rows_marketplace on okcm.%I to okcm_marketplace using %s with check %s',
                       tenant_table, mine, mine);
        execute format('create policy own_rows on okcm.%I for select to okcm_worker using %s', tenant_table, mine);
        -- As in 0016: the owner reaches a tenant's rows only to erase them.
        execute format('create policy while_destroying on okcm.%I as restrictive for all to okcm_owner '
                       'using (%s or (select okcm.is_destroying()))', tenant_table, for_all);
        execute format('create policy erase on okcm.%I to okcm_owner using %s with check %s', tenant_table, mine, mine);
    end loop;
    foreach tenant_table in array array['enrolment', 'discovery'] loop
        execute format('create policy own_rows_operator on okcm.%I for select to okcm_operator using %s',
                       tenant_table, mine);
        execute format('create policy own_rows_dashboard on okcm.%I for select to okcm_dashboard using %s',
                       tenant_table, mine);
    end loop;
    -- Whoever speaks for the tenant makes a token.
    execute format('create policy own_rows_operator on okcm.join_token to okcm_operator using %s with check %s',
                   mine, mine);
    execute format('create policy own_rows_dashboard on okcm.join_token to okcm_dashboard using %s with check %s',
                   mine, mine);
    -- The endpoint that agents enrol at stores their requests and reads what came of them.
    execute format('create policy own_rows_marketplace on okcm.service_request to okcm_marketplace using %s with check %s',
                   mine, mine);
    foreach tenant_table in array array['service', 'service_certificate', 'certificate_authority'] loop
        execute format('create policy own_rows_marketplace on okcm.%I for select to okcm_marketplace using %s',
                       tenant_table, mine);
    end loop;
end
$$;
create policy platform_questions on okcm.enrolment for select to okcm_owner
    using ((select current_setting('app.tenant_id', true)) = '*');

-- A token is made and looked at without its hash; nobody takes one back from the agent that used it.
grant select (tenant_id, service, kind, made_by, made_at, expires_at, used_at, enrolment_id),
    insert (tenant_id, token_hash, service, kind, made_by, expires_at) on okcm.join_token to okcm_operator, okcm_dashboard;
grant select, update (used_at, enrolment_id) on okcm.join_token to okcm_marketplace;
grant select,
    insert (tenant_id, enrolment_id, service, kind, proof, proof_hash, key_hash, ticket_hash),
    update (state, settled_at, code, message, hint) on okcm.enrolment to okcm_marketplace;
grant select (tenant_id, enrolment_id, service, kind, proof, state, requested_at, settled_at, code, message, hint)
    on okcm.enrolment to okcm_operator, okcm_dashboard;
grant select, insert (tenant_id, service, kind) on okcm.discovery to okcm_marketplace;
grant select on okcm.discovery to okcm_operator, okcm_dashboard;
-- Whose rows these are and nothing in them: enough for the boundary gate to attack the tables (database/attacks.py).
grant select (tenant_id) on okcm.join_token, okcm.enrolment, okcm.discovery to okcm_worker;
grant insert (service) on okcm.marketplace_event to okcm_marketplace;
-- Public things: what was certified for whom, and by whom. Of keys, objects and usage the endpoint sees nothing.
grant select (tenant_id), insert (tenant_id, request_id, service, kind, csr_pem) on okcm.service_request
    to okcm_marketplace;
grant select (tenant_id, service, kind, state) on okcm.service to okcm_marketplace;
grant select on okcm.service_certificate, okcm.certificate_authority to okcm_marketplace;

-- Every token is in the tenant's stream, whoever made it and whatever made it: the operator's role cannot append there.
create function okcm.audit_join_token() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    event text := 'join-token/' || left(new.token_hash, 16);
begin
    perform okcm.audit_append_all(jsonb_build_array(jsonb_build_object(
        'event_id', event, 'name', 'enrolment.join_token_made', 'actor_kind', 'human', 'actor', new.made_by,
        'subject', new.service, 'outcome', 'success', 'correlation_id', event, 'source', '',
        'details', jsonb_build_object('kind', new.kind, 'expires_at',
            to_char(new.expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')))));
    return null;
end
$$;
revoke execute on function okcm.audit_join_token() from public;
create trigger audited after insert on okcm.join_token for each row execute function okcm.audit_join_token();

-- As unstarted_events (0016): enrolments that no workflow has answered yet.
create function okcm.pending_enrolments(at_most integer)
returns table (tenant_id text, enrolment_id text, region text, service text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select e.tenant_id, e.enrolment_id, t.region, e.service
        from okcm.enrolment e join okcm.tenant t on t.tenant_id = e.tenant_id
        where e.state = 'pending' order by e.requested_at limit at_most;
end
$$;
revoke execute on function okcm.pending_enrolments(integer) from public;
grant execute on function okcm.pending_enrolments(integer) to okcm_marketplace;

-- As in 0016, which argues it, and what is new here; of an event that discovered a service the service's name goes too.
create or replace function okcm.erase_tenant(at_most integer) returns boolean
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
                                  'operation_step', 'route', 'key',
                                  'join_token', 'enrolment', 'discovery'] loop
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
    update okcm.marketplace_event set organization = '(erased)', service = null,
            started_at = coalesce(started_at, clock_timestamp())
        where tenant_id = leaver and (organization <> '(erased)' or service is not null or started_at is null);
    update okcm.tenant set organization = '(erased)', erased = counts where tenant_id = leaver;
    return true;
end
$$;
