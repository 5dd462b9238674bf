-- The agents beside customers' services: when each was last heard of and how it is, and what services say of their own
-- encryption. Both come from customers' machines through the crypto service, are claims and no evidence, and are bounded.

-- One row an instance. Who was not heard of for 30 days is forgotten, and of a service the 50 heard of last are kept.
create table okcm.agent (
    tenant_id             text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    service               text not null,
    instance              text not null check (instance ~ '^[A-Za-z0-9._-]{1,64}$'),
    agent_version         text not null check (agent_version ~ '^[A-Za-z0-9._+-]{1,64}$'),
    certificate_not_after timestamptz not null,
    problem               text check (problem ~ '^[a-z][a-z0-9_]{0,59}$'),
    first_contact_at      timestamptz not null,
    last_contact_at       timestamptz not null,
    primary key (tenant_id, service, instance),
    foreign key (tenant_id, service) references okcm.service
) with (fillfactor = 70);

-- What a service's own programs encrypted and decrypted at one place (such as public.customers.ssn) on one UTC day, how
-- long that took, and how long the requests took in which it happened. Only they can know: the data never comes here.
create table okcm.protection_use (
    tenant_id            text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    day                  date not null,
    service              text not null,
    place                text not null check (length(place) between 1 and 200),
    operations           bigint not null check (operations >= 0),
    bytes                bigint not null check (bytes >= 0),
    microseconds         bigint not null check (microseconds >= 0),
    requests             bigint not null check (requests >= 0),
    request_microseconds bigint not null check (request_microseconds >= 0),
    primary key (tenant_id, day, service, place),
    foreign key (tenant_id, service) references okcm.service
) with (fillfactor = 70);

do $$
declare
    tenant_table text;
    body text;
    mine constant text := '(tenant_id = (select current_setting(''app.tenant_id'', true)))';
    for_all constant text := '(select current_setting(''app.tenant_id'', true)) = ''*''';
begin
    foreach tenant_table in array array['agent', 'protection_use'] loop
        execute format('alter table okcm.%I enable row level security', tenant_table);
        execute format('alter table okcm.%I force row level security', tenant_table);
        execute format('create policy signed on okcm.%I as restrictive for all to public '
                       'using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()))', tenant_table);
        execute format('create policy own_rows on okcm.%I for select to okcm_worker using %s', tenant_table, mine);
        execute format('create policy own_rows_dashboard on okcm.%I for select to okcm_dashboard using %s',
                       tenant_table, mine);
        execute format('create policy own_rows_crypto on okcm.%I to okcm_crypto using %s with check %s',
                       tenant_table, mine, mine);
        -- As 0016 has it for every table that is erased.
        execute format('create policy while_destroying on okcm.%I as restrictive for all to okcm_owner using (%s or %s)',
                       tenant_table, for_all, '(select okcm.is_destroying())');
        execute format('create policy erase on okcm.%I to okcm_owner using %s with check %s',
                       tenant_table, mine, mine);
    end loop;
    execute format('create policy own_rows_operator on okcm.agent for select to okcm_operator using %s', mine);
    -- Two more tables that go with a tenant, before the service that they refer to; whatever the others are by now.
    select pg_get_functiondef('okcm.erase_tenant(integer)'::regprocedure) into strict body;
    if position('array[''managed_object''' in body) = 0 then
        raise exception 'okcm.erase_tenant is not as this migration knows it';
    end if;
    execute replace(body, 'array[''managed_object''', 'array[''agent'', ''protection_use'', ''managed_object''');
end
$$;

-- The crypto service says who was heard of and forgets old ones; of uses it counts up and deletes nothing.
grant select, delete, insert (tenant_id, service, instance, agent_version, certificate_not_after, problem,
                              first_contact_at, last_contact_at),
    update (agent_version, certificate_not_after, problem, last_contact_at) on okcm.agent to okcm_crypto;
grant select, insert (tenant_id, day, service, place, operations, bytes, microseconds, requests, request_microseconds),
    update (operations, bytes, microseconds, requests, request_microseconds) on okcm.protection_use to okcm_crypto;
grant select on okcm.agent, okcm.protection_use to okcm_dashboard;
-- An operator helps whose agent does not renew, and sees none of what a customer does with its keys (0009).
grant select on okcm.agent to okcm_operator;
-- Whose rows these are and nothing in them: enough for the boundary gate to attack the tables (database/attacks.py).
grant select (tenant_id) on okcm.agent, okcm.protection_use to okcm_worker;
