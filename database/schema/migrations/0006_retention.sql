-- Retention: rows are deleted after their retention, and old records of an audit stream after a signed archive has them.
-- core/retention.py lists every table with its default and its reason; a test compares it with this schema.

-- ===== Deletion of expired rows =====

-- A request is used again by each renewal of its service's certificate. A request that no certificate was issued for
-- within its retention belongs to no valid certificate: those live at most 72 hours.
alter table okcm.service_request add column used_at timestamptz not null default now();
grant update (used_at) on okcm.service_request to okcm_worker;
create function okcm.mark_request_used() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    update okcm.service_request set used_at = clock_timestamp()
        where tenant_id = new.tenant_id and request_id = new.request_id;
    return null;
end
$$;
revoke execute on function okcm.mark_request_used() from public;
create trigger request_used after insert on okcm.service_certificate
    for each row execute function okcm.mark_request_used();

-- Return the tables with a retention: the column of a row's age, the least number of days that any caller must grant,
-- and the further condition for a deletion. $1 is the time before which rows are expired. The owner sees only expired
-- rows (while_destroying), so a condition must hold among these alone: "a newer one" is a newer expired row.
create function okcm.retention_rules() returns table (name text, age text, minimum integer, deletable text)
language sql immutable set search_path = pg_catalog, pg_temp
as $$
    values
        ('approval', 'requested_at', 400, 'r.state not in (''asked'', ''pending'', ''approved'')'),
        -- Results of the gate have no line; those of an assessment with a breach stay as long as its lines.
        ('boundary_result', 'recorded_at', 14,
            'exists (select from okcm.boundary_clause c where c.tenant_id = r.tenant_id'
            ' and c.examined_at = r.recorded_at and c.clause = r.clause)'
            ' and (r.recorded_at < $1 - interval ''386 days'' or not exists (select from okcm.boundary_clause b'
            ' where b.tenant_id = r.tenant_id and b.examined_at = r.recorded_at and b.breached > 0))'),
        ('boundary_clause', 'examined_at', 90,
            'not exists (select from okcm.boundary_result b where b.tenant_id = r.tenant_id'
            ' and b.recorded_at = r.examined_at)'),
        ('dashboard_session', 'expires_at', 30, 'true'),
        ('enrolment', 'requested_at', 30, 'r.state <> ''pending'''),
        ('join_token', 'expires_at', 30, 'true'),
        -- The last word of the marketplace decides about late events, so the newest enable or disable stays.
        ('marketplace_event', 'accepted_at', 90,
            'r.started_at is not null and (r.kind = ''service_discovered'' or exists ('
            'select from okcm.marketplace_event n where n.tenant_id = r.tenant_id and n.accepted_at < $1'
            ' and n.kind in (''service_enabled'', ''service_disabled'') and (n.occurred_at, n.accepted_at, n.event_id)'
            ' > (r.occurred_at, r.accepted_at, r.event_id)))'),
        -- The newest operation stays: it is the one that pages and alerts show.
        ('operation_step', 'planned_at', 30,
            'exists (select from okcm.operation_step n where n.tenant_id = r.tenant_id and n.planned_at < $1'
            ' and n.planned_at > r.planned_at and n.operation_id <> r.operation_id)'),
        ('outbox', 'added_at', 30, 'r.sent_at is not null or r.expired_at is not null'),
        ('protection_use', 'day', 400, 'true'),
        ('report', 'requested_at', 90, 'true'),
        ('root_key_change', 'started_at', 400,
            'r.state <> ''running'' and exists (select from okcm.root_key_change n where n.tenant_id = r.tenant_id'
            ' and n.number > r.number and n.started_at < $1)'),
        ('root_key_request', 'requested_at', 30, 'r.sealed is null'),
        ('rotation', 'started_at', 400,
            'r.state <> ''running'' and exists (select from okcm.rotation n where n.tenant_id = r.tenant_id'
            ' and n.number > r.number and n.state = ''done'' and n.started_at < $1)'),
        -- A generation is never reused, so the newest certificate of a service stays.
        ('service_certificate', 'not_after', 90,
            'exists (select from okcm.service_certificate n where n.tenant_id = r.tenant_id and n.service = r.service'
            ' and n.generation > r.generation and n.not_after < $1)'),
        ('service_request', 'used_at', 90, 'true'),
        -- Longer than the write-ahead log keeps an undelivered batch.
        ('usage_batch', 'added_at', 90, 'true'),
        ('usage_day', 'day', 400, 'true'),
        ('usage_minute', 'minute', 30, 'true')
