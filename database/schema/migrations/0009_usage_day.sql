-- Usage by the day: what the dashboard's Usage page and reports read, filled in the same statement as usage_minute.
--
-- A year of minutes of a tenant with 20 services is some five million rows; adding them up took seconds where an
-- interaction may take half of one. By the day the same year is some 40,000 rows. The minutes stay as they are, for now
-- without an end: whoever gives them one finds every sum that is shown in here.
--
-- `refusal` is the code of the error, empty for what was answered, so that "how many" and "why" are one row's answer.
-- `latency` counts how long they took inside the crypto service, in the buckets of tenancy/latency.py: an array rather
-- than forty columns, because each is read with all the others; and here rather than in usage_minute, where it would be
-- larger than all the rest and nobody asks. What nobody timed (refused connections, journals from before this) is in no
-- bucket, so the buckets can add up to less than `count`.
create table okcm.usage_day (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    day          date not null,
    service      text not null check (service ~ '^([a-z0-9][a-z0-9-]{0,39})?$'),
    operation    text not null check (operation ~ '^[a-z][a-z-]{0,39}$'),
    refusal      text not null check (length(refusal) <= 100),
    count        bigint not null check (count >= 0),
    bytes        bigint not null check (bytes >= 0),
    microseconds bigint not null check (microseconds >= 0),
    latency      bigint[] not null check (
        cardinality(latency) = 40 and array_position(latency, null) is null and 0 <= all (latency)),
    primary key (tenant_id, day, service, operation, refusal),
    foreign key (tenant_id) references okcm.tenant
) with (fillfactor = 70);

-- What was counted before. Its owner does not see a tenant's rows while row security is forced; this is one transaction,
-- so nobody meets the table in between.
alter table okcm.usage_minute no force row level security;
insert into okcm.usage_day (tenant_id, day, service, operation, refusal, count, bytes, microseconds, latency)
    select tenant_id, day, service, operation, split.refusal, split.count, split.bytes, 0, array_fill(0::bigint, array[40])
    from (
        select tenant_id, (minute at time zone 'UTC')::date as day, service, operation,
               sum(count - refused) as answered, sum(refused) as refused, sum(bytes) as bytes
        from okcm.usage_minute group by 1, 2, 3, 4
    ) as sums,
    lateral (values ('', answered, sums.bytes), ('not_recorded', refused, 0)) as split (refusal, count, bytes)
    where split.count > 0;
alter table okcm.usage_minute force row level security;

do $$
declare
    mine constant text := '(tenant_id = (select current_setting(''app.tenant_id'', true)))';
begin
    alter table okcm.usage_day enable row level security;
    alter table okcm.usage_day force row level security;
    create policy signed on okcm.usage_day as restrictive for all to public
        using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()));
    execute format('create policy own_rows on okcm.usage_day for select to okcm_worker using %s', mine);
    execute format('create policy own_rows_dashboard on okcm.usage_day for select to okcm_dashboard using %s', mine);
    execute format('create policy own_rows_crypto on okcm.usage_day to okcm_crypto using %s with check %s', mine, mine);
end
$$;

-- As usage_minute: the crypto service counts up and deletes nothing. An operator sees none of what a customer does with its keys.
grant select, insert (tenant_id, day, service, operation, refusal, count, bytes, microseconds, latency),
    update (count, bytes, microseconds, latency) on okcm.usage_day to okcm_crypto;
grant select on okcm.usage_day to okcm_dashboard;
-- Whose rows these are and nothing in them: enough for the boundary gate to attack the table (database/attacks.py).
grant select (tenant_id) on okcm.usage_day to okcm_worker;
