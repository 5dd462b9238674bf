-- Compliance reports: what was asked for, what was stated when, and the signed files. They show what a tenant's services
-- do with their keys, so an operator's role sees none of it (0009): whoever speaks for the tenant asks through the dashboard's.

-- A request says whose, which period and for whom. What the worker adds it adds once: the stated section with the record of
-- the audit stream that has its digest, then the files; nobody changes any of it afterwards.
create table okcm.report (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    report_id    text not null check (report_id ~ '^[0-9a-f]{32}$'),
    since        timestamptz not null,
    until        timestamptz not null,
    made_for     text not null check (length(made_for) between 1 and 300),
    requested_at timestamptz not null default clock_timestamp(),
    stated       text check (length(stated) between 2 and 10000000),
    stated_at    timestamptz,
    seq          bigint check (seq > 0),
    json         bytea check (length(json) between 1 and 20000000),
    html         bytea check (length(html) between 1 and 60000000),
    pdf          bytea check (length(pdf) between 1 and 60000000),
    made_at      timestamptz,
    primary key (tenant_id, report_id),
    foreign key (tenant_id) references okcm.tenant,
    constraint report_period_check check (since < until and until <= since + interval '1100 days'),
    constraint report_bound_check check ((stated is null) = (stated_at is null) and (stated is null) = (seq is null)),
    constraint report_whole_check check (made_at is null or (stated is not null and json is not null))
);
create index report_newest on okcm.report (tenant_id, requested_at desc);

-- With the rights of whoever updates. What is stated is bound to the stream, and a file to its signature: there is no second.
create function okcm.refuse_second_report() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if old.made_at is not null or (old.stated is not null
        and (new.stated, new.stated_at, new.seq) is distinct from (old.stated, old.stated_at, old.seq)) then
        raise insufficient_privilege using message = 'a report is made once';
    end if;
    return new;
end
$$;
revoke execute on function okcm.refuse_second_report() from public;
create trigger made_once before update on okcm.report
    for each row execute function okcm.refuse_second_report();
alter table okcm.report enable always trigger made_once;

do $$
declare
    body text;
    mine constant text := '(tenant_id = (select current_setting(''app.tenant_id'', true)))';
    for_all constant text := '(select current_setting(''app.tenant_id'', true)) = ''*''';
begin
    alter table okcm.report enable row level security;
    alter table okcm.report force row level security;
    create policy signed on okcm.report as restrictive for all to public
        using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()));
    execute format('create policy own_rows on okcm.report to okcm_worker using %s with check %s', mine, mine);
    execute format('create policy own_rows_dashboard on okcm.report to okcm_dashboard using %s with check %s', mine, mine);
    -- As 0016 has it for every table that is erased: names of services and people are in it, the customer has the files,
    -- and the stream, which stays, has the digest of each.
    execute format('create policy while_destroying on okcm.report as restrictive for all to okcm_owner using (%s or %s)',
                   for_all, '(select okcm.is_destroying())');
    execute format('create policy erase on okcm.report to okcm_owner using %s with check %s', mine, mine);
    -- One more table that goes with a tenant; whatever the others are by now.
    select pg_get_functiondef('okcm.erase_tenant(integer)'::regprocedure) into strict body;
    if position('''managed_object'', ' in body) = 0 then
        raise exception 'okcm.erase_tenant is not as this migration knows it';
    end if;
    execute replace(body, '''managed_object'', ', '''report'', ''managed_object'', ');
end
$$;

grant select, insert (tenant_id, report_id, since, until, made_for) on okcm.report to okcm_dashboard;
grant select, update (stated, stated_at, seq, json, html, pdf, made_at) on okcm.report to okcm_worker;

-- What a report states of coverage the worker reads as the dashboard does (database/coverage.py): how often which operation
-- was asked for, names of places, states of objects. Neither key material nor anything that a customer encrypts.
grant select (day, service, operation, refusal, count) on okcm.usage_day to okcm_worker;
grant select (day, service, place, operations, bytes, microseconds, requests, request_microseconds)
    on okcm.protection_use to okcm_worker;
grant select (service, store, place, field, mode, plain_allowed) on okcm.protected_field to okcm_worker;
grant select on okcm.agent, okcm.backfill, okcm.discovery to okcm_worker;
grant select (service, state) on okcm.managed_object to okcm_worker;