$$;
revoke execute on function okcm.retention_rules() from public;

create index outbox_age on okcm.outbox (tenant_id, added_at);
create index service_request_age on okcm.service_request (tenant_id, used_at);
create index service_certificate_age on okcm.service_certificate (tenant_id, not_after);
create index marketplace_event_age on okcm.marketplace_event (tenant_id, accepted_at);
create index enrolment_age on okcm.enrolment (tenant_id, requested_at);
create index join_token_age on okcm.join_token (tenant_id, expires_at);

-- The owner reaches rows older than the least retention, and no younger ones except during a destruction. Results of
-- isolation assessments have such a policy already (only_old). The platform reads which tenants have expired rows.
do $$
declare
    own_rows constant text := '(tenant_id = (select current_setting(''app.tenant_id'', true)))';
    platform constant text := '((select current_setting(''app.tenant_id'', true)) = ''*'')';
    rule record;
begin
    for rule in select * from okcm.retention_rules() loop
        if exists (select from pg_policies p where p.schemaname = 'okcm' and p.tablename = rule.name
                   and p.policyname = 'while_destroying') then
            execute format('alter policy while_destroying on okcm.%I using (%s or (select okcm.is_destroying())'
                           ' or %I < statement_timestamp() - interval ''%s days'')'
                           ' with check (%s or (select okcm.is_destroying()))',
                           rule.name, platform, rule.age, rule.minimum, platform);
        end if;
        if not exists (select from pg_policies p where p.schemaname = 'okcm' and p.tablename = rule.name
                       and p.policyname = 'platform_questions') then
            execute format('create policy platform_questions on okcm.%I for select to okcm_owner using %s',
                           rule.name, platform);
        end if;
    end loop;
end
$$;

-- Return the rule of a table; reject a table without one, and fewer days than its minimum.
create function okcm.retention_rule(of_table text, days integer, out age text, out deletable text)
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
    select r.age, r.deletable into age, deletable from okcm.retention_rules() r
        where r.name = of_table and days >= r.minimum;
    if not found then
        raise check_violation using message = 'the table has no retention, or a longer one';
    end if;
end
$$;
revoke execute on function okcm.retention_rule(text, integer) from public;

