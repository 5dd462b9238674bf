-- How far services are with encrypting the rows from before their protection: one row a place, as they say themselves.
-- It is done at the customer; neither the data nor the database's password ever comes here.

create table okcm.backfill (
    tenant_id text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    service   text not null,
    place     text not null check (length(place) between 1 and 200),
    done      bigint not null check (done >= 0),
    remaining bigint not null check (remaining >= 0),
    state     text not null check (state in ('running', 'waiting', 'finished', 'stopped', 'undoing', 'undone')),
    told_at   timestamptz not null,
    primary key (tenant_id, service, place),
    foreign key (tenant_id, service) references okcm.service
) with (fillfactor = 70);

do $$
declare
    body text;
    mine constant text := '(tenant_id = (select current_setting(''app.tenant_id'', true)))';
    for_all constant text := '(select current_setting(''app.tenant_id'', true)) = ''*''';
begin
    alter table okcm.backfill enable row level security;
    alter table okcm.backfill force row level security;
    create policy signed on okcm.backfill as restrictive for all to public
        using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()));
    execute format('create policy own_rows on okcm.backfill for select to okcm_worker using %s', mine);
    execute format('create policy own_rows_dashboard on okcm.backfill for select to okcm_dashboard using %s', mine);
    execute format('create policy own_rows_crypto on okcm.backfill to okcm_crypto using %s with check %s', mine, mine);
    -- As 0016 has it for every table that is erased.
    execute format('create policy while_destroying on okcm.backfill as restrictive for all to okcm_owner using (%s or %s)',
                   for_all, '(select okcm.is_destroying())');
    execute format('create policy erase on okcm.backfill to okcm_owner using %s with check %s', mine, mine);
    -- It goes with a tenant, before the service that it refers to; whatever the others are by now.
    select pg_get_functiondef('okcm.erase_tenant(integer)'::regprocedure) into strict body;
    if position('''managed_object'', ' in body) = 0 then
        raise exception 'okcm.erase_tenant is not as this migration knows it';
    end if;
    execute replace(body, '''managed_object'', ', '''backfill'', ''managed_object'', ');
end
$$;

-- The crypto service writes what it is told, and forgets what was told first when a service tells of too many places.
grant select, delete, insert (tenant_id, service, place, done, remaining, state, told_at),
    update (done, remaining, state, told_at) on okcm.backfill to okcm_crypto;
grant select on okcm.backfill to okcm_dashboard;
-- Whose rows these are and nothing in them: enough for the boundary gate to attack the table (database/attacks.py).
-- An operator sees none of what a customer does with its data.
grant select (tenant_id) on okcm.backfill to okcm_worker;
