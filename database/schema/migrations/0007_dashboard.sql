-- The dashboard: a role of its own (okcm_dashboard), in which the customer's people look at their tenant, and their sessions.

-- A sign-on as this server knows it. The browser's cookie says who somebody is until it expires; this row says whether
-- that is still so, for every tab at once. It does not refer to tenant: operators sign on too, under a reserved id.
create table okcm.dashboard_session (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    session_id   text not null check (session_id ~ '^[0-9a-f]{64}$'),
    subject      text not null check (length(subject) between 1 and 300),
    signed_in_at timestamptz not null default clock_timestamp(),
    last_seen_at timestamptz not null default clock_timestamp(),
    expires_at   timestamptz not null,
    ended_at     timestamptz,
    primary key (tenant_id, session_id)
) with (fillfactor = 70);  -- last_seen_at moves: it stays in its page
create index dashboard_session_age on okcm.dashboard_session (tenant_id, expires_at);

do $$
declare
    tenant_table text;
    mine constant text := '(tenant_id = (select current_setting(''app.tenant_id'', true)))';
begin
    alter table okcm.dashboard_session enable row level security;
    alter table okcm.dashboard_session force row level security;
    create policy signed on okcm.dashboard_session as restrictive for all to public
        using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()));
    execute format('create policy own_rows on okcm.dashboard_session for select to okcm_worker using %s', mine);
    foreach tenant_table in array array['tenant', 'operation_step', 'key', 'certificate_authority', 'route',
                                        'boundary_result', 'service', 'service_certificate', 'service_key',
                                        'managed_object', 'usage_minute', 'audit_head', 'audit_signed_head',
                                        'audit_event'] loop
        execute format('create policy own_rows_dashboard on okcm.%I for select to okcm_dashboard using %s',
                       tenant_table, mine);
    end loop;
    foreach tenant_table in array array['dashboard_session', 'service_request'] loop
        execute format('create policy own_rows_dashboard on okcm.%I to okcm_dashboard using %s with check %s',
                       tenant_table, mine, mine);
    end loop;
end
$$;

grant usage on schema okcm to okcm_dashboard;
grant execute on function okcm.ctx_ok() to okcm_dashboard;
-- Who signed on, who was turned away, what somebody asked for: the dashboard's part of the stream.
grant execute on function okcm.audit_append(jsonb), okcm.audit_append_all(jsonb) to okcm_dashboard;

-- The dashboard looks at one tenant at a time and at nothing that is wrapped or sealed.
grant select on okcm.tenant, okcm.operation_step, okcm.key, okcm.certificate_authority, okcm.route,
    okcm.boundary_result, okcm.service, okcm.service_certificate, okcm.usage_minute, okcm.audit_head,
    okcm.audit_signed_head, okcm.audit_event to okcm_dashboard;
grant select (tenant_id, service, version, l2_key, root_key_mode, root_key, created_at)
    on okcm.service_key to okcm_dashboard;
grant select (tenant_id, l2_key, object_id, service, object_type, state, names, key_version, revision, created_at)
    on okcm.managed_object to okcm_dashboard;
-- What it asks for goes through Temporal, as the operator's does; only the request is stored here.
grant select, insert (tenant_id, request_id, service, kind, csr_pem) on okcm.service_request to okcm_dashboard;
-- A session begins, is seen and ends; nobody un-ends one, and a session that ended a month ago is forgotten.
grant select, insert (tenant_id, session_id, subject, expires_at), update (last_seen_at, ended_at), delete
    on okcm.dashboard_session to okcm_dashboard;
-- Whose rows these are and nothing in them: enough for the boundary gate to attack the table (database/attacks.py).
grant select (tenant_id) on okcm.dashboard_session to okcm_worker;
