-- Receivers of notifications that a tenant chooses (core/notifications/targets.py).

-- `muted` are the events and groups of events that a target does not get. `number` limits a tenant to ten targets.
-- `shown_address` is the address without the parts that can contain a secret, for operators. `sealed` is the signing
-- secret of a webhook, encrypted for the worker (config/credential_encryption.py) and bound to `target_id` and
-- `secret_number`. `former_sealed` is the secret before; it also signs until `former_until`.
create table okcm.notification_target (
    tenant_id     text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    target_id     text not null check (target_id ~ '^[0-9a-f]{32}$'),
    number        smallint not null check (number between 1 and 10),
    kind          text not null check (kind in ('email', 'webhook')),
    label         text not null check (length(label) between 1 and 60),
    address       text not null check (length(address) between 3 and 500),
    shown_address text not null check (length(shown_address) between 3 and 500),
    muted         text[] not null default '{}' check (cardinality(muted) <= 100),
    paused        boolean not null default false,
    secret_number integer not null default 1 check (secret_number > 0),
    sealed        text check (length(sealed) <= 4000),
    former_sealed text check (length(former_sealed) <= 4000),
    former_until  timestamptz,
    created_at    timestamptz not null default clock_timestamp(),
    primary key (tenant_id, target_id),
    constraint notification_target_number unique (tenant_id, number),
    foreign key (tenant_id) references okcm.tenant,
    constraint notification_target_secret_check check ((kind = 'webhook') = (sealed is not null)),
    constraint notification_target_former_check check ((former_sealed is null) = (former_until is null))
);
grant select, update (sealed, former_sealed, former_until) on okcm.notification_target to okcm_worker;
grant select (tenant_id, target_id, number, kind, label, shown_address, muted, paused, secret_number, former_until,
    created_at) on okcm.notification_target to okcm_operator;
grant select (tenant_id, target_id, number, kind, label, address, shown_address, muted, paused, secret_number,
        former_until, created_at),
    insert (tenant_id, target_id, number, kind, label, address, shown_address, muted, sealed),
    update (muted, paused, secret_number, sealed), delete on okcm.notification_target to okcm_dashboard;

-- Keep the replaced secret for a day, so that the receiver can change to the new one at any time. A trigger, because
-- the dashboard cannot read an encrypted secret. The worker encrypts a secret again under the same number.
create function okcm.replace_target_secret() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if new.secret_number <> old.secret_number + 1 or new.sealed is not distinct from old.sealed then
        raise check_violation using message = 'a secret is replaced by a new one with the next number';
    end if;
    new.former_sealed := old.sealed;
    new.former_until := clock_timestamp() + interval '24 hours';
    return new;
end
$$;
revoke execute on function okcm.replace_target_secret() from public;
create trigger target_secret_replaced before update of secret_number on okcm.notification_target for each row
    when (old.secret_number is distinct from new.secret_number) execute function okcm.replace_target_secret();

alter table okcm.notification_target enable row level security, force row level security;
create policy signed on okcm.notification_target as restrictive for all to public
    using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()));
create policy own_rows on okcm.notification_target for all to okcm_worker
    using ((tenant_id = (select current_setting('app.tenant_id', true))))
    with check ((tenant_id = (select current_setting('app.tenant_id', true))));
create policy own_rows_operator on okcm.notification_target for select to okcm_operator
    using ((tenant_id = (select current_setting('app.tenant_id', true))));
create policy own_rows_dashboard on okcm.notification_target for all to okcm_dashboard
    using ((tenant_id = (select current_setting('app.tenant_id', true))))
    with check ((tenant_id = (select current_setting('app.tenant_id', true))));
create policy platform_questions on okcm.notification_target for select to okcm_owner
    using (((select current_setting('app.tenant_id', true)) = '*'));
create policy erase on okcm.notification_target for all to okcm_owner
    using ((tenant_id = (select current_setting('app.tenant_id', true))))
    with check ((tenant_id = (select current_setting('app.tenant_id', true))));
create policy while_destroying on okcm.notification_target as restrictive for all to okcm_owner
    using (((select current_setting('app.tenant_id', true)) = '*') or (select okcm.is_destroying()));

