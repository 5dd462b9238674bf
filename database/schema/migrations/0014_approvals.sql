-- Four eyes: what a tenant wants two people for, who asks for it, who says yes, and that each yes opens one thing once.

alter table okcm.tenant_policy add column four_eyes text[] not null default '{}' check (four_eyes <@ array[
    'lock', 'root-key-to-platform', 'change-policy', 'offboard', 'compromise', 'retire-key-version']);

-- One request. Its time begins when the worker admits it, and only the worker says what becomes of it. `argument` is what
-- exactly is asked for, in public facts; `used_by` the operation that did what was approved.
create table okcm.approval (
    tenant_id      text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    approval_id    text not null check (approval_id ~ '^[0-9a-f]{32}$'),
    action         text not null check (action in (
        'lock', 'root-key-to-platform', 'change-policy', 'offboard', 'compromise', 'retire-key-version')),
    argument       jsonb not null default '{}' check (jsonb_typeof(argument) = 'object' and length(argument::text) <= 2000),
    requested_by   text not null check (length(requested_by) between 1 and 300),
    requested_name text not null check (length(requested_name) <= 300),
    requested_at   timestamptz not null default clock_timestamp(),
    state          text not null default 'asked' check (state in (
        'asked', 'pending', 'approved', 'refused', 'expired', 'withdrawn', 'done', 'failed')),
    expires_at     timestamptz,
    decided_by     text,
    decided_name   text,
    decided_at     timestamptz,
    used_by        text check (length(used_by) between 1 and 100),
    reason         text check (length(reason) between 1 and 60),
    primary key (tenant_id, approval_id),
    foreign key (tenant_id) references okcm.tenant,
    -- Whatever a program gets wrong: nothing counts as approved by nobody, or by whoever asked for it.
    constraint approval_two_people_check check (state not in ('approved', 'done', 'failed')
        or (decided_by is not null and decided_by <> requested_by and expires_at is not null)),
    constraint approval_used_check check (used_by is null or state in ('approved', 'done', 'failed'))
);
create index approval_open on okcm.approval (tenant_id, expires_at) where state = 'pending';

-- What one person said of a request, once. `roles` are those of the sign-on.
create table okcm.approval_vote (
    tenant_id   text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    approval_id text not null,
    subject     text not null check (length(subject) between 1 and 300),
    name        text not null check (length(name) <= 300),
    roles       text[] not null check (roles <@ array['administrator', 'key-administrator', 'auditor', 'operator']),
    choice      text not null check (choice in ('approve', 'decline', 'withdraw')),
    voted_at    timestamptz not null default clock_timestamp(),
    primary key (tenant_id, approval_id, subject),
    -- They refer to each other, so that what nobody but the end of a tenant deletes (0016) goes together.
    foreign key (tenant_id, approval_id) references okcm.approval on delete cascade
);
-- Nor by somebody of whom there is no word.
alter table okcm.approval add constraint approval_decided_by_fkey
    foreign key (tenant_id, approval_id, decided_by) references okcm.approval_vote (tenant_id, approval_id, subject);

-- Who asks and who says something is signed on at this moment, under that very name (with the rights of whoever inserts).
create function okcm.require_signed_on() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    perform from okcm.dashboard_session s
        where s.tenant_id = new.tenant_id and s.subject = to_jsonb(new) ->> tg_argv[0]
        and s.ended_at is null and s.expires_at > clock_timestamp();
    if not found then
        raise insufficient_privilege using message = 'nobody of that name is signed on';
    end if;
    return new;
end
$$;
revoke execute on function okcm.require_signed_on() from public;
create trigger signed_on before insert on okcm.approval
    for each row execute function okcm.require_signed_on('requested_by');
create trigger signed_on before insert on okcm.approval_vote
    for each row execute function okcm.require_signed_on('subject');

do $$
declare
    tenant_table text;
    kinds text;
    mine constant text := '(tenant_id = (select current_setting(''app.tenant_id'', true)))';
begin
    foreach tenant_table in array array['approval', 'approval_vote'] loop
        execute format('alter table okcm.%I enable row level security', tenant_table);
        execute format('alter table okcm.%I force row level security', tenant_table);
        execute format('create policy signed on okcm.%I as restrictive for all to public '
                       'using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()))', tenant_table);
        execute format('create policy own_rows_operator on okcm.%I for select to okcm_operator using %s',
                       tenant_table, mine);
        execute format('create policy own_rows_dashboard on okcm.%I to okcm_dashboard using %s with check %s',
                       tenant_table, mine, mine);
    end loop;
    execute format('create policy own_rows on okcm.approval to okcm_worker using %s with check %s', mine, mine);
    execute format('create policy own_rows on okcm.approval_vote for select to okcm_worker using %s', mine);
    -- One more kind of message; whatever the others are by now.
    select pg_get_expr(conbin, conrelid) into strict kinds from pg_constraint
        where conrelid = 'okcm.outbox'::regclass and conname = 'outbox_kind_check';
    alter table okcm.outbox drop constraint outbox_kind_check;
    execute format('alter table okcm.outbox add constraint outbox_kind_check check (%s or kind = %L)',
                   kinds, 'approval-waiting');
end
$$;

grant insert (four_eyes), update (four_eyes) on okcm.tenant_policy to okcm_worker;
-- The worker decides, and neither asks nor votes.
grant select, update (state, expires_at, decided_by, decided_name, decided_at, used_by, reason) on okcm.approval
    to okcm_worker;
grant select on okcm.approval_vote to okcm_worker;
-- The dashboard asks and votes, and decides nothing.
grant select, insert (tenant_id, approval_id, action, argument, requested_by, requested_name) on okcm.approval
    to okcm_dashboard;
grant select, insert (tenant_id, approval_id, subject, name, roles, choice) on okcm.approval_vote to okcm_dashboard;
grant select on okcm.approval, okcm.approval_vote to okcm_operator;