-- Return tenants with expired rows in a table, the oldest row first. The recursion steps from tenant to tenant in the
-- index: a table with millions of rows is not read.
create function okcm.tenants_with_expired_rows(of_table text, days integer, at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    rule record := okcm.retention_rule(of_table, days);
begin
    perform okcm.require_platform_context();
    return query execute format(
        'with recursive each as ('
        '    (select r.tenant_id from okcm.%1$I r order by r.tenant_id limit 1)'
        '    union all'
        '    select (select r.tenant_id from okcm.%1$I r where r.tenant_id > each.tenant_id'
        '            order by r.tenant_id limit 1)'
        '    from each where each.tenant_id is not null)'
        ' select each.tenant_id from each cross join lateral ('
        '    select r.%2$I as since from okcm.%1$I r'
        '    where r.tenant_id = each.tenant_id and r.%2$I < $1 and (%3$s) order by r.%2$I limit 1) oldest'
        ' order by oldest.since limit $2', of_table, rule.age, rule.deletable)
        using statement_timestamp() - make_interval(days => days), at_most;
end
$$;
revoke execute on function okcm.tenants_with_expired_rows(text, integer, integer) from public;
grant execute on function okcm.tenants_with_expired_rows(text, integer, integer) to okcm_worker;

-- Delete at most `at_most` expired rows of the tenant, the oldest first, and return their number.
create function okcm.delete_expired_rows(of_table text, days integer, at_most integer) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    tenant  text := current_setting('app.tenant_id', true);
    rule    record := okcm.retention_rule(of_table, days);
    deleted bigint;
begin
    if not okcm.ctx_ok() or tenant = '*' then
        raise insufficient_privilege using message = 'the context is not signed for a tenant';
    end if;
    execute format(
        'delete from okcm.%1$I where ctid = any (array('
        'select r.ctid from okcm.%1$I r where r.tenant_id = $2 and r.%2$I < $1 and (%3$s) order by r.%2$I limit $3))',
        of_table, rule.age, rule.deletable)
        using statement_timestamp() - make_interval(days => days), tenant, at_most;
    get diagnostics deleted = row_count;
    return deleted;
end
$$;
revoke execute on function okcm.delete_expired_rows(text, integer, integer) from public;
grant execute on function okcm.delete_expired_rows(text, integer, integer) to okcm_worker;

-- One mechanism deletes, so the others end.
drop function okcm.trim_boundaries();
revoke delete on okcm.usage_batch from okcm_crypto;
revoke delete on okcm.dashboard_session from okcm_dashboard;

-- No cache holds an expired certificate: its deletion needs no notification.
drop trigger announce_change on okcm.service_certificate;
create trigger announce_change after insert or update on okcm.service_certificate
    for each row execute function okcm.announce_change();
create trigger announce_deletion after delete on okcm.service_certificate
    for each row when (old.not_after > statement_timestamp()) execute function okcm.announce_change();


-- ===== Archive of audit streams =====

-- The archived parts of a stream, without gaps from record 1. `signature` is over tenant, end, its hash and the file's
-- SHA-256 (openkcm.contract.audit_events.archive_message). Only the worker can sign such a statement, and it does so
-- after it has verified the file: a checkpoint is a signature over another text. The file's header contains the
-- statement before it, so the newest one covers all files.
create table okcm.audit_archive (
    tenant_id   text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    first_seq   bigint not null check (first_seq > 0),
    seq         bigint not null check (seq >= first_seq),
    chain_hash  bytea not null check (length(chain_hash) = 32),
    sha256      bytea not null check (length(sha256) = 32),
    signature   text not null check (length(signature) between 1 and 500),
    key         text not null check (length(key) between 1 and 200),
    archived_at timestamptz not null default clock_timestamp(),
    primary key (tenant_id, seq)
);
grant select on okcm.audit_archive to okcm_worker, okcm_operator, okcm_dashboard;

do $$
declare
    own_rows constant text := '(tenant_id = (select current_setting(''app.tenant_id'', true)))';
    platform constant text := '((select current_setting(''app.tenant_id'', true)) = ''*'')';
    stream text;
    rule record;
begin
    alter table okcm.audit_archive enable row level security, force row level security;
    create policy signed on okcm.audit_archive as restrictive for all to public
        using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()));
    for rule in select * from (values
        ('own_rows', 'okcm_worker'), ('own_rows_operator', 'okcm_operator'), ('own_rows_dashboard', 'okcm_dashboard')
        ) as rules (policy, role)
    loop
        execute format('create policy %I on okcm.audit_archive for select to %I using %s',
                       rule.policy, rule.role, own_rows);
    end loop;
    execute format('create policy own_rows_owner on okcm.audit_archive for all to okcm_owner using %s with check %s',
                   own_rows, own_rows);
    foreach stream in array array['audit_event', 'audit_signed_head', 'audit_archive'] loop
        execute format('create policy platform_questions on okcm.%I for select to okcm_owner using %s',
                       stream, platform);
    end loop;
end
$$;

-- Reject every change of the audit tables, except the deletion of an archived record or its checkpoint. The triggers of
-- the two tables state that exception in their argument.
create or replace function okcm.refuse_change() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    -- Two conditions, because other tables of these triggers have no such columns.
    if tg_op = 'DELETE' and tg_argv[0] = 'archived' then
        if exists (select from okcm.audit_archive a where a.tenant_id = old.tenant_id and a.seq >= old.seq) then
            return old;
        end if;
    end if;
    raise insufficient_privilege using message = format('%I is append-only', tg_table_name);
end
$$;
drop trigger append_only on okcm.audit_event;
create trigger append_only before update or delete on okcm.audit_event
    for each row execute function okcm.refuse_change('archived');