-- A message to a target names it. There is no foreign key: the delivery log outlives a removed target. `response` is the
-- status of a webhook's receiver that accepted the message. The wider constraints hold for all existing rows.
alter table okcm.outbox
    add column target_id text,
    add column response smallint,
    drop constraint outbox_channel_check,
    drop constraint outbox_kind_check,
    add constraint outbox_channel_check check (channel in ('callback', 'email', 'target-email', 'target-webhook'))
        not valid,
    add constraint outbox_kind_check check (kind in (
        'ready', 'delayed', 'failed', 'locked', 'unlocked', 'root-key-warning', 'root-key-changed', 'keys-rotated',
        'certificate-renewal-overdue', 'certificate-expired', 'approval-pending', 'offboarding-started',
        'offboarding-reminder', 'restored', 'offboarded', 'rotation-stalled', 'isolation-breached', 'test'))
        not valid,
    add constraint outbox_target_check check ((target_id is not null) = (channel in ('target-email', 'target-webhook'))
        and target_id ~ '^[0-9a-f]{32}$') not valid,
    add constraint outbox_response_check check (response between 100 and 599) not valid;
grant insert (target_id), update (response) on okcm.outbox to okcm_worker;
grant select (tenant_id, message_id, channel, kind, added_at, sent_at, attempts, next_try, problem, expired_at, target_id,
    response) on okcm.outbox to okcm_dashboard;
create policy own_rows_dashboard on okcm.outbox for select to okcm_dashboard
    using ((tenant_id = (select current_setting('app.tenant_id', true))));

-- Return the queues of targets whose oldest unsent message is due, the longest waiting first. Tests have a separate
-- queue, so that a test does not wait for earlier messages. As due_notifications, which returns the platform's channels.
create function okcm.due_deliveries(at_most integer)
returns table (tenant_id text, channel text, target_id text, of_tests boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select oldest.tenant_id, oldest.channel, oldest.target_id, oldest.of_tests from (
            select distinct on (o.tenant_id, o.target_id, o.kind = 'test') o.tenant_id, o.channel, o.target_id,
                   o.kind = 'test' as of_tests, o.next_try, o.added_at
            from okcm.outbox o
            where o.channel in ('target-email', 'target-webhook') and o.sent_at is null and o.expired_at is null
            order by o.tenant_id, o.target_id, o.kind = 'test', o.added_at, o.message_id) as oldest
        where oldest.next_try <= statement_timestamp()
        and oldest.added_at <= statement_timestamp() - interval '10 seconds'
        order by oldest.next_try limit at_most;
end
$$;
revoke execute on function okcm.due_deliveries(integer) from public;
grant execute on function okcm.due_deliveries(integer) to okcm_worker;

-- Return tenants with a signing secret in order of id, from the first behind `after`: the worker encrypts these secrets
-- again while the intake key is replaced.
create function okcm.tenants_with_webhooks(after text, at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select distinct n.tenant_id from okcm.notification_target n
        where n.tenant_id > after and n.kind = 'webhook' order by n.tenant_id limit at_most;
end
$$;
revoke execute on function okcm.tenants_with_webhooks(text, integer) from public;
grant execute on function okcm.tenants_with_webhooks(text, integer) to okcm_worker;

-- As before, but only of the platform's channels: processes of the former version do not know the others.
create or replace function okcm.undelivered_notifications(since interval, at_most integer)
returns table (tenant_id text, message_id text, channel text, kind text, added_at timestamptz, attempts integer,
               next_try timestamptz, problem text, expired_at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select o.tenant_id, o.message_id, o.channel, o.kind, o.added_at, o.attempts, o.next_try, o.problem,
               o.expired_at
        from okcm.outbox o
        where o.sent_at is null and o.problem is not null and o.target_id is null
        and (o.expired_at is null or o.expired_at > statement_timestamp() - since)
        order by o.expired_at desc nulls last, o.added_at, o.tenant_id, o.message_id limit at_most;
end
$$;

-- As before, and the targets.
create or replace function okcm.erased_tables() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$
    select array[
        'protected_field', 'protection', 'agent', 'protection_use', 'backfill', 'key_probe', 'report',
        'managed_object', 'service_key', 'service_certificate', 'service_request', 'service',
        'root_key_change', 'root_key_request', 'root_key', 'tenant_policy', 'rotation', 'usage_minute',
        'usage_hour', 'usage_day', 'usage_batch', 'approval', 'dashboard_session',
        'certificate_revocation_list', 'outbox', 'notification_target', 'operation_step', 'route', 'key',
        'join_token', 'enrolment', 'discovery']
$$;
