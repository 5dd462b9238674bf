-- Two policies stand in front of every row, and both must agree:
--   own_rows  permissive, per role: the row belongs to the tenant the transaction names. Written out in place and never
--             behind a function or TO PUBLIC, so that pgrls can prove it with an SMT solver.
--   signed    restrictive, for everybody: the name is signed (okcm.ctx_ok). Permissive policies are ORed, restrictive
--             ones are ANDed: whatever is granted later cannot get round it.
-- FORCE makes the owner obey as well, and with it every SECURITY DEFINER function.

do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['tenant', 'marketplace_event', 'operation_step', 'key', 'certificate_authority',
                                        'route', 'boundary_result', 'outbox', 'audit_head', 'audit_signed_head',
                                        'audit_event'] loop
        execute format('alter table okcm.%I enable row level security', tenant_table);
        execute format('alter table okcm.%I force row level security', tenant_table);
        execute format('create policy signed on okcm.%I as restrictive for all to public '
                       'using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()))', tenant_table);
    end loop;
    -- A partition that is named directly does not see its parent's policies: it has none, so nobody sees its rows.
    for n in 0..15 loop
        execute format('alter table okcm.audit_event_%s enable row level security', to_char(n, 'FM00'));
        execute format('alter table okcm.audit_event_%s force row level security', to_char(n, 'FM00'));
    end loop;
end
$$;

-- The worker and the operator work inside one tenant at a time, on everything the grants below let them.
do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['tenant', 'marketplace_event', 'operation_step', 'key', 'certificate_authority',
                                        'route', 'boundary_result', 'outbox', 'audit_head', 'audit_signed_head',
                                        'audit_event'] loop
        execute format('create policy own_rows on okcm.%I to okcm_worker '
                       'using (tenant_id = (select current_setting(''app.tenant_id'', true))) '
                       'with check (tenant_id = (select current_setting(''app.tenant_id'', true)))', tenant_table);
        execute format('create policy own_rows_operator on okcm.%I for select to okcm_operator '
                       'using (tenant_id = (select current_setting(''app.tenant_id'', true)))', tenant_table);
    end loop;
    foreach tenant_table in array array['tenant', 'marketplace_event', 'operation_step'] loop
        execute format('create policy own_rows_marketplace on okcm.%I to okcm_marketplace '
                       'using (tenant_id = (select current_setting(''app.tenant_id'', true))) '
                       'with check (tenant_id = (select current_setting(''app.tenant_id'', true)))', tenant_table);
    end loop;
    -- The functions that keep the audit stream run as the owner and work inside one tenant too.
    foreach tenant_table in array array['audit_head', 'audit_signed_head', 'audit_event'] loop
        execute format('create policy own_rows_owner on okcm.%I to okcm_owner '
                       'using (tenant_id = (select current_setting(''app.tenant_id'', true))) '
                       'with check (tenant_id = (select current_setting(''app.tenant_id'', true)))', tenant_table);
    end loop;
end
$$;
-- Of the announcements the marketplace shows the ready text and nothing else.
create policy ready_text on okcm.outbox for select to okcm_marketplace
    using (tenant_id = (select current_setting('app.tenant_id', true)) and kind = 'ready');
-- Whoever creates a tenant, it begins at the beginning; the moves after that are updates.
create policy begins_requested on okcm.tenant as restrictive for insert to public with check (state = 'requested');

-- The platform's own questions span tenants. They need a context signed for '*', which can never be a tenant's id, and
-- even then only the operator sees rows; other roles get an answer only from the functions in 0005, which run as the owner.
create policy every_tenant on okcm.tenant for select to okcm_operator
    using ((select current_setting('app.tenant_id', true)) = '*');
create policy platform_questions on okcm.marketplace_event for select to okcm_owner
    using ((select current_setting('app.tenant_id', true)) = '*');
create policy platform_questions on okcm.certificate_authority for select to okcm_owner
    using ((select current_setting('app.tenant_id', true)) = '*');
create policy platform_questions on okcm.outbox for select to okcm_owner
    using ((select current_setting('app.tenant_id', true)) = '*');
create policy platform_questions on okcm.audit_head for select to okcm_owner
    using ((select current_setting('app.tenant_id', true)) = '*');

grant usage on schema okcm to okcm_worker, okcm_marketplace, okcm_operator;

-- The marketplace endpoint faces the internet: it may store what came in and show how far a tenant is.
grant select, insert (tenant_id, organization, region) on okcm.tenant to okcm_marketplace;
-- It hands events to Temporal and notes that it did; it cannot change what an event said.
grant select, insert (tenant_id, event_id, kind, organization, region, occurred_at), update (started_at)
    on okcm.marketplace_event to okcm_marketplace;
grant select on okcm.operation_step, okcm.outbox to okcm_marketplace;

-- The worker provisions. It creates the canary tenant itself, hence the two inserts.
grant select, insert (tenant_id, organization, region), update (state, ready_at, promise_broken_at)
    on okcm.tenant to okcm_worker;
grant select, insert (tenant_id, event_id, kind, organization, region, occurred_at), update (started_at)
    on okcm.marketplace_event to okcm_worker;
grant select, insert (tenant_id, operation_id, step, number),
    update (state, attempts, started_at, finished_at, problem) on okcm.operation_step to okcm_worker;
-- Keys, authorities and evidence are recorded once; nothing rewrites or deletes them.
grant select, insert (tenant_id, name, kind, version) on okcm.key to okcm_worker;
grant select, insert (tenant_id, serial, certificate_pem, chain_pem, not_after)
    on okcm.certificate_authority to okcm_worker;
grant select, insert (tenant_id, number, operation_id, clause, name, outcome, seconds, evidence)
    on okcm.boundary_result to okcm_worker;
-- The one thing it may delete: rollback withdraws a route, so that a tenant that is not ready cannot be reached.
grant select, insert (tenant_id, l2_key, issuer_fingerprint, region),
    update (l2_key, issuer_fingerprint, region, published_at), delete on okcm.route to okcm_worker;
grant select, insert (tenant_id, message_id, channel, kind, subject, body), update (sent_at)
    on okcm.outbox to okcm_worker;
-- The audit stream grows only through okcm.audit_append (0004).
grant select on okcm.audit_event, okcm.audit_head, okcm.audit_signed_head to okcm_worker;

-- The operator looks and never touches; changes go through Temporal, where they are checked and audited.
grant select on okcm.tenant, okcm.marketplace_event, okcm.operation_step, okcm.key, okcm.certificate_authority,
    okcm.route, okcm.boundary_result, okcm.outbox, okcm.audit_event, okcm.audit_head, okcm.audit_signed_head
    to okcm_operator;