alter table okcm.audit_event enable always trigger append_only;
drop trigger append_only on okcm.audit_signed_head;
create trigger append_only before update or delete on okcm.audit_signed_head
    for each row execute function okcm.refuse_change('archived');
alter table okcm.audit_signed_head enable always trigger append_only;
create trigger append_only before update or delete on okcm.audit_archive
    for each row execute function okcm.refuse_change();
alter table okcm.audit_archive enable always trigger append_only;
create trigger no_truncate before truncate on okcm.audit_archive
    for each statement execute function okcm.refuse_change();
alter table okcm.audit_archive enable always trigger no_truncate;

-- Return tenants with a checkpoint from before `cutoff` that is not archived, or with archived records that are not
-- deleted; the oldest checkpoint first.
create function okcm.archivable_streams(cutoff timestamptz, at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select h.tenant_id from okcm.audit_head h
        cross join lateral (
            select coalesce(max(a.seq), 0) as seq from okcm.audit_archive a where a.tenant_id = h.tenant_id) archived
        left join lateral (
            select s.signed_at from okcm.audit_signed_head s
            where s.tenant_id = h.tenant_id and s.seq > archived.seq order by s.seq limit 1) next on true
        where next.signed_at < cutoff
        or exists (select from okcm.audit_event e where e.tenant_id = h.tenant_id and e.seq <= archived.seq)
        order by next.signed_at, h.tenant_id limit at_most;
end
$$;
revoke execute on function okcm.archivable_streams(timestamptz, integer) from public;
grant execute on function okcm.archivable_streams(timestamptz, integer) to okcm_worker;

-- Record that a verified file contains the records up to `last_seq`. They may be deleted afterwards, so the end is a
-- checkpoint that was signed at least 90 days ago, and the file follows the one before.
create function okcm.record_audit_archive(from_seq bigint, last_seq bigint, file_sha256 bytea, file_signature text,
                                          signing_key text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    tenant text := current_setting('app.tenant_id', true);
    hash   bytea;
begin
    if not okcm.ctx_ok() or tenant = '*' then
        raise insufficient_privilege using message = 'the context is not signed for a tenant';
    end if;
    select s.chain_hash into hash from okcm.audit_signed_head s
        where s.tenant_id = tenant and s.seq = last_seq and s.signed_at < clock_timestamp() - interval '90 days';
    if not found then
        raise check_violation using message = 'an archive ends with a checkpoint that is 90 days old';
    end if;
    if from_seq <> 1 + coalesce((select max(a.seq) from okcm.audit_archive a where a.tenant_id = tenant), 0) then
        raise check_violation using message = 'an archive follows the one before';
    end if;
    insert into okcm.audit_archive (tenant_id, first_seq, seq, chain_hash, sha256, signature, key)
        values (tenant, from_seq, last_seq, hash, file_sha256, file_signature, signing_key);
end
$$;
revoke execute on function okcm.record_audit_archive(bigint, bigint, bytea, text, text) from public;
grant execute on function okcm.record_audit_archive(bigint, bigint, bytea, text, text) to okcm_worker;

-- Delete at most `at_most` archived records, the oldest first, and return their number. After the last one their
-- checkpoints follow, except the one at the end of the archive, which may be the newest of the stream.
create function okcm.delete_archived_events(at_most integer) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    tenant   text := current_setting('app.tenant_id', true);
    archived bigint;
    upto     bigint;
    deleted  bigint;
begin
    if not okcm.ctx_ok() or tenant = '*' then
        raise insufficient_privilege using message = 'the context is not signed for a tenant';
    end if;
    select coalesce(max(a.seq), 0) into archived from okcm.audit_archive a where a.tenant_id = tenant;
    select least(archived, min(e.seq) + at_most - 1) into upto from okcm.audit_event e where e.tenant_id = tenant;
    delete from okcm.audit_event where tenant_id = tenant and seq <= upto;
    get diagnostics deleted = row_count;
    if upto >= archived then
        delete from okcm.audit_signed_head where tenant_id = tenant and seq < archived;
    end if;
    return deleted;
end
$$;
revoke execute on function okcm.delete_archived_events(integer) from public;
grant execute on function okcm.delete_archived_events(integer) to okcm_worker;
