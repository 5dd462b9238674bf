-- Baseline: the whole schema `okcm`, by feature. Later migrations change it; this file never changes after a release.
--
-- Runs as okcm_owner, which owns the schema and cannot log in; database/schema/setup.py creates the roles and the
-- schema. database/schema/lint.py verifies these rules after every migration:
--   * Every primary key, unique constraint and foreign key of a tenant's table begins with tenant_id. PostgreSQL checks
--     them without row security: a duplicate would reveal another tenant's value, a reference could lead to its row.
--   * tenant_id has one format, which excludes '' (a setting after its reset) and '*' (the platform).
--   * Row security is enabled and forced on every table of tenants. The last section holds the policies.
--   * PUBLIC executes no function, and every SECURITY DEFINER function pins its search_path.
--
-- Functions that span tenants call okcm.require_platform_context. Each returns the least that answers one question and
-- is granted to the roles that ask it. Names that begin with `openkcm-` are the platform's own tenants, not customers.
-- A grant of `select (tenant_id)` to okcm_worker lets its isolation suite attack a table whose content it may not read.

grant usage on schema okcm to okcm_worker, okcm_marketplace, okcm_operator, okcm_crypto, okcm_dashboard;


-- ===== Signed context =====
-- Each transaction names its tenant in `app.tenant_id` and proves the name in `app.ctx`: HMAC-SHA256, hex, over
-- `tenant|pid of the backend|start of the transaction`. SQL can set both settings. It can neither sign nor change the
-- pid and the start. They identify the transaction: the start has microseconds, and each message of the client, with a
-- round trip before it, begins at most one transaction. Savepoints do not change them. So a context is valid in one
-- transaction of one session, and the key of one process is useless in the session of another.

-- A key as the two padded blocks of HMAC (RFC 2104), because SQL has no XOR for bytea. Only the owner reads it.
create table okcm.context_key (
    role      text primary key,
    inner_pad bytea not null check (length(inner_pad) = 64),
    outer_pad bytea not null check (length(outer_pad) = 64)
);

-- Return whether the context is signed for the current transaction and the tenant that it names. Invalid input returns
-- false, never an error, so that an attacker learns nothing. HMAC is two calls of core sha256, without an extension.
-- STABLE and called as (select okcm.ctx_ok()), it runs once per statement and table instead of once per row. PARALLEL
-- RESTRICTED, because a parallel worker has a different pid. Policies run with the rights of the current role, so every
-- process may execute it. The key is found by session_user, which neither SET ROLE nor SECURITY DEFINER changes. The
-- start is a number, because the text of a timestamp depends on settings of the session.
create function okcm.ctx_ok() returns boolean
language plpgsql stable parallel restricted security definer set search_path = pg_catalog, pg_temp
as $$
declare
    tenant text := current_setting('app.tenant_id', true);
    pads   record;
begin
    select inner_pad, outer_pad into pads from okcm.context_key where role = session_user::text;
    if tenant is null or tenant = '' or not found then
        return false;
    end if;
    return current_setting('app.ctx', true) is not distinct from encode(sha256(pads.outer_pad || sha256(pads.inner_pad
        || convert_to(concat_ws('|', tenant, pg_backend_pid(), extract(epoch from transaction_timestamp())), 'UTF8'))),
        'hex');
end
$$;
revoke execute on function okcm.ctx_ok() from public;
grant execute on function okcm.ctx_ok() to okcm_worker, okcm_marketplace, okcm_operator, okcm_crypto, okcm_dashboard;

-- Raise unless the context is signed for the platform. Without it a wrong context would look like an empty answer: no
-- event pending, or a known serial reported as unknown.
create function okcm.require_platform_context() returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if not okcm.ctx_ok() or current_setting('app.tenant_id', true) <> '*' then
        raise insufficient_privilege using message = 'the context is not signed for the platform';
    end if;
end
$$;
revoke execute on function okcm.require_platform_context() from public;


-- ===== Triggers that several features share =====

-- Reject every change of the audit tables, except the deletion of an archived record or its checkpoint. The triggers of
-- the two tables state that exception in their argument.
create function okcm.refuse_change() returns trigger
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
revoke execute on function okcm.refuse_change() from public;

-- Mark a row that root key monitoring depends on. `monitoring_xid` is the transaction that last changed something; null
-- means none yet. A reader passes the oldest transaction that was unfinished at its last read (pg_snapshot_xmin), and
-- gets the rows of this and later transactions. So a row that was committed late is never missed, and some are read
-- twice. A sequence would not do: its numbers are taken before the commit, in another order.
create function okcm.mark_for_monitoring() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    new.monitoring_xid := pg_current_xact_id();
    return new;
end
$$;
revoke execute on function okcm.mark_for_monitoring() from public;

-- The changes that caches of the crypto service depend on; a reader passes transactions as for monitoring. A NOTIFY
-- would not do: PostgreSQL takes one lock for all databases from a NOTIFY to the end of the commit, so these commits
-- would wait for one another, each with its flush to the disk. No process has a right on this table. It names no
-- tenant: a reader recognizes the hashes of tenants that it knows and learns no others. Unlogged: a crash or a failover
-- empties it and ends every connection, and a reader that connects again assumes that it missed changes.
create unlogged table okcm.cache_change (
    xid        xid8 not null default pg_current_xact_id(),
    hash       bytea not null check (length(hash) = 32),
    changed_at timestamptz not null default clock_timestamp(),
    primary key (xid, hash)
);

-- Record a change once per transaction and tenant. A trigger's argument gives its changes a separate hash (no tenant id
-- contains a slash): a changed object must not make every process unwrap service keys again.
create function okcm.announce_change() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    tenant text := case tg_op when 'DELETE' then old.tenant_id else new.tenant_id end;
begin
    insert into okcm.cache_change (hash)
        values (sha256(convert_to(tenant || coalesce(tg_argv[0], ''), 'UTF8'))) on conflict do nothing;
    return null;
end
$$;
revoke execute on function okcm.announce_change() from public;

-- Return the position of the next read and the changes since `since`, some of them again; one row without a change.
-- Without a signed context, because the rows belong to no tenant. The plan does not depend on the statistics of a table
-- that changes continuously: only few rows are new.
create function okcm.cache_changes(since xid8) returns table (until xid8, xid xid8, hash text)
language sql stable security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
    select pg_snapshot_xmin(pg_current_snapshot()), c.xid, encode(c.hash, 'hex')
    from (select) as one left join okcm.cache_change c on c.xid >= since order by c.xid
$$;
revoke execute on function okcm.cache_changes(xid8) from public;
grant execute on function okcm.cache_changes(xid8) to okcm_crypto;

-- Delete the changes of which each reader has read or must assume the loss (database/postgres/change_feed.py).
create function okcm.trim_cache_changes() returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
    delete from okcm.cache_change where changed_at < statement_timestamp() - interval '10 minutes'
$$;
revoke execute on function okcm.trim_cache_changes() from public;
grant execute on function okcm.trim_cache_changes() to okcm_crypto;


-- ===== Tenants =====

-- `locks` holds the reasons of a lock and `unlocks_to` the state after the last one is removed; both are empty
-- otherwise. `returns_to` is the state before offboarding; a restored tenant gets it back, together with its locks.
-- After `destroying_at` no restore is possible; tenant_destroying_check enforces that even against a faulty process.
-- `erased` counts deleted rows by table. A marketplace event from before `restored_at` does not start a second
-- offboarding. `root_key_newest` is the newest root key version when a wrap under an older one was last found.
-- Each tenant workflow that starts with the state of its row takes the next block of operation numbers, counted in
-- `workflow_starts`, because a number that an earlier workflow used would repeat the ids of its audit events and
-- notifications. `scheduled_attempts` holds the time of the last attempt of each scheduled task (core/scheduled.py).
create table okcm.tenant (
    tenant_id          text primary key check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    organization       text not null check (length(organization) between 1 and 200),
    region             text not null check (length(region) between 1 and 40),
    state              text not null default 'requested'
                           check (state in ('requested', 'provisioning', 'failed', 'active', 'suspended', 'locked',
                                            'offboarding', 'offboarded')),
    root_key_mode      text not null default 'platform'
                           check (root_key_mode in ('platform', 'aws-kms', 'pkcs11', 'openbao')),
    requested_at       timestamptz not null default now(),
    ready_at           timestamptz,
    promise_broken_at  timestamptz,
    locks              text[] not null default '{}' check (locks <@ array['manual', 'root-key', 'isolation-breach']),
    unlocks_to         text check (unlocks_to in ('active', 'suspended')),
    leaving_since      timestamptz,
    leaves_at          timestamptz,
    restored_at        timestamptz,
    returns_to         text check (returns_to in ('failed', 'active', 'suspended', 'locked')),
    destroying_at      timestamptz,
    offboarded_at      timestamptz,
    erased             jsonb check (jsonb_typeof(erased) = 'object'),
    root_key_newest    integer check (root_key_newest > 0),
    workflow_starts    integer not null default 0 check (workflow_starts >= 0),
    monitoring_xid     xid8,
    scheduled_attempts jsonb not null default '{}',
    constraint tenant_leaves_after_check check (leaves_at >= leaving_since),
    -- A restore must not activate a tenant that never passed the isolation checks, even by a faulty process.
    constraint tenant_returns_ready_check check (returns_to is null or returns_to = 'failed' or ready_at is not null),
    constraint tenant_destroying_check check (destroying_at is null or state in ('offboarding', 'offboarded'))
);
-- Only the state matters to caches; every other column changes without a notification.
create trigger announce_change after update of state on okcm.tenant
    for each row when (old.state is distinct from new.state) execute function okcm.announce_change();
create index tenant_monitoring on okcm.tenant (monitoring_xid) where monitoring_xid is not null;
create trigger mark_for_monitoring before update on okcm.tenant for each row
    when (old.state is distinct from new.state or old.locks is distinct from new.locks
          or old.region is distinct from new.region)
    execute function okcm.mark_for_monitoring();

-- The marketplace endpoint stores requests from the internet and shows progress. The worker inserts the canary tenants.
grant select, insert (tenant_id, organization, region),
    update (state, root_key_mode, ready_at, promise_broken_at, locks, unlocks_to, leaving_since, leaves_at, restored_at,
        returns_to, destroying_at, offboarded_at, root_key_newest, workflow_starts, scheduled_attempts)
    on okcm.tenant to okcm_worker;
grant select, insert (tenant_id, organization, region) on okcm.tenant to okcm_marketplace;
grant select on okcm.tenant to okcm_operator, okcm_crypto, okcm_dashboard;

-- Cryptoperiods and actions that need two persons; without a row the defaults apply. The bounds equal those of the
-- domain rules (core/tenants/policy.py).
create table okcm.tenant_policy (
    tenant_id        text primary key check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    tenant_key_days  integer not null check (tenant_key_days between 30 and 730),
    service_key_days integer not null check (service_key_days between 7 and 365),
    changed_at       timestamptz not null default clock_timestamp(),
    four_eyes        text[] not null default '{}' check (four_eyes <@ array[
        'lock', 'root-key-to-platform', 'change-policy', 'offboard', 'compromise', 'retire-key-version']),
    foreign key (tenant_id) references okcm.tenant
);
grant select, insert (tenant_id, tenant_key_days, service_key_days, four_eyes),
    update (tenant_key_days, service_key_days, changed_at, four_eyes) on okcm.tenant_policy to okcm_worker;
grant select on okcm.tenant_policy to okcm_operator, okcm_dashboard;

-- A session of the dashboard. The browser's cookie names the user until it expires; this row ends the session for all
-- tabs at once. It does not reference tenant, because operators sign on as well, under a reserved id.
create table okcm.dashboard_session (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    session_id   text not null check (session_id ~ '^[0-9a-f]{64}$'),
    subject      text not null check (length(subject) between 1 and 300),
    signed_in_at timestamptz not null default clock_timestamp(),
    last_seen_at timestamptz not null default clock_timestamp(),
    expires_at   timestamptz not null,
    ended_at     timestamptz,
    primary key (tenant_id, session_id)
) with (fillfactor = 70);  -- updates of last_seen_at stay in their page
create index dashboard_session_age on okcm.dashboard_session (tenant_id, expires_at);

-- No session is reopened.
grant select (tenant_id) on okcm.dashboard_session to okcm_worker;
grant select, insert (tenant_id, session_id, subject, expires_at), update (last_seen_at, ended_at)
    on okcm.dashboard_session to okcm_dashboard;

-- Return whether a tenant failed, became ready after the objective `promise`, or is past it and not ready. It is plain
-- SQL, so that the planner inlines it. No index serves it: 10,000 tenants are read in milliseconds.
create function okcm.is_late(state text, requested_at timestamptz, promise_broken_at timestamptz, promise interval)
returns boolean language sql stable
return promise_broken_at is not null or state = 'failed'
    or (state in ('requested', 'provisioning') and requested_at < statement_timestamp() - promise);
revoke execute on function okcm.is_late(text, timestamptz, timestamptz, interval) from public;

-- Return the number of tenants, and of late ones, by region and state.
create function okcm.count_tenants(promise interval)
returns table (region text, state text, tenants bigint, late bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select t.region, t.state, count(*),
        count(*) filter (where okcm.is_late(t.state, t.requested_at, t.promise_broken_at, promise))
        from okcm.tenant t where not starts_with(t.tenant_id, 'openkcm-')
        group by t.region, t.state;
end
$$;
revoke execute on function okcm.count_tenants(interval) from public;
grant execute on function okcm.count_tenants(interval) to okcm_dashboard;

-- Return a page of tenants in order of id, beginning behind `after`; null means no filter. `search` is the beginning of
-- an id or a part of an organization's name, compared as text, without patterns. Case is ignored for letters A to Z.
-- For other letters it counts where the database has locale C, as the embedded one does.
create function okcm.page_of_tenants(wanted_state text, wanted_region text, only_late boolean, search text,
                                     promise interval, after text, at_most integer)
returns table (tenant_id text, organization text, region text, state text, root_key_mode text,
               requested_at timestamptz, ready_at timestamptz, promise_broken_at timestamptz, locks text[],
               unlocks_to text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select t.tenant_id, t.organization, t.region, t.state, t.root_key_mode,
                        t.requested_at, t.ready_at, t.promise_broken_at, t.locks, t.unlocks_to
        from okcm.tenant t
        where t.tenant_id > after and not starts_with(t.tenant_id, 'openkcm-')
        and (wanted_state is null or t.state = wanted_state)
        and (wanted_region is null or t.region = wanted_region)
        and (not only_late or okcm.is_late(t.state, t.requested_at, t.promise_broken_at, promise))
        and (search is null or starts_with(t.tenant_id, lower(search))
             or position(lower(search) in lower(t.organization)) > 0)
        order by t.tenant_id limit at_most;
end
$$;
revoke execute on function okcm.page_of_tenants(text, text, boolean, text, interval, text, integer) from public;
grant execute on function okcm.page_of_tenants(text, text, boolean, text, interval, text, integer) to okcm_dashboard;

-- Return the tenants that are not offboarded, in order of id from the first behind `after`. `destroying` excludes a
-- tenant workflow: only the offboarding continues.
create function okcm.workflow_tenants(after text, at_most integer)
returns table (tenant_id text, region text, leaving_since timestamptz, leaves_at timestamptz, destroying boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select t.tenant_id, t.region, t.leaving_since, t.leaves_at, t.destroying_at is not null
        from okcm.tenant t where t.tenant_id > after and t.state <> 'offboarded'
        order by t.tenant_id limit at_most;
end
$$;
revoke execute on function okcm.workflow_tenants(text, integer) from public;
grant execute on function okcm.workflow_tenants(text, integer) to okcm_worker;


-- ===== Tenant keys =====

-- `version` is the newest version and `oldest` the first that still decrypts. A writer of ciphertext compares with
-- `oldest` while it holds the row lock of the tenant, which the process that raises `oldest` holds as well.
create table okcm.key (
    tenant_id  text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    name       text not null check (length(name) between 1 and 100),
    kind       text not null check (kind in ('L2', 'CA', 'payload')),
    version    integer not null check (version > 0),
    created_at timestamptz not null default now(),
    oldest     integer not null default 1 check (oldest > 0),
    rotated_at timestamptz not null default clock_timestamp(),
    primary key (tenant_id, name),
    foreign key (tenant_id) references okcm.tenant,
    constraint key_versions_check check (oldest <= version)
);
grant select, insert (tenant_id, name, kind, version), update (version, oldest, rotated_at) on okcm.key to okcm_worker;
grant select on okcm.key to okcm_operator, okcm_dashboard;

-- A fingerprint of each version of each tenant key (MTCI U2; docs/isolation.md). This is the only key that spans
-- tenants, on purpose: a duplicate proves a shared tenant key. No process has a right on the table, so the duplicate
-- reveals nothing else; database/schema/lint.py verifies that. A fingerprint is an HMAC with a Transit key over an HMAC
-- with the tenant key, so a reader can do nothing with it. Rows outlive their tenant, so that a key restored under
-- another name is found.
create table okcm.key_fingerprint (
    tenant_id   text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    name        text not null check (length(name) between 1 and 100),
    version     integer not null check (version > 0),
    fingerprint text not null check (fingerprint ~ '^[0-9a-f]{64}$'),
    recorded_at timestamptz not null default clock_timestamp(),
    primary key (tenant_id, name, version),
    constraint key_fingerprint_of_one_key_alone unique (fingerprint),
    foreign key (tenant_id) references okcm.tenant
);

-- Record a fingerprint and return one word: recorded, known, changed, or taken by another key.
create function okcm.record_fingerprint(key_name text, key_version integer, taken text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    mine text := current_setting('app.tenant_id', true);
    kept text;
begin
    if not okcm.ctx_ok() or mine = '*' then
        raise insufficient_privilege using message = 'the context is not signed for a tenant';
    end if;
    -- A concurrent insert of the same fingerprint waits for the first and then conflicts with it.
    insert into okcm.key_fingerprint (tenant_id, name, version, fingerprint) values (mine, key_name, key_version, taken)
        on conflict do nothing;
    if found then
        return 'recorded';
    end if;
    select f.fingerprint into kept from okcm.key_fingerprint f
        where f.tenant_id = mine and f.name = key_name and f.version = key_version;
    return case when kept is null then 'taken' when kept = taken then 'known' else 'changed' end;
end
$$;
revoke execute on function okcm.record_fingerprint(text, integer, text) from public;
grant execute on function okcm.record_fingerprint(text, integer, text) to okcm_worker;

-- One ciphertext of each tenant in an encryption context that all tenants share. It holds no secret, and no other
-- tenant's key may decrypt it. `tried` names the tenant whose probe this tenant's key tried last, so that all pairs
-- follow.
create table okcm.key_probe (
    tenant_id  text primary key check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    l2_key     text not null,
    version    integer not null check (version > 0),
    ciphertext text not null check (length(ciphertext) between 10 and 500),
    tried      text not null check (tried ~ '^([a-z0-9][a-z0-9-]{2,39})?$'),
    left_at    timestamptz not null default clock_timestamp(),
    foreign key (tenant_id, l2_key) references okcm.key (tenant_id, name)
) with (fillfactor = 70);
grant select, insert (tenant_id, l2_key, version, ciphertext, tried),
    update (l2_key, version, ciphertext, tried, left_at) on okcm.key_probe to okcm_worker;

-- Return probes in order of tenant, from the first behind `after`, and continue with the first tenant.
create function okcm.key_probes(after text, at_most integer) returns table (tenant_id text, ciphertext text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select p.tenant_id, p.ciphertext from okcm.key_probe p
        order by (p.tenant_id > after) desc, p.tenant_id limit at_most;
end
$$;
revoke execute on function okcm.key_probes(text, integer) from public;
grant execute on function okcm.key_probes(text, integer) to okcm_worker;


-- ===== Provisioning =====

-- The inbox. An event refers to its tenant's row. Its insertion therefore waits for a destruction that begins, which
-- locks that row against references, and a destruction that begins waits for the event: one of the two sees the other.
create table okcm.marketplace_event (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    event_id     text not null check (length(event_id) between 1 and 200),
    kind         text not null check (kind in ('service_enabled', 'service_disabled', 'service_discovered')),
    organization text not null check (length(organization) between 1 and 200),
    region       text not null check (length(region) between 1 and 40),
    occurred_at  timestamptz not null,
    accepted_at  timestamptz not null default clock_timestamp(),
    started_at   timestamptz,
    service      text check (service ~ '^[a-z0-9][a-z0-9-]{0,39}$'),
    primary key (tenant_id, event_id),
    foreign key (tenant_id) references okcm.tenant
);
-- For unstarted_events: empty while Temporal is available, however many events were stored.
create index marketplace_event_unstarted on okcm.marketplace_event (accepted_at) where started_at is null;
create index marketplace_event_age on okcm.marketplace_event (tenant_id, accepted_at);

-- A process records that it started a workflow for an event. It cannot change the event.
grant select, insert (tenant_id, event_id, kind, organization, region, occurred_at), update (started_at)
    on okcm.marketplace_event to okcm_worker;
grant select, insert (tenant_id, event_id, kind, organization, region, occurred_at, service), update (started_at)
    on okcm.marketplace_event to okcm_marketplace;
grant select on okcm.marketplace_event to okcm_operator;

-- Return events for which no workflow was started yet, oldest first.
create function okcm.unstarted_events(at_most integer)
returns table (tenant_id text, event_id text, region text, kind text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select e.tenant_id, e.event_id, e.region, e.kind from okcm.marketplace_event e
        where e.started_at is null order by e.accepted_at limit at_most;
end
$$;
revoke execute on function okcm.unstarted_events(integer) from public;
grant execute on function okcm.unstarted_events(integer) to okcm_marketplace;

create table okcm.operation_step (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    operation_id text not null check (length(operation_id) between 1 and 200),
    step         text not null check (length(step) between 1 and 60),
    number       integer not null check (number > 0),
    state        text not null default 'pending' check (state in ('pending', 'retrying', 'done', 'failed')),
    attempts     integer not null default 0 check (attempts >= 0),
    planned_at   timestamptz not null default now(),
    started_at   timestamptz,
    finished_at  timestamptz,
    problem      text,
    primary key (tenant_id, operation_id, step),
    foreign key (tenant_id) references okcm.tenant
);
create index operation_step_newest on okcm.operation_step (tenant_id, planned_at);
grant select, insert (tenant_id, operation_id, step, number), update (state, attempts, started_at, finished_at, problem)
    on okcm.operation_step to okcm_worker;
grant select on okcm.operation_step to okcm_marketplace, okcm_operator, okcm_dashboard;

-- Where the crypto service finds a tenant's key, and the issuers whose client certificates it accepts. The former
-- issuer is accepted until its certificates expire; it changes in one transaction with the states of the authorities.
create table okcm.route (
    tenant_id                 text primary key check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    l2_key                    text not null,
    issuer_fingerprint        text not null check (issuer_fingerprint ~ '^[0-9a-f]{64}$'),
    region                    text not null check (length(region) between 1 and 40),
    published_at              timestamptz not null default now(),
    former_issuer_fingerprint text check (former_issuer_fingerprint ~ '^[0-9a-f]{64}$'),
    foreign key (tenant_id) references okcm.tenant,
    -- A route leads to a key of the same tenant (MTCI U1).
    foreign key (tenant_id, l2_key) references okcm.key (tenant_id, name)
);
create trigger announce_change after insert or update or delete on okcm.route
    for each row execute function okcm.announce_change();

-- Rollback deletes a route, so that a tenant that is not ready cannot be reached. The worker deletes nothing else.
grant select, insert (tenant_id, l2_key, issuer_fingerprint, region, former_issuer_fingerprint),
    update (l2_key, issuer_fingerprint, region, published_at, former_issuer_fingerprint), delete
    on okcm.route to okcm_worker;
grant select on okcm.route to okcm_operator, okcm_crypto, okcm_dashboard;

-- Return tenants that need an operator: failed, or past the objective `promise` and not ready, longest waiting first.
-- Each comes with the first open step of its newest operation and the error code of the last attempt.
create function okcm.stuck_tenants(promise interval, at_most integer)
returns table (tenant_id text, organization text, region text, state text, requested_at timestamptz,
               step text, step_state text, attempts integer, problem text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        with stuck as (
            select t.* from okcm.tenant t
            where (t.state = 'failed' or (t.state in ('requested', 'provisioning')
                                          and t.requested_at < statement_timestamp() - promise))
            and not starts_with(t.tenant_id, 'openkcm-')
            order by t.requested_at, t.tenant_id limit at_most)
        select t.tenant_id, t.organization, t.region, t.state, t.requested_at,
               at.step, at.state, at.attempts, at.problem
        from stuck t left join lateral (
            select s.step, s.state, s.attempts, s.problem from okcm.operation_step s
            where s.tenant_id = t.tenant_id and s.state <> 'done' and s.operation_id = (
                select n.operation_id from okcm.operation_step n where n.tenant_id = t.tenant_id
                order by n.planned_at desc limit 1)
            order by s.number limit 1) as at on true
        order by t.requested_at, t.tenant_id;
end
$$;
revoke execute on function okcm.stuck_tenants(interval, integer) from public;
grant execute on function okcm.stuck_tenants(interval, integer) to okcm_dashboard;

-- Return how long the newest ready tenants took, without their names.
create function okcm.provisioning_times(at_most integer) returns table (requested_at timestamptz, ready_at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select t.requested_at, t.ready_at from okcm.tenant t
        where t.ready_at is not null and not starts_with(t.tenant_id, 'openkcm-')
        order by t.requested_at desc limit at_most;
end
$$;
revoke execute on function okcm.provisioning_times(integer) from public;
grant execute on function okcm.provisioning_times(integer) to okcm_dashboard;


-- ===== Root keys =====

-- A root key (L1) that a customer holds. `place` is public. `credentials` are encrypted under the tenant's L2 with this
-- row as context, and are deleted when the key is retired. `probe` is a known value that the key wrapped when it was
-- registered: a key that unwraps it to `probe_digest` is the same key and has the right to decrypt. `probe_version` is
-- derived, never written: the version that a Transit key prefixes to its ciphertext. AWS KMS and PKCS #11 tokens number
-- no versions.
create table okcm.root_key (
    tenant_id      text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    root_key_id    text not null check (root_key_id ~ '^[0-9a-f]{32}$'),
    mode           text not null check (mode in ('aws-kms', 'pkcs11', 'openbao')),
    name           text not null check (length(name) between 1 and 512),
    place          jsonb not null check (jsonb_typeof(place) = 'object'),
    credentials    text check (length(credentials) between 1 and 16384),
    state          text not null default 'candidate' check (state in ('candidate', 'current', 'retired')),
    probe          bytea check (length(probe) between 1 and 8192),
    probe_digest   bytea check (length(probe_digest) = 32),
    health         text not null default 'ok' check (length(health) between 1 and 60),
    health_since   timestamptz not null default clock_timestamp(),
    created_at     timestamptz not null default clock_timestamp(),
    l2_version     integer not null default 1 check (l2_version > 0),
    probe_version  integer generated always as (
        case when mode = 'openbao' then
            substring(encode(substring(probe from 1 for 17), 'escape') from '^vault:v([0-9]{1,9}):')::integer end
    ) stored,
    monitoring_xid xid8,
    primary key (tenant_id, root_key_id),
    foreign key (tenant_id) references okcm.tenant,
    -- A current key was verified.
    check (state <> 'current' or (probe is not null and probe_digest is not null and credentials is not null))
);
create unique index root_key_current on okcm.root_key (tenant_id) where state = 'current';
create index root_key_monitoring on okcm.root_key (monitoring_xid) where monitoring_xid is not null;
create trigger mark_for_monitoring before update on okcm.root_key for each row
    when (old.state is distinct from new.state or old.health is distinct from new.health)
    execute function okcm.mark_for_monitoring();
-- A change of health needs no notification: an unreachable key invalidates no cached key, and a revoked one changes the
-- tenant's state.
create trigger announce_change after update on okcm.root_key for each row
    when (old.state is distinct from new.state or old.credentials is distinct from new.credentials)
    execute function okcm.announce_change();

-- The worker never replaces the place of a registered key. Operators and the dashboard see neither credentials nor
-- probes.
grant select, insert (tenant_id, root_key_id, mode, name, place, credentials, l2_version),
    update (credentials, state, probe, probe_digest, health, health_since, l2_version) on okcm.root_key to okcm_worker;
grant select (tenant_id, root_key_id, mode, name, place, state, health, health_since, created_at, probe_version)
    on okcm.root_key to okcm_operator, okcm_dashboard;
grant select (tenant_id, root_key_id, place, credentials, state) on okcm.root_key to okcm_crypto;

-- A request for a preflight or a change. `sealed` holds the credentials, encrypted for the worker alone, until the
-- worker takes them. `problems` is the result of a preflight, null before.
create table okcm.root_key_request (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    request_id   text not null check (request_id ~ '^[0-9a-f]{32}$'),
    place        jsonb not null check (jsonb_typeof(place) = 'object'),
    sealed       text check (length(sealed) between 1 and 32768),
    problems     jsonb check (jsonb_typeof(problems) = 'array'),
    requested_at timestamptz not null default clock_timestamp(),
    primary key (tenant_id, request_id),
    foreign key (tenant_id) references okcm.tenant
);
create index root_key_request_sealed on okcm.root_key_request (requested_at) where sealed is not null;
grant select, update (sealed, problems) on okcm.root_key_request to okcm_worker;
grant select (tenant_id, request_id, place, problems, requested_at), insert (tenant_id, request_id, place, sealed)
    on okcm.root_key_request to okcm_operator, okcm_dashboard;

-- Return tenants with credentials that no workflow took within 15 minutes, far longer than a request takes to start.
create function okcm.untaken_credentials(at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select t.tenant_id from okcm.tenant t join okcm.root_key_request r on r.tenant_id = t.tenant_id
        where r.sealed is not null and r.requested_at < now() - interval '15 minutes'
        group by t.tenant_id
        order by (t.scheduled_attempts ->> 'unused-credentials')::timestamptz nulls first, min(r.requested_at)
        limit at_most;
end
$$;
revoke execute on function okcm.untaken_credentials(integer) from public;
grant execute on function okcm.untaken_credentials(integer) to okcm_worker;

-- One change of the root key. `wrapped` of `total` service keys are wrapped by the new one as well; they switch
-- together.
create table okcm.root_key_change (
    tenant_id   text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    number      integer not null check (number > 0),
    from_mode   text not null,
    from_name   text not null,
    to_mode     text not null,
    to_name     text not null,
    root_key_id text,
    state       text not null default 'running' check (state in ('running', 'done', 'failed')),
    total       integer not null default 0 check (total >= 0),
    wrapped     integer not null default 0 check (wrapped between 0 and total),
    problem     text check (length(problem) between 1 and 60),
    started_at  timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    primary key (tenant_id, number),
    foreign key (tenant_id) references okcm.tenant,
    foreign key (tenant_id, root_key_id) references okcm.root_key
);
grant select, insert (tenant_id, number, from_mode, from_name, to_mode, to_name, root_key_id),
    update (root_key_id, state, total, wrapped, problem, finished_at) on okcm.root_key_change to okcm_worker;
grant select on okcm.root_key_change to okcm_operator, okcm_dashboard;

-- Return for one of `shards` parts of a region the tenants that changed since the transaction `since`, those in
-- `tenants`, and the first `at_most` behind `after` in order of their id (`listed`). `root_key_id` is null for a tenant
-- that is not monitored any more. `endpoint` names the server of a root key: a slow one must not delay the checks at
-- others. `used_seconds` is the time that is left until no service was active within `lately`, null for no service:
-- until then a process may have cached a service key.
--
-- The parameters differ greatly in their selectivity, so each call needs its own plan.
create function okcm.monitored_root_keys(of_region text, shard integer, shards integer, lately interval, since xid8,
    tenants text[], after text, at_most integer)
returns table (tenant_id text, listed boolean, root_key_id text, endpoint text, health text, health_since timestamptz,
               held boolean, used_seconds double precision)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
as $$
begin
    perform okcm.require_platform_context();
    return query
        with changed as (
            select r.tenant_id from okcm.root_key r where r.monitoring_xid >= since
            union select t.tenant_id from okcm.tenant t where t.monitoring_xid >= since
            union select s.tenant_id from okcm.service s where s.monitoring_xid >= since
            union select unnest(tenants)
        ), page as (
            select k.tenant_id from okcm.root_key k join okcm.tenant t on t.tenant_id = k.tenant_id
            where k.state = 'current' and k.tenant_id > after and t.region = of_region
            and t.state in ('active', 'suspended', 'locked')
            and mod(hashtextextended(k.tenant_id, 0) & 2147483647, shards) = shard
            order by k.tenant_id limit at_most
        ), wanted as (
            select c.tenant_id, false as listed from changed c
            where mod(hashtextextended(c.tenant_id, 0) & 2147483647, shards) = shard
            and c.tenant_id not in (select p.tenant_id from page p)
            and exists (select from okcm.root_key r where r.tenant_id = c.tenant_id)
            union all select p.tenant_id, true from page p
        )
        select w.tenant_id, w.listed, k.root_key_id,
               concat_ws(' ', k.mode, k.place ->> 'address', split_part(k.place ->> 'key_arn', ':', 4)),
               k.health, k.health_since, 'root-key' = any (t.locks), u.used_seconds
        from wanted w
        left join (okcm.root_key k join okcm.tenant t on t.tenant_id = k.tenant_id and k.state = 'current'
                   and t.region = of_region and t.state in ('active', 'suspended', 'locked'))
            on k.tenant_id = w.tenant_id
        left join lateral (
            select extract(epoch from max(s.last_seen_at) + lately - statement_timestamp())::double precision
            from okcm.service s where s.tenant_id = k.tenant_id) as u (used_seconds) on true;
end
$$;
revoke execute on function
    okcm.monitored_root_keys(text, integer, integer, interval, xid8, text[], text, integer) from public;
grant execute on function
    okcm.monitored_root_keys(text, integer, integer, interval, xid8, text[], text, integer) to okcm_worker;

-- Return the oldest root key version in use, for each tenant whose root key numbers its versions. The worker asks the
-- key server for the newest one. Unhealthy keys are left to the health checks. Tenants with the oldest attempt come
-- first, then those with the oldest last rotation, so that tenants that fail do not delay the others.
create function okcm.numbered_root_keys()
returns table (tenant_id text, region text, root_key_id text, oldest integer, noticed integer)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select t.tenant_id, t.region, r.root_key_id, least(r.probe_version, k.oldest), t.root_key_newest
        from okcm.tenant t
        left join okcm.root_key r on r.tenant_id = t.tenant_id and r.state = 'current'
        left join lateral (select min(s.root_key_version) as oldest from okcm.service_key s
                           where s.tenant_id = t.tenant_id) k on true
        where t.state in ('active', 'suspended') and (r.root_key_id is null or r.health = 'ok')
        and least(r.probe_version, k.oldest) is not null
        order by (t.scheduled_attempts ->> 'root-key-versions')::timestamptz nulls first,
                 (select max(n.started_at) from okcm.rotation n where n.tenant_id = t.tenant_id) nulls first,
                 t.tenant_id;
end
$$;
revoke execute on function okcm.numbered_root_keys() from public;
grant execute on function okcm.numbered_root_keys() to okcm_worker;


-- ===== Services =====

create table okcm.service (
    tenant_id       text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    service         text not null check (service ~ '^[a-z0-9][a-z0-9-]{0,39}$'),
    kind            text not null check (kind in ('mongodb', 'postgresql', 'microservice')),
    state           text not null default 'connecting' check (state in ('connecting', 'connected', 'disconnected')),
    created_at      timestamptz not null default now(),
    connected_at    timestamptz,
    disconnected_at timestamptz,
    last_seen_at    timestamptz,
    monitoring_xid  xid8,
    primary key (tenant_id, service),
    foreign key (tenant_id) references okcm.tenant
) with (fillfactor = 70);  -- updates of last_seen_at stay in their page
create trigger announce_change after update of state on okcm.service
    for each row when (old.state is distinct from new.state) execute function okcm.announce_change();
create index service_monitoring on okcm.service (monitoring_xid) where monitoring_xid is not null;
-- Only the first use after a pause: each other update of last_seen_at stays in its page. The pause is shorter than
-- `lately` of monitored_root_keys, after which monitoring reads a tenant again without a mark.
create trigger mark_for_monitoring before update of last_seen_at on okcm.service for each row
    when (old.last_seen_at is null or new.last_seen_at > old.last_seen_at + interval '30 seconds')
    execute function okcm.mark_for_monitoring();
grant select, insert (tenant_id, service, kind), update (state, connected_at, disconnected_at)
    on okcm.service to okcm_worker;
grant select (tenant_id, service, kind, state) on okcm.service to okcm_marketplace;
grant select on okcm.service to okcm_operator, okcm_dashboard;
grant select, update (last_seen_at) on okcm.service to okcm_crypto;

-- A request for a certificate. It does not reference service, which the workflow that reads the request creates first.
-- A request is used again by each renewal of its service's certificate (`used_at`). A request that no certificate was
-- issued for within its retention belongs to no valid certificate: those live at most 72 hours.
create table okcm.service_request (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    request_id   text not null check (length(request_id) between 1 and 200),
    service      text not null check (service ~ '^[a-z0-9][a-z0-9-]{0,39}$'),
    kind         text not null check (kind in ('mongodb', 'postgresql', 'microservice')),
    csr_pem      text not null check (length(csr_pem) between 1 and 16384),
    requested_at timestamptz not null default clock_timestamp(),
    used_at      timestamptz not null default now(),
    primary key (tenant_id, request_id),
    foreign key (tenant_id) references okcm.tenant
);
create index service_request_age on okcm.service_request (tenant_id, used_at);
-- The policy platforms_own limits the worker's requests to the platform's own tenants.
grant select, insert (tenant_id, request_id, service, kind, csr_pem)
    on okcm.service_request to okcm_worker, okcm_operator, okcm_dashboard;
grant update (used_at) on okcm.service_request to okcm_worker;
grant select (tenant_id), insert (tenant_id, request_id, service, kind, csr_pem)
    on okcm.service_request to okcm_marketplace;


-- ===== Certificates =====

-- `state` follows core/certificates.py. `key_version` is the version of the tenant's Transit key that the certificate
-- is about; two certificates never share a number. Only the state of a recorded authority changes.
create table okcm.certificate_authority (
    tenant_id       text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    serial          text not null check (serial ~ '^[0-9a-f]{1,64}$'),
    certificate_pem text not null,
    chain_pem       text not null,
    not_after       timestamptz not null,
    recorded_at     timestamptz not null default now(),
    state           text not null default 'current' check (state in ('prepared', 'current', 'former', 'ended')),
    key_version     integer not null default 1 check (key_version > 0),
    primary key (tenant_id, serial),
    unique (tenant_id, key_version),
    foreign key (tenant_id) references okcm.tenant
);
-- For unknown_serials, which finds a serial without its tenant.
create index certificate_authority_serial on okcm.certificate_authority (serial);
create unique index certificate_authority_current on okcm.certificate_authority (tenant_id) where state = 'current';
create unique index certificate_authority_former on okcm.certificate_authority (tenant_id) where state = 'former';
create trigger announce_change after insert or update or delete on okcm.certificate_authority
    for each row execute function okcm.announce_change();
grant select, insert (tenant_id, serial, certificate_pem, chain_pem, not_after, state, key_version), update (state)
    on okcm.certificate_authority to okcm_worker;
grant select on okcm.certificate_authority to okcm_marketplace, okcm_operator, okcm_crypto, okcm_dashboard;

-- A service's certificate and the authority that issued it: what an ended authority issued is rejected.
create table okcm.service_certificate (
    tenant_id       text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    serial          text not null check (serial ~ '^[0-9a-f]{1,64}$'),
    service         text not null check (service ~ '^[a-z0-9][a-z0-9-]{0,39}$'),
    generation      integer not null check (generation > 0),
    request_id      text not null check (length(request_id) between 1 and 200),
    certificate_pem text not null check (length(certificate_pem) between 1 and 16384),
    not_before      timestamptz not null,
    not_after       timestamptz not null check (not_after > not_before),
    recorded_at     timestamptz not null default clock_timestamp(),
    revoked_at      timestamptz,
    authority       text not null,
    primary key (tenant_id, serial),
    unique (tenant_id, service, generation),
    foreign key (tenant_id, service) references okcm.service,
    foreign key (tenant_id, authority) references okcm.certificate_authority (tenant_id, serial)
);
create index service_certificate_authority on okcm.service_certificate (tenant_id, authority, not_after);
create index service_certificate_revoked on okcm.service_certificate (tenant_id, authority, revoked_at)
    where revoked_at is not null;
create index service_certificate_age on okcm.service_certificate (tenant_id, not_after);
create trigger announce_change after insert or update on okcm.service_certificate
    for each row execute function okcm.announce_change();
-- No cache holds an expired certificate: its deletion needs no notification.
create trigger announce_deletion after delete on okcm.service_certificate
    for each row when (old.not_after > statement_timestamp()) execute function okcm.announce_change();
grant select,
    insert (tenant_id, serial, service, generation, request_id, certificate_pem, not_before, not_after, authority),
    update (revoked_at) on okcm.service_certificate to okcm_worker;
grant select on okcm.service_certificate to okcm_marketplace, okcm_operator, okcm_crypto, okcm_dashboard;

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

-- The newest CRL of an authority (RFC 5280, section 5). Numbers rise over all CRLs of a tenant. `this_update` is when
-- the revoked certificates were read, by this server's clock; later revocations are not in the CRL.
create table okcm.certificate_revocation_list (
    tenant_id   text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    authority   text not null check (authority ~ '^[0-9a-f]{1,64}$'),
    number      bigint not null check (number > 0),
    der         bytea not null check (length(der) between 1 and 16777216),
    this_update timestamptz not null,
    next_update timestamptz not null check (next_update > this_update),
    primary key (tenant_id, authority),
    foreign key (tenant_id, authority) references okcm.certificate_authority (tenant_id, serial)
);
grant select, insert (tenant_id, authority, number, der, this_update, next_update),
    update (number, der, this_update, next_update) on okcm.certificate_revocation_list to okcm_worker;
grant select on okcm.certificate_revocation_list to okcm_operator, okcm_crypto, okcm_dashboard;

-- Return those serials that no authority has.
create function okcm.unknown_serials(serials text[]) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select s from unnest(serials) as s
        where not exists (select from okcm.certificate_authority c where c.serial = s);
end
$$;
revoke execute on function okcm.unknown_serials(text[]) from public;
grant execute on function okcm.unknown_serials(text[]) to okcm_worker;

-- Return tenants whose authority has a third of its lifetime left and whose former authority has ended.
create function okcm.due_authorities(at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select a.tenant_id from okcm.certificate_authority a join okcm.tenant t on t.tenant_id = a.tenant_id
        where a.state = 'current' and t.state in ('active', 'suspended', 'locked')
        and (a.not_after - statement_timestamp()) * 3 <= a.not_after - a.recorded_at
        and not exists (select from okcm.certificate_authority f where f.tenant_id = a.tenant_id and f.state = 'former')
        order by (t.scheduled_attempts ->> 'ca-rotation')::timestamptz nulls first, a.not_after limit at_most;
end
$$;
revoke execute on function okcm.due_authorities(integer) from public;
grant execute on function okcm.due_authorities(integer) to okcm_worker;

-- Return tenants whose former authority issued no certificate that is still valid.
create function okcm.outlived_authorities(at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select a.tenant_id from okcm.certificate_authority a join okcm.tenant t on t.tenant_id = a.tenant_id
        where a.state = 'former' and not exists (
            select from okcm.service_certificate c where c.tenant_id = a.tenant_id and c.authority = a.serial
            and c.not_after > statement_timestamp())
        order by (t.scheduled_attempts ->> 'ca-retirement')::timestamptz nulls first, a.tenant_id limit at_most;
end
$$;
revoke execute on function okcm.outlived_authorities(integer) from public;
grant execute on function okcm.outlived_authorities(integer) to okcm_worker;

-- Return tenants whose CRL is missing, older than `oldest`, or without a later revocation; the oldest attempt comes
-- first, then the oldest CRL.
create function okcm.stale_revocation_lists(oldest interval, at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select t.tenant_id from okcm.tenant t join okcm.certificate_authority a on a.tenant_id = t.tenant_id
        left join okcm.certificate_revocation_list l on l.tenant_id = a.tenant_id and l.authority = a.serial
        where a.state in ('current', 'former') and t.state in ('active', 'suspended', 'locked')
        and (l.this_update is null or l.this_update < statement_timestamp() - oldest
             or exists (select from okcm.service_certificate c where c.tenant_id = a.tenant_id
                        and c.authority = a.serial and c.revoked_at > l.this_update))
        group by t.tenant_id
        order by (t.scheduled_attempts ->> 'revocation-lists')::timestamptz nulls first,
                 min(l.this_update) nulls first
        limit at_most;
end
$$;
revoke execute on function okcm.stale_revocation_lists(interval, integer) from public;
grant execute on function okcm.stale_revocation_lists(interval, integer) to okcm_worker;

-- Return certificates, authorities and CRLs with less than a sixth of their lifetime left, or none
-- (core/certificates.py). Of a connected service only the newest certificate counts.
create function okcm.expiring(at_most integer)
returns table (tenant_id text, region text, kind text, name text, serial text, generation integer,
               begins timestamptz, ends timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        with life as (
            select s.tenant_id, 'certificate' as kind, s.service as name, c.serial, c.generation,
                   c.not_before as begins, c.not_after as ends
            from okcm.service s cross join lateral (
                select n.* from okcm.service_certificate n
                where n.tenant_id = s.tenant_id and n.service = s.service and n.revoked_at is null
                order by n.generation desc limit 1) c
            where s.state = 'connected'
            union all
            select a.tenant_id, 'authority', a.serial, a.serial, 0, a.recorded_at, a.not_after
            from okcm.certificate_authority a where a.state = 'current'
            union all
            select l.tenant_id, 'revocation-list', l.authority, l.authority || '-' || l.number, 0,
                   l.this_update, l.next_update
            from okcm.certificate_revocation_list l join okcm.certificate_authority a
            on a.tenant_id = l.tenant_id and a.serial = l.authority and a.state in ('current', 'former'))
        select life.tenant_id, t.region, life.kind, life.name, life.serial, life.generation, life.begins, life.ends
        from life join okcm.tenant t on t.tenant_id = life.tenant_id
        where t.state in ('active', 'suspended', 'locked')
        and (life.ends - statement_timestamp()) * 6 < life.ends - life.begins
        -- Of a tenant, items that have not expired come first, the longest expired last.
        order by (t.scheduled_attempts ->> 'expiry')::timestamptz nulls first, life.ends desc limit at_most;
end
$$;
revoke execute on function okcm.expiring(integer) from public;
grant execute on function okcm.expiring(integer) to okcm_worker;

-- Return the connected services whose certificates are renewed, each with its newest certificate that is not revoked,
-- in order from the first behind (`after_tenant`, `after_service`).
create function okcm.workflow_services(after_tenant text, after_service text, at_most integer)
returns table (tenant_id text, region text, service text, generation integer, not_before timestamptz,
               not_after timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select s.tenant_id, t.region, s.service, c.generation, c.not_before, c.not_after
        from okcm.service s join okcm.tenant t on t.tenant_id = s.tenant_id cross join lateral (
            select n.generation, n.not_before, n.not_after from okcm.service_certificate n
            where n.tenant_id = s.tenant_id and n.service = s.service and n.revoked_at is null
            order by n.generation desc limit 1) c
        where (s.tenant_id, s.service) > (after_tenant, after_service) and s.state = 'connected'
        and t.destroying_at is null
        order by s.tenant_id, s.service limit at_most;
end
$$;
revoke execute on function okcm.workflow_services(text, text, integer) from public;
grant execute on function okcm.workflow_services(text, text, integer) to okcm_worker;


-- ===== Service keys and managed objects =====

-- A service key (L3), stored only as L1.wrap(L2.encrypt(L3)): neither the database nor the key server can decrypt it
-- alone. `state` follows NIST SP 800-57 part 1, section 7: prepared (unused), active (encrypts), deactivated (decrypts
-- only), compromised (decrypts only to re-encrypt), destroyed (the wrap is deleted). `l2_version` is the version of L2
-- in the wrap. `root_key_id` is the customer's root key, null for the platform's. `staged_wrapped` is a wrap by the
-- root key of the change `staged_for`, until all service keys switch. `emptied_at` is when no object used the version
-- any more; since then none may use it. `root_key_version` is derived from the wrap, as probe_version of root_key is.
create table okcm.service_key (
    tenant_id        text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    service          text not null check (service ~ '^[a-z0-9][a-z0-9-]{0,39}$'),
    version          integer not null check (version > 0),
    l2_key           text not null check (length(l2_key) between 1 and 100),
    root_key_mode    text not null check (root_key_mode ~ '^[a-z][a-z0-9-]{0,19}$'),
    root_key         text not null check (length(root_key) between 1 and 512),
    wrapped          bytea check (length(wrapped) between 1 and 8192),
    created_at       timestamptz not null default clock_timestamp(),
    root_key_id      text,
    staged_for       integer,
    staged_wrapped   bytea check (length(staged_wrapped) between 1 and 8192),
    state            text not null default 'active'
                         check (state in ('prepared', 'active', 'deactivated', 'compromised', 'destroyed')),
    l2_version       integer not null default 1 check (l2_version > 0),
    activated_at     timestamptz default clock_timestamp(),
    deactivated_at   timestamptz,
    destroyed_at     timestamptz,
    last_opened_at   timestamptz,
    emptied_at       timestamptz,
    root_key_version integer generated always as (
        case when root_key_mode in ('platform', 'openbao') then
            substring(encode(substring(wrapped from 1 for 17), 'escape') from '^vault:v([0-9]{1,9}):')::integer end
    ) stored,
    primary key (tenant_id, service, version),
    -- Objects reference the whole lineage of their key.
    unique (tenant_id, l2_key, service, version),
    foreign key (tenant_id, service) references okcm.service,
    -- A service key belongs to a key of the same tenant (MTCI U1).
    foreign key (tenant_id, l2_key) references okcm.key (tenant_id, name),
    constraint service_key_root_key_fkey foreign key (tenant_id, root_key_id) references okcm.root_key,
    constraint service_key_staged_for_fkey
        foreign key (tenant_id, staged_for) references okcm.root_key_change (tenant_id, number),
    constraint service_key_mode_check check ((root_key_mode = 'platform') = (root_key_id is null)),
    constraint service_key_staged_check check ((staged_for is null) = (staged_wrapped is null)),
    constraint service_key_destroyed_check
        check ((state = 'destroyed') = (wrapped is null) and (wrapped is not null or staged_wrapped is null)),
    constraint service_key_activated_check check (state in ('prepared', 'destroyed') or activated_at is not null)
) with (fillfactor = 70);  -- updates of last_opened_at stay in their page
create unique index service_key_active on okcm.service_key (tenant_id, service) where state = 'active';
-- For stale_services: it reads versions that are not empty yet, instead of objects.
create index service_key_unemptied on okcm.service_key (tenant_id, service, version)
    where state in ('deactivated', 'compromised') and emptied_at is null;
-- A prepared version is not in use, and a wrap under a newer L2 holds the same key: neither needs a notification.
create trigger announce_change after insert on okcm.service_key for each row when (new.state <> 'prepared')
    execute function okcm.announce_change();
create trigger announce_rewrap after update on okcm.service_key for each row
    when (old.state is distinct from new.state or old.root_key_id is distinct from new.root_key_id)
    execute function okcm.announce_change();

-- The crypto service records use and emptied versions; by last_opened_at a customer sees which version is unused.
-- Operators and the dashboard see everything but the wraps.
grant select,
    insert (tenant_id, service, version, l2_key, root_key_mode, root_key, wrapped, root_key_id, state, l2_version,
        activated_at),
    update (root_key_mode, root_key, wrapped, root_key_id, staged_for, staged_wrapped, state, l2_version, activated_at,
        deactivated_at, destroyed_at) on okcm.service_key to okcm_worker;
grant select (tenant_id, service, version, l2_key, root_key_mode, root_key, created_at, state, l2_version, activated_at,
    deactivated_at, destroyed_at, last_opened_at, emptied_at, root_key_version)
    on okcm.service_key to okcm_operator, okcm_dashboard;
grant select, update (last_opened_at, emptied_at) on okcm.service_key to okcm_crypto;

-- MTCI M1: [tenant][L2][object]. The reference carries the whole lineage: a row that claims another L2, another
-- service's key or an unknown version is rejected.
create table okcm.managed_object (
    tenant_id   text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    l2_key      text not null check (length(l2_key) between 1 and 100),
    object_id   text not null check (length(object_id) between 1 and 200),
    service     text not null check (service ~ '^[a-z0-9][a-z0-9-]{0,39}$'),
    object_type integer not null check (object_type > 0),
    state       integer not null check (state between 0 and 6),
    names       text[] not null check (cardinality(names) <= 64 and array_position(names, null) is null
                                       and length(array_to_string(names, '')) <= 16384),
    attributes  bytea not null check (length(attributes) <= 65536),
    key_version integer not null check (key_version > 0),
    material    bytea check (length(material) between 1 and 65536),
    revision    integer not null check (revision > 0),
    created_at  timestamptz not null default clock_timestamp(),
    -- Objects are found by name through these two: under row security PostgreSQL uses no index over an array, because
    -- its operators are not leakproof. The hash includes the service, so that only the unique index begins with tenant
    -- and service; between two such indexes the planner would choose arbitrarily for a tenant with many objects.
    name_hash   bigint generated always as (hashtextextended(service || '/' || names[1], 0)) stored,
    more_names  boolean not null generated always as (cardinality(names) > 1) stored,
    primary key (tenant_id, l2_key, object_id),
    -- A service asks by id, and two L2s never hold the same object of one service.
    unique (tenant_id, service, object_id),
    foreign key (tenant_id, l2_key, service, key_version)
        references okcm.service_key (tenant_id, l2_key, service, version)
);
create index managed_object_name on okcm.managed_object (tenant_id, name_hash);
create index managed_object_more_names on okcm.managed_object (tenant_id) where more_names;
-- To walk through the objects of one version. Destroyed objects have no material.
create index managed_object_sealed on okcm.managed_object (tenant_id, service, key_version, object_id)
    where material is not null;

-- The columns that identify an object never change; re-encryption changes the rest. The worker reads ids and states to
-- attack and to count, and no content.
grant select (tenant_id, l2_key, object_id, service, state) on okcm.managed_object to okcm_worker;
grant select (tenant_id, l2_key, object_id, service, object_type, state, names, key_version, revision, created_at)
    on okcm.managed_object to okcm_operator, okcm_dashboard;
grant select,
    insert (tenant_id, l2_key, object_id, service, object_type, state, names, attributes, key_version, material,
        revision),
    update (state, names, attributes, key_version, material, revision), delete on okcm.managed_object to okcm_crypto;

-- No cache holds a new object, so an insert needs no notification. Nor does re-encryption: a cached object decrypts
-- until its version ends, which is notified for the whole tenant. So a million re-encrypted objects clear no cache.
create trigger announce_change after delete on okcm.managed_object
    for each row execute function okcm.announce_change('/objects');
create trigger announce_update after update on okcm.managed_object for each row
    when (old.key_version = new.key_version or old.state <> new.state or old.names <> new.names
          or old.attributes <> new.attributes or old.material is null or new.material is null)
    execute function okcm.announce_change('/objects');

-- Reject an object under a version that is empty or destroyed; it would be lost with the version. The share lock orders
-- this check with the processes that mark a version as empty or destroy it: they wait for writers.
create function okcm.refuse_ended_version() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    version_row record;
begin
    select k.state, k.emptied_at into version_row from okcm.service_key k
        where k.tenant_id = new.tenant_id and k.service = new.service and k.version = new.key_version for share;
    if version_row.state = 'destroyed' or (version_row.state <> 'active' and version_row.emptied_at is not null) then
        raise check_violation using message = 'this version of the service key accepts no objects';
    end if;
    return new;
end
$$;
revoke execute on function okcm.refuse_ended_version() from public;
create trigger refuse_ended_version before insert on okcm.managed_object
    for each row execute function okcm.refuse_ended_version();
create trigger refuse_ended_version_again before update on okcm.managed_object
    for each row when (old.key_version is distinct from new.key_version)
    execute function okcm.refuse_ended_version();

-- Return how many objects a version encrypts, for the worker, which may not read their content.
create function okcm.objects_sealed(of_service text, of_version integer) returns bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    tenant text := current_setting('app.tenant_id', true);
begin
    if not okcm.ctx_ok() or tenant = '*' then
        raise insufficient_privilege using message = 'the context is not signed for a tenant';
    end if;
    return (select count(*) from okcm.managed_object o
            where o.tenant_id = tenant and o.service = of_service and o.key_version = of_version
            and o.material is not null);
end
$$;
revoke execute on function okcm.objects_sealed(text, integer) from public;
grant execute on function okcm.objects_sealed(text, integer) to okcm_worker;

-- Return services with an old version that may still have objects, of tenants whose state allows decryption.
create function okcm.stale_services(after_tenant text, after_service text, at_most integer)
returns table (tenant_id text, service text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select distinct k.tenant_id, k.service from okcm.service_key k join okcm.tenant t on t.tenant_id = k.tenant_id
        where k.state in ('deactivated', 'compromised') and k.emptied_at is null
        and (k.tenant_id, k.service) > (after_tenant, after_service) and t.state in ('active', 'suspended')
        order by k.tenant_id, k.service limit at_most;
end
$$;
revoke execute on function okcm.stale_services(text, text, integer) from public;
grant execute on function okcm.stale_services(text, text, integer) to okcm_crypto;


-- ===== Rotation =====

-- `services` selects the services that get a new key version. `from_version` is the newest L2 version at the start: a
-- repeated step compares with it to find whether it created the next one. `done` of `total` items finished the stage.
-- `root_key_version` is the lowest root key version for the new wraps, null if the root key has no versions to adopt.
create table okcm.rotation (
    tenant_id        text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    number           integer not null check (number > 0),
    tenant_key       boolean not null,
    from_version     integer not null check (from_version > 0),
    services         text not null check (services in ('none', 'due', 'all', 'one')),
    service          text check (service ~ '^[a-z0-9][a-z0-9-]{0,39}$'),
    compromised      boolean not null default false,
    scheduled        boolean not null default false,
    state            text not null default 'running' check (state in ('running', 'done', 'failed')),
    stage            text not null default 'plan' check (length(stage) between 1 and 60),
    total            integer not null default 0 check (total >= 0),
    done             integer not null default 0 check (done between 0 and total),
    problem          text check (length(problem) between 1 and 60),
    started_at       timestamptz not null default clock_timestamp(),
    finished_at      timestamptz,
    root_key_version integer check (root_key_version > 0),
    primary key (tenant_id, number),
    foreign key (tenant_id) references okcm.tenant,
    check ((services = 'one') = (service is not null))
);
grant select,
    insert (tenant_id, number, tenant_key, from_version, services, service, compromised, scheduled, root_key_version),
    update (state, stage, total, done, problem, finished_at) on okcm.rotation to okcm_worker;
grant select on okcm.rotation to okcm_operator, okcm_dashboard;

-- Return tenants with keys past their cryptoperiod, an unfinished rotation, or compromised versions without objects.
-- Tenants with the oldest attempt come first, then those with the oldest last rotation, so that tenants that fail do
-- not delay the others.
create function okcm.due_rotations(
    default_tenant_key_days integer, default_service_key_days integer, at_most integer)
returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select t.tenant_id from okcm.tenant t left join okcm.tenant_policy p on p.tenant_id = t.tenant_id
        where t.state in ('active', 'suspended') and (
            exists (select from okcm.key k where k.tenant_id = t.tenant_id and k.kind = 'L2'
                    and (k.oldest < k.version or k.rotated_at < statement_timestamp()
                         - make_interval(days => coalesce(p.tenant_key_days, default_tenant_key_days))))
            or exists (select from okcm.service_key k join okcm.service s
                       on s.tenant_id = k.tenant_id and s.service = k.service
                       where k.tenant_id = t.tenant_id and k.state = 'active' and s.state <> 'disconnected'
                       and k.activated_at < statement_timestamp()
                           - make_interval(days => coalesce(p.service_key_days, default_service_key_days)))
            or exists (select from okcm.service_key k where k.tenant_id = t.tenant_id and k.state = 'compromised'
                       and not exists (select from okcm.managed_object o
                                       where o.tenant_id = k.tenant_id and o.service = k.service
                                       and o.key_version = k.version and o.material is not null)))
        order by (t.scheduled_attempts ->> 'rotations')::timestamptz nulls first,
                 (select max(r.started_at) from okcm.rotation r where r.tenant_id = t.tenant_id) nulls first,
                 t.tenant_id
        limit at_most;
end
$$;
revoke execute on function okcm.due_rotations(integer, integer, integer) from public;
grant execute on function okcm.due_rotations(integer, integer, integer) to okcm_worker;

-- Return tenants whose keys are not rotated although due, and why: `unfinished`, a rotation runs too long; `failed`,
-- the last scheduled rotation failed and keys are still due; `overdue`, keys are past their cryptoperiod by `overdue`
-- and no rotation began. `number` is the last rotation and `done` the last completed one, 0 without one.
create function okcm.stuck_rotations(
    default_tenant_key_days integer, default_service_key_days integer, unfinished interval, overdue interval,
    at_most integer)
returns table (tenant_id text, why text, number integer, problem text, done integer)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select t.tenant_id,
               case r.state when 'running' then 'unfinished' when 'failed' then 'failed' else 'overdue' end,
               coalesce(r.number, 0), coalesce(r.problem, ''),
               coalesce((select max(d.number) from okcm.rotation d
                         where d.tenant_id = t.tenant_id and d.state = 'done'), 0)
        from okcm.tenant t
        left join okcm.tenant_policy p on p.tenant_id = t.tenant_id
        left join lateral (select n.number, n.problem, n.started_at,
                                  -- A person who requested a rotation was notified of its failure.
                                  case when n.state = 'failed' and not n.scheduled then 'done' else n.state end as state
                           from okcm.rotation n where n.tenant_id = t.tenant_id
                           order by n.number desc limit 1) r on true
        where t.state in ('active', 'suspended', 'locked') and case r.state
            when 'running' then r.started_at < statement_timestamp() - unfinished
            when 'failed' then t.tenant_id in (
                select okcm.due_rotations(default_tenant_key_days, default_service_key_days, 2147483647))
            else t.state <> 'locked' and (
                exists (select from okcm.key k where k.tenant_id = t.tenant_id and k.kind = 'L2'
                        and k.rotated_at < statement_timestamp() - overdue
                            - make_interval(days => coalesce(p.tenant_key_days, default_tenant_key_days)))
                or exists (select from okcm.service_key k join okcm.service s
                           on s.tenant_id = k.tenant_id and s.service = k.service
                           where k.tenant_id = t.tenant_id and k.state = 'active' and s.state <> 'disconnected'
                           and k.activated_at < statement_timestamp() - overdue
                               - make_interval(days => coalesce(p.service_key_days, default_service_key_days))))
            end
        order by (t.scheduled_attempts ->> 'stalled-rotations')::timestamptz nulls first, r.started_at nulls first,
                 t.tenant_id
        limit at_most;
end
$$;
revoke execute on function okcm.stuck_rotations(integer, integer, interval, interval, integer) from public;
grant execute on function okcm.stuck_rotations(integer, integer, interval, interval, integer) to okcm_worker;


-- ===== Approvals =====

-- A request for an action that needs two persons. It expires a set time after the worker opens it, and only the worker
-- changes its state. `argument` states the action in public facts. `used_by` is the operation that used the approval.
create table okcm.approval (
    tenant_id      text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    approval_id    text not null check (approval_id ~ '^[0-9a-f]{32}$'),
    action         text not null check (action in (
        'lock', 'root-key-to-platform', 'change-policy', 'offboard', 'compromise', 'retire-key-version')),
    argument       jsonb not null default '{}'
                       check (jsonb_typeof(argument) = 'object' and length(argument::text) <= 2000),
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
    -- A faulty process cannot store an approval without a decider, or by the requester.
    constraint approval_two_people_check check (state not in ('approved', 'done', 'failed')
        or (decided_by is not null and decided_by <> requested_by and expires_at is not null)),
    constraint approval_used_check check (used_by is null or state in ('approved', 'done', 'failed'))
);
create index approval_open on okcm.approval (tenant_id, expires_at) where state = 'pending';

-- One person's vote on a request, once. `roles` are those of the sign-on.
create table okcm.approval_vote (
    tenant_id   text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    approval_id text not null,
    subject     text not null check (length(subject) between 1 and 300),
    name        text not null check (length(name) <= 300),
    roles       text[] not null check (roles <@ array['administrator', 'key-administrator', 'auditor', 'operator']),
    choice      text not null check (choice in ('approve', 'decline', 'withdraw')),
    voted_at    timestamptz not null default clock_timestamp(),
    primary key (tenant_id, approval_id, subject),
    -- Approval and votes reference each other; the cascade lets erase_tenant delete both.
    foreign key (tenant_id, approval_id) references okcm.approval on delete cascade
);
-- The decider voted. The two tables reference each other, so this constraint follows both.
alter table okcm.approval add constraint approval_decided_by_fkey
    foreign key (tenant_id, approval_id, decided_by) references okcm.approval_vote (tenant_id, approval_id, subject);

-- The dashboard requests and votes; the worker decides.
grant select, update (state, expires_at, decided_by, decided_name, decided_at, used_by, reason)
    on okcm.approval to okcm_worker;
grant select on okcm.approval to okcm_operator;
grant select, insert (tenant_id, approval_id, action, argument, requested_by, requested_name)
    on okcm.approval to okcm_dashboard;
grant select on okcm.approval_vote to okcm_worker, okcm_operator;
grant select, insert (tenant_id, approval_id, subject, name, roles, choice) on okcm.approval_vote to okcm_dashboard;

-- Require an open session under the name in the column that the trigger's argument gives. It runs with the rights of
-- the role that inserts.
create function okcm.require_signed_on() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    perform from okcm.dashboard_session s
        where s.tenant_id = new.tenant_id and s.subject = to_jsonb(new) ->> tg_argv[0]
        and s.ended_at is null and s.expires_at > clock_timestamp();
    if not found then
        raise insufficient_privilege using message = 'no open session has this name';
    end if;
    return new;
end
$$;
revoke execute on function okcm.require_signed_on() from public;
create trigger signed_on before insert on okcm.approval
    for each row execute function okcm.require_signed_on('requested_by');
create trigger signed_on before insert on okcm.approval_vote
    for each row execute function okcm.require_signed_on('subject');


-- ===== Enrolment =====

-- A one-time token of an administrator for one service. Only the SHA-256 hash of the secret is stored. `used_at` and
-- `enrolment_id` are set once, together.
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
create index join_token_age on okcm.join_token (tenant_id, expires_at);
-- Operators and the dashboard create and list tokens, without their hashes. Only the endpoint marks a token as used.
grant select (tenant_id) on okcm.join_token to okcm_worker;
grant select, update (used_at, enrolment_id) on okcm.join_token to okcm_marketplace;
grant select (tenant_id, service, kind, made_by, made_at, expires_at, used_at, enrolment_id),
    insert (tenant_id, token_hash, service, kind, made_by, expires_at)
    on okcm.join_token to okcm_operator, okcm_dashboard;

-- Append the creation of a token to the audit stream, whichever process inserted it: the operator's role cannot append
-- it.
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

-- An agent's request. `proof_hash` identifies an attestation that must not be used twice: the hash of a join token, or
-- of issuer and jti of a JWT. `key_hash` is of the public key to certify; service_request holds the CSR under the same
-- id.
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
-- For pending_enrolments: empty while Temporal is available.
create index enrolment_pending on okcm.enrolment (requested_at) where state = 'pending';
create index enrolment_age on okcm.enrolment (tenant_id, requested_at);
grant select (tenant_id) on okcm.enrolment to okcm_worker;
grant select, insert (tenant_id, enrolment_id, service, kind, proof, proof_hash, key_hash, ticket_hash),
    update (state, settled_at, code, message, hint) on okcm.enrolment to okcm_marketplace;
grant select (tenant_id, enrolment_id, service, kind, proof, state, requested_at, settled_at, code, message, hint)
    on okcm.enrolment to okcm_operator, okcm_dashboard;

-- Return enrolments that no workflow has answered yet, oldest first, at most `at_most` of each region: a region without
-- a worker delays no other region.
create function okcm.pending_enrolments(at_most integer)
returns table (tenant_id text, enrolment_id text, region text, service text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select e.tenant_id, e.enrolment_id, e.region, e.service from (
            select p.tenant_id, p.enrolment_id, t.region, p.service, p.requested_at,
                   row_number() over (partition by t.region order by p.requested_at) as place
            from okcm.enrolment p join okcm.tenant t on t.tenant_id = p.tenant_id
            where p.state = 'pending') e
        where e.place <= at_most order by e.requested_at;
end
$$;
revoke execute on function okcm.pending_enrolments(integer) from public;
grant execute on function okcm.pending_enrolments(integer) to okcm_marketplace;

-- A service that the marketplace announced. The workflow that connects it inserts it into service.
create table okcm.discovery (
    tenant_id     text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    service       text not null check (service ~ '^[a-z0-9][a-z0-9-]{0,39}$'),
    kind          text not null check (kind in ('mongodb', 'postgresql', 'microservice')),
    discovered_at timestamptz not null default clock_timestamp(),
    primary key (tenant_id, service),
    foreign key (tenant_id) references okcm.tenant
);
grant select on okcm.discovery to okcm_worker, okcm_operator, okcm_dashboard;
grant select, insert (tenant_id, service, kind) on okcm.discovery to okcm_marketplace;


-- ===== Agents and protected fields =====
-- Agents and services report these facts from customers' machines. They are claims, not evidence, and they are bounded.

-- One row for each instance of an agent. The crypto service deletes instances after 30 days without contact, and keeps
-- the 50 most recent of a service.
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
grant select on okcm.agent to okcm_worker, okcm_operator, okcm_dashboard;
grant select,
    insert (tenant_id, service, instance, agent_version, certificate_not_after, problem, first_contact_at,
        last_contact_at),
    update (agent_version, certificate_not_after, problem, last_contact_at), delete on okcm.agent to okcm_crypto;

-- The version of each service's list of encrypted fields, from its first change on. It rises with every change.
create table okcm.protection (
    tenant_id  text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    service    text not null,
    version    bigint not null default 0 check (version >= 0),
    changed_by text not null check (length(changed_by) between 1 and 300),
    changed_at timestamptz not null default now(),
    primary key (tenant_id, service),
    foreign key (tenant_id, service) references okcm.service
) with (fillfactor = 70);
-- No role writes a version or a time: triggers do.
grant select (tenant_id) on okcm.protection to okcm_worker;
grant select, insert (tenant_id, service, changed_by), update (changed_by)
    on okcm.protection to okcm_operator, okcm_dashboard;
grant select (tenant_id, service, version) on okcm.protection to okcm_crypto;

-- Raise the version and set the time of every change.
create function okcm.raise_protection_version() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    new.version := old.version + 1;
    new.changed_at := now();
    return new;
end
$$;
revoke execute on function okcm.raise_protection_version() from public;
create trigger risen before update on okcm.protection for each row execute function okcm.raise_protection_version();

-- A column or field that a service's programs keep encrypted: its name, never its content. The domain rules verify
-- names in detail (core/protected_fields.py); these checks exclude names that would break readers.
create table okcm.protected_field (
    tenant_id         text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    service           text not null,
    store             text not null check (store in ('postgresql', 'mongodb')),
    place             text not null check (length(place) between 3 and 180 and place !~ '[[:cntrl:]]'),
    field             text not null check (length(field) between 1 and 180 and field !~ '[[:cntrl:]]'),
    mode              text not null check (mode in ('randomised', 'deterministic')),
    plaintext_allowed boolean not null,
    changed_by        text not null check (length(changed_by) between 1 and 300),
    changed_at        timestamptz not null,
    primary key (tenant_id, service, store, place, field),
    foreign key (tenant_id, service) references okcm.protection
);
grant select (tenant_id, service, store, place, field, mode, plaintext_allowed)
    on okcm.protected_field to okcm_worker, okcm_crypto;
grant select, insert (tenant_id, service, store, place, field, mode, plaintext_allowed, changed_by),
    update (mode, plaintext_allowed, changed_by), delete on okcm.protected_field to okcm_operator, okcm_dashboard;

-- A change of a field raises the version of its list, under the row lock of the list. So the limit also holds for
-- concurrent inserts.
create function okcm.version_protected_field() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    insert into okcm.protection as kept (tenant_id, service, changed_by)
        values (new.tenant_id, new.service, new.changed_by) on conflict do nothing;
    update okcm.protection set changed_by = new.changed_by
        where tenant_id = new.tenant_id and service = new.service;
    new.changed_at := now();
    if tg_op = 'INSERT' and (select count(*) from okcm.protected_field f
                             where f.tenant_id = new.tenant_id and f.service = new.service) >= 500 then
        raise check_violation using message = 'a service has at most 500 protected fields';
    end if;
    return new;
end
$$;
revoke execute on function okcm.version_protected_field() from public;
create trigger versioned before insert or update on okcm.protected_field
    for each row execute function okcm.version_protected_field();

-- Require an update by the same transaction before a deletion: a deleted row cannot name its author, so the update
-- stores the name and raises the version. The owner deletes only when it erases a tenant.
create function okcm.require_who_unprotects() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if old.changed_at <> now() then
        raise insufficient_privilege using message = 'a deletion needs an author: set changed_by first';
    end if;
    return old;
end
$$;
revoke execute on function okcm.require_who_unprotects() from public;
create trigger said before delete on okcm.protected_field
    for each row when (current_user <> 'okcm_owner') execute function okcm.require_who_unprotects();

-- Append every change to the audit stream, whichever process made it.
create function okcm.audit_protection() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    field      okcm.protected_field := case when tg_op = 'DELETE' then old else new end;
    event      text := format('protection/%s/%s', field.service, gen_random_uuid());
    event_name text := 'protection.field_protected';
    known      text := 'configurationCreate';
    details    jsonb := jsonb_build_object('store', field.store, 'place', field.place, 'field', field.field,
                                           'mode', field.mode, 'plaintext_allowed', field.plaintext_allowed::text);
begin
    if tg_op = 'DELETE' then
        event_name := 'protection.field_unprotected';
        known := 'configurationDelete';
    elsif tg_op = 'UPDATE' then
        if (new.mode, new.plaintext_allowed) = (old.mode, old.plaintext_allowed) then
            return null;
        end if;
        event_name := 'protection.field_changed';
        known := 'configurationUpdate';
        details := details || jsonb_build_object('former_mode', old.mode,
                                                 'former_plaintext_allowed', old.plaintext_allowed::text);
    end if;
    perform okcm.audit_append_all(jsonb_build_array(jsonb_build_object(
        'event_id', event, 'name', event_name, 'actor_kind', 'human', 'actor', field.changed_by,
        'subject', field.service, 'outcome', 'success', 'correlation_id', event, 'source', '', 'details', details,
        'upstream_event_type', known)));
    return null;
end
$$;
revoke execute on function okcm.audit_protection() from public;
create trigger audited after insert or update on okcm.protected_field
    for each row execute function okcm.audit_protection();
create trigger audited_deletion after delete on okcm.protected_field
    for each row when (current_user <> 'okcm_owner') execute function okcm.audit_protection();

-- What a service's programs encrypted and decrypted at one place (such as public.customers.ssn) on one UTC day. It
-- includes the duration, and that of the requests around it. Only the programs can report it: the data never reaches
-- the platform.
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

-- Operators do not see what customers do with their keys, here and in the tables of usage by day, backfill and reports.
grant select (tenant_id, day, service, place, operations, bytes, microseconds, requests, request_microseconds)
    on okcm.protection_use to okcm_worker;
grant select, insert (tenant_id, day, service, place, operations, bytes, microseconds, requests, request_microseconds),
    update (operations, bytes, microseconds, requests, request_microseconds) on okcm.protection_use to okcm_crypto;
grant select on okcm.protection_use to okcm_dashboard;

-- The progress of encrypting the rows from before a field was protected, one row for each place.
create table okcm.backfill (
    tenant_id   text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    service     text not null,
    place       text not null check (length(place) between 1 and 200),
    done        bigint not null check (done >= 0),
    remaining   bigint not null check (remaining >= 0),
    state       text not null check (state in ('running', 'waiting', 'finished', 'stopped', 'undoing', 'undone')),
    reported_at timestamptz not null,
    primary key (tenant_id, service, place),
    foreign key (tenant_id, service) references okcm.service
) with (fillfactor = 70);
-- The crypto service deletes the oldest rows of a service that reports too many places.
grant select on okcm.backfill to okcm_worker, okcm_dashboard;
grant select, insert (tenant_id, service, place, done, remaining, state, reported_at),
    update (done, remaining, state, reported_at), delete on okcm.backfill to okcm_crypto;


-- ===== Offboarding =====

-- Every key and certificate to destroy, recorded before the first is destroyed: afterwards it could not be described.
-- `fingerprint` is of the public key, the certificate, the wrap or the key server's record (docs/offboarding.md).
create table okcm.destruction (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    kind         text not null check (kind in ('L2 tenant key', 'service key', 'payload key',
                                               'certificate authority key', 'service certificate')),
    name         text not null check (length(name) between 1 and 200),
    versions     text not null check (length(versions) between 1 and 200),
    fingerprint  text not null check (fingerprint ~ '^[0-9a-f]{64}$'),
    gathered_at  timestamptz not null default clock_timestamp(),
    destroyed_at timestamptz,
    primary key (tenant_id, kind, name),
    foreign key (tenant_id) references okcm.tenant
);
grant select, insert (tenant_id, kind, name, versions, fingerprint), update (destroyed_at)
    on okcm.destruction to okcm_worker;
grant select on okcm.destruction to okcm_operator, okcm_dashboard;

-- `statement` is the exact text that was signed. A tenant has one, because an id is never used again.
create table okcm.shred_certificate (
    tenant_id text primary key check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    statement text not null check (length(statement) > 0),
    signature text not null check (length(signature) > 0),
    key       text not null check (length(key) > 0),
    issued_at timestamptz not null,
    foreign key (tenant_id) references okcm.tenant
);
grant select, insert on okcm.shred_certificate to okcm_worker;
grant select on okcm.shred_certificate to okcm_operator, okcm_dashboard;

-- Return whether the tenant of the context is being destroyed; the policies while_destroying use it.
create function okcm.is_destroying() returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (select from okcm.tenant where tenant_id = current_setting('app.tenant_id', true)
                   and state = 'offboarding' and destroying_at is not null);
end
$$;
revoke execute on function okcm.is_destroying() from public;

-- Delete at most `at_most` rows of each table and return whether all are deleted. One statement for a tenant with years
-- of usage would time out. tenant.erased counts the rows. Nothing is deleted before every key but the payload key is
-- destroyed: until then the rows list what remains to destroy. docs/offboarding.md says which rows stay, and why.
create function okcm.erase_tenant(at_most integer) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    signed_tenant text := current_setting('app.tenant_id', true);
    counts        jsonb;
    table_name    text;
    deleted       bigint;
begin
    if not okcm.ctx_ok() or signed_tenant = '*' then
        raise insufficient_privilege using message = 'the context is not signed for a tenant';
    end if;
    select coalesce(t.erased, '{}') into counts from okcm.tenant t where t.tenant_id = signed_tenant
        and t.state = 'offboarding' and t.destroying_at is not null for no key update;
    if not found then
        raise insufficient_privilege using message = 'the tenant is not being destroyed';
    end if;
    perform from okcm.destruction d
        where d.tenant_id = signed_tenant and d.destroyed_at is null and d.kind <> 'payload key';
    if found then
        raise check_violation using message = 'a key of the tenant is not destroyed yet';
    end if;
    -- A referenced table follows the tables that reference it; votes are deleted with their approvals.
    foreach table_name in array array['protected_field', 'protection', 'agent', 'protection_use', 'backfill',
                                      'key_probe', 'report', 'managed_object', 'service_key',
                                      'service_certificate', 'service_request', 'service', 'root_key_change',
                                      'root_key_request', 'root_key', 'tenant_policy', 'rotation',
                                      'usage_minute', 'usage_day', 'usage_batch', 'approval',
                                      'dashboard_session', 'certificate_revocation_list', 'outbox',
                                      'operation_step', 'route', 'key', 'join_token', 'enrolment', 'discovery'] loop
        execute format('delete from okcm.%I where ctid = any (array('
                       'select ctid from okcm.%I where tenant_id = $1 limit $2))', table_name, table_name)
            using signed_tenant, at_most;
        get diagnostics deleted = row_count;
        counts := counts || jsonb_build_object(table_name, coalesce((counts ->> table_name)::bigint, 0) + deleted);
        if deleted >= at_most then
            update okcm.tenant set erased = counts where tenant_id = signed_tenant;
            return false;
        end if;
    end loop;
    -- The customer's names are erased. The events stay, so that a repeated one is not processed as new.
    update okcm.marketplace_event set organization = '(erased)', service = null,
            started_at = coalesce(started_at, clock_timestamp())
        where tenant_id = signed_tenant and (organization <> '(erased)' or service is not null or started_at is null);
    update okcm.tenant set organization = '(erased)', erased = counts where tenant_id = signed_tenant;
    return true;
end
$$;
revoke execute on function okcm.erase_tenant(integer) from public;
grant execute on function okcm.erase_tenant(integer) to okcm_worker;


-- ===== Isolation =====

-- The result of one attack. One transaction records one run; a repeated gate adds a run, because it attacked again.
create table okcm.boundary_result (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    recorded_at  timestamptz not null default now(),
    number       integer not null check (number > 0),
    operation_id text not null check (length(operation_id) between 1 and 200),
    clause       text not null,
    name         text not null,
    outcome      text not null check (outcome in ('held', 'breached', 'not-checked')),
    seconds      double precision not null,
    evidence     text not null,
    primary key (tenant_id, recorded_at, number),
    foreign key (tenant_id) references okcm.tenant
);
-- The worker sets recorded_at of an assessment, because its lines are signed before they are stored.
grant select, insert (tenant_id, recorded_at, number, operation_id, clause, name, outcome, seconds, evidence)
    on okcm.boundary_result to okcm_worker;
grant select on okcm.boundary_result to okcm_operator, okcm_dashboard;

-- One line of an assessment for each clause of the standard; boundary_result holds its attacks, with the same time and
-- operation. `digest` is over the attacks and `signature` over the line (core/isolation.py), so that the line
-- remains evidence after the attacks are deleted.
create table okcm.boundary_clause (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    examined_at  timestamptz not null,
    clause       text not null check (clause ~ '^[A-Z][A-Z0-9-]{0,19}$'),
    operation_id text not null check (length(operation_id) between 1 and 200),
    held         integer not null check (held >= 0),
    breached     integer not null check (breached >= 0),
    not_checked  integer not null check (not_checked >= 0),
    digest       bytea not null check (length(digest) = 32),
    signature    text not null check (length(signature) between 1 and 500),
    key          text not null check (length(key) between 1 and 200),
    primary key (tenant_id, examined_at, clause),
    -- A run that is recorded again adds nothing.
    unique (tenant_id, operation_id, clause),
    foreign key (tenant_id) references okcm.tenant
);
grant select, insert (tenant_id, examined_at, clause, operation_id, held, breached, not_checked, digest, signature, key)
    on okcm.boundary_clause to okcm_worker;
grant select on okcm.boundary_clause to okcm_operator, okcm_dashboard;

-- Return when the assessment of each tenant in operation is due: daily, at a second derived from its id. A rotation, a
-- change of root key or route, or a restore that ended since the last one makes it due at once. The first one is due
-- within a day of readiness; the gate attacked it before. The platform's own tenants take part in every assessment and
-- have none.
create function okcm.examination_dues()
returns table (tenant_id text, region text, examined_at timestamptz, breached boolean, locked boolean,
               due_at timestamptz)
language sql stable set search_path = pg_catalog, pg_temp
as $$
    select t.tenant_id, t.region, n.examined_at, coalesce(n.breached, false), 'isolation-breach' = any (t.locks),
           least(l.last + make_interval(secs => 1 + mod(o.own - mod(floor(extract(epoch from l.last))::bigint, 86400)
                                                        + 86399, 86400)),
                 (select min(r.finished_at) from okcm.rotation r
                  where r.tenant_id = t.tenant_id and r.finished_at > l.last),
                 (select min(r.finished_at) from okcm.root_key_change r
                  where r.tenant_id = t.tenant_id and r.finished_at > l.last),
                 (select r.published_at from okcm.route r
                  where r.tenant_id = t.tenant_id and r.published_at > l.last),
                 case when t.restored_at > l.last then t.restored_at end)
    from okcm.tenant t
    left join lateral (
        select c.examined_at, bool_or(c.breached > 0) as breached from okcm.boundary_clause c
        where c.tenant_id = t.tenant_id and c.examined_at = (
            select max(newest.examined_at) from okcm.boundary_clause newest where newest.tenant_id = t.tenant_id)
        group by c.examined_at) n on true
    cross join lateral (select coalesce(n.examined_at, t.ready_at) as last) l
    cross join lateral (select sha256(convert_to(t.tenant_id, 'UTF8')) as h) d
    cross join lateral (
        select mod(get_byte(d.h, 0) * 65536 + get_byte(d.h, 1) * 256 + get_byte(d.h, 2), 86400)::bigint as own) o
    where t.state in ('active', 'suspended', 'locked') and not starts_with(t.tenant_id, 'openkcm-')
$$;
revoke execute on function okcm.examination_dues() from public;

-- Return tenants whose assessment is due, in order of id from the first behind `after`. So one tenant that fails does
-- not delay the others. A breach without a lock is due as well: its signal was lost.
create function okcm.due_examinations(after text, at_most integer) returns table (tenant_id text, region text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select d.tenant_id, d.region from okcm.examination_dues() d
        where d.tenant_id > after
        and (d.due_at <= statement_timestamp() or (d.breached and not d.locked))
        order by d.tenant_id limit at_most;
end
$$;
revoke execute on function okcm.due_examinations(text, integer) from public;
grant execute on function okcm.due_examinations(text, integer) to okcm_worker;

-- Return tenants that need an operator: `breached`, locked for a breach or with one in the newest assessment; `late`,
-- with an assessment overdue by `late`.
create function okcm.troubled_examinations(late interval, at_most integer)
returns table (tenant_id text, region text, why text, since timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select d.tenant_id, d.region, case when d.breached or d.locked then 'breached' else 'late' end,
               case when d.breached or d.locked then d.examined_at else d.due_at end
        from okcm.examination_dues() d
        where d.breached or d.locked or d.due_at < statement_timestamp() - late
        order by 3, 4, 1 limit at_most;
end
$$;
revoke execute on function okcm.troubled_examinations(interval, integer) from public;
grant execute on function okcm.troubled_examinations(interval, integer) to okcm_worker, okcm_dashboard;


-- ===== Audit =====
-- One stream for each tenant: append-only, without gaps, chained by hashes. The verifier is `verify_chain` in
-- client/src/openkcm/contract/audit_events.py.

-- The end of a tenant's stream; its row lock prevents gaps. `moved` is a separate column instead of a comparison with
-- the signed number, so that most appends remain an update within the page. `signed_at` is the time of the newest
-- signature.
create table okcm.audit_head (
    tenant_id  text primary key check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    seq        bigint not null check (seq >= 0),
    chain_hash bytea not null check (length(chain_hash) = 32),
    moved      boolean not null default false,
    signed_at  timestamptz
) with (fillfactor = 70);
create index audit_head_moved on okcm.audit_head (signed_at) where moved;
grant select on okcm.audit_head to okcm_worker, okcm_operator, okcm_dashboard;

create table okcm.audit_signed_head (
    tenant_id  text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    seq        bigint not null check (seq > 0),
    chain_hash bytea not null check (length(chain_hash) = 32),
    signature  text not null,
    key        text not null,
    signed_at  timestamptz not null default clock_timestamp(),
    primary key (tenant_id, seq)
);
grant select on okcm.audit_signed_head to okcm_worker, okcm_operator, okcm_dashboard;

-- 16 hash partitions keep each index small for any number of tenants; a partition for each tenant would take thousands
-- of locks in one query. It does not reference tenant, because the stream outlives all other rows of a tenant.
create table okcm.audit_event (
    tenant_id  text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    seq        bigint not null check (seq > 0),
    event_id   text not null check (length(event_id) between 1 and 300),
    record     text not null,
    chain_hash bytea not null check (length(chain_hash) = 32),
    primary key (tenant_id, seq),
    unique (tenant_id, event_id)
) partition by hash (tenant_id);
do $$
begin
    for n in 0..15 loop
        execute format(
            'create table okcm.audit_event_%s partition of okcm.audit_event for values with (modulus 16, remainder %s)',
            to_char(n, 'FM00'), n);
    end loop;
end
$$;
-- Only okcm.audit_append_all appends.
grant select on okcm.audit_event to okcm_worker, okcm_operator, okcm_dashboard;

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

-- The public halves of the keys that sign stream heads and erasure certificates. They belong to the platform, so no
-- role has a right on the table. Rows never change: without an old key its signatures could not be verified.
create table okcm.audit_key (
    key            text primary key check (key ~ '^[a-z0-9][a-z0-9-]{0,39}:[1-9][0-9]{0,8}$'),
    public_key_pem text not null check (length(public_key_pem) between 1 and 2000),
    recorded_at    timestamptz not null default clock_timestamp()
);

-- These triggers also hold for the owner and a superuser, and ALWAYS, so that session_replication_role does not disable
-- them. Partitions inherit row triggers. TRUNCATE triggers are not inherited, so each partition gets one.
do $$
declare
    stream text;
begin
    foreach stream in array array['audit_event', 'audit_signed_head', 'audit_archive', 'audit_key'] loop
        execute format('create trigger append_only before update or delete on okcm.%I '
                       'for each row execute function okcm.refuse_change(%s)', stream,
                       case when stream in ('audit_event', 'audit_signed_head') then quote_literal('archived') end);
        execute format('alter table okcm.%I enable always trigger append_only', stream);
    end loop;
    for stream in select relname from pg_class where relnamespace = 'okcm'::regnamespace
                  and relname ~ '^audit_(event_[0-9]{2}|signed_head|head|archive|key)$' and relkind = 'r' loop
        execute format('create trigger no_truncate before truncate on okcm.%I '
                       'for each statement execute function okcm.refuse_change()', stream);
        execute format('alter table okcm.%I enable always trigger no_truncate', stream);
    end loop;
end
$$;

-- Append events of one tenant in order, under one lock of the stream's head, and return the last sequence number; an
-- event id that is already recorded adds nothing. Number, time and chain are decided under the lock, so a rollback
-- leaves no gap, and the stored text is exactly what was hashed. It works on sets, because each statement verifies the
-- context again.
create function okcm.audit_append_all(events jsonb) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    tenant  text := current_setting('app.tenant_id', true);
    head    record;
    event   jsonb;
    entry   text;
    link    bytea;
    ids     text[];
    numbers bigint[];
    known   text[];
    records text[] := '{}';
    links   bytea[] := '{}';
begin
    -- Row security would reject each statement as well; this check raises before anything is read.
    if not okcm.ctx_ok() or tenant = '*' then
        raise insufficient_privilege using message = 'the context is not signed for a tenant';
    end if;
    if jsonb_typeof(events) is distinct from 'array' or exists (
        select from jsonb_array_elements(events) as e (event)
        where jsonb_typeof(e.event) is distinct from 'object' or e.event ->> 'event_id' is null
    ) then
        raise check_violation using message = 'an audit event is an object with an event_id';
    end if;
    select seq, chain_hash into head from okcm.audit_head where tenant_id = tenant for update;
    if not found then
        insert into okcm.audit_head (tenant_id, seq, chain_hash)
            values (tenant, 0, decode(repeat('00', 32), 'hex')) on conflict do nothing;
        select seq, chain_hash into strict head from okcm.audit_head where tenant_id = tenant for update;
    end if;
    link := head.chain_hash;
    select coalesce(array_agg(e.event_id), '{}'), coalesce(array_agg(e.seq), '{}') into known, numbers
        from okcm.audit_event e where e.tenant_id = tenant
        and e.event_id = any (array(select value ->> 'event_id' from jsonb_array_elements(events)));
    ids := known;
    for event in
        select value from (
            select distinct on (value ->> 'event_id') value, ordinality
            from jsonb_array_elements(events) with ordinality order by value ->> 'event_id', ordinality
        ) as fresh
        where value ->> 'event_id' <> all (known) order by ordinality
    loop
        entry := (event || jsonb_build_object(
            'tenant_id', tenant,
            'seq', head.seq + cardinality(records) + 1,
            'time', to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')))::text;
        link := sha256(link || convert_to(entry, 'UTF8'));
        records := records || entry;
        links := links || link;
        ids := ids || (event ->> 'event_id');
        numbers := numbers || (head.seq + cardinality(records));
    end loop;
    if records <> '{}' then
        insert into okcm.audit_event (tenant_id, seq, event_id, record, chain_hash)
            select tenant, made.seq, made.event_id, made.record, made.link
            from unnest(numbers[cardinality(known) + 1:], ids[cardinality(known) + 1:], records, links)
                as made (seq, event_id, record, link);
        update okcm.audit_head set seq = head.seq + cardinality(records), chain_hash = link, moved = true
            where tenant_id = tenant;
    end if;
    return numbers[array_position(ids, events -> -1 ->> 'event_id')];
end
$$;
revoke execute on function okcm.audit_append_all(jsonb) from public;
grant execute on function okcm.audit_append_all(jsonb) to okcm_worker, okcm_marketplace, okcm_crypto, okcm_dashboard;

-- Append one event and return its sequence number.
create function okcm.audit_append(event jsonb) returns bigint language sql
return okcm.audit_append_all(jsonb_build_array(event));
revoke execute on function okcm.audit_append(jsonb) from public;
grant execute on function okcm.audit_append(jsonb) to okcm_worker, okcm_marketplace, okcm_crypto, okcm_dashboard;

-- Append one event of an operator's command. The operator's role may append nothing else: its password lets a caller
-- neither append as another actor nor take the event id of a record that another process will write.
create function okcm.audit_append_command(event jsonb) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if event ->> 'actor_kind' is distinct from 'human' or event ->> 'actor' is distinct from 'operator'
       or coalesce(event ->> 'event_id', '') !~ '^command/[0-9a-f]{32}$'
       or coalesce(event ->> 'name', '')
           !~ '^([a-z_]+\.[a-z_]+_requested|audit\.exported|audit\.forwarding_[a-z]+)$' then
        raise insufficient_privilege using message = 'this role records only commands of operators';
    end if;
    return okcm.audit_append_all(jsonb_build_array(event));
end
$$;
revoke execute on function okcm.audit_append_command(jsonb) from public;
grant execute on function okcm.audit_append_command(jsonb) to okcm_operator;

-- Store a signature of the stream's state at `signed_seq`; reject one that does not match the recorded event.
-- A signature of an older state leaves `moved`: the stream has moved since. It counts as signed now, so that a stream
-- with continuous records does not precede the others in each run.
create function okcm.audit_save_signed_head(
    signed_seq bigint, signed_hash bytea, head_signature text, signing_key text)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    tenant text := current_setting('app.tenant_id', true);
begin
    if not okcm.ctx_ok() or tenant = '*' then
        raise insufficient_privilege using message = 'the context is not signed for a tenant';
    end if;
    perform from okcm.audit_event where tenant_id = tenant and seq = signed_seq and chain_hash = signed_hash;
    if not found then
        raise check_violation using message = 'the checkpoint does not match a recorded event';
    end if;
    insert into okcm.audit_signed_head (tenant_id, seq, chain_hash, signature, key)
        values (tenant, signed_seq, signed_hash, head_signature, signing_key) on conflict do nothing;
    update okcm.audit_head set moved = moved and seq > signed_seq, signed_at = clock_timestamp()
        where tenant_id = tenant and seq >= signed_seq;
end
$$;
revoke execute on function okcm.audit_save_signed_head(bigint, bytea, text, text) from public;
grant execute on function okcm.audit_save_signed_head(bigint, bytea, text, text) to okcm_worker;

-- Return the state of each stream with records after its newest checkpoint; the oldest signature comes first.
create function okcm.unsigned_streams(at_most integer)
returns table (tenant_id text, seq bigint, chain_hash bytea)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select h.tenant_id, h.seq, h.chain_hash from okcm.audit_head h
        where h.moved order by h.signed_at nulls first limit at_most;
end
$$;
revoke execute on function okcm.unsigned_streams(integer) from public;
grant execute on function okcm.unsigned_streams(integer) to okcm_worker;

-- Return all public keys.
create function okcm.audit_keys() returns table (key text, public_key_pem text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select k.key, k.public_key_pem from okcm.audit_key k;
end
$$;
revoke execute on function okcm.audit_keys() from public;
grant execute on function okcm.audit_keys() to okcm_worker, okcm_operator, okcm_crypto, okcm_dashboard;

-- Record a public key once. A second key under a recorded name is rejected: its signatures would pass for those of the
-- first.
create function okcm.record_audit_key(name text, pem text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    insert into okcm.audit_key (key, public_key_pem) values (name, pem) on conflict do nothing;
    perform from okcm.audit_key k where k.key = name and k.public_key_pem = pem;
    if not found then
        raise insufficient_privilege using message = 'another public key is recorded under this name';
    end if;
end
$$;
revoke execute on function okcm.record_audit_key(text, text) from public;
grant execute on function okcm.record_audit_key(text, text) to okcm_worker;


-- ===== Reports =====

-- A compliance report. The requester gives tenant, period and recipient. The worker adds the stated section, with the
-- audit record of its digest, and then the files, each once.
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
grant select, update (stated, stated_at, seq, json, html, pdf, made_at) on okcm.report to okcm_worker;
grant select, insert (tenant_id, report_id, since, until, made_for) on okcm.report to okcm_dashboard;

-- Reject a second version: the stated section is bound to the stream and the files to their signature. It runs with the
-- rights of the role that updates.
create function okcm.refuse_second_report() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if old.made_at is not null or (old.stated is not null
        and (new.stated, new.stated_at, new.seq) is distinct from (old.stated, old.stated_at, old.seq)) then
        raise insufficient_privilege using message = 'a report does not change after it is generated';
    end if;
    return new;
end
$$;
revoke execute on function okcm.refuse_second_report() from public;
create trigger made_once before update on okcm.report
    for each row execute function okcm.refuse_second_report();
alter table okcm.report enable always trigger made_once;


-- ===== Usage =====

-- Counters by minute. They do not reference service: a rejected request counts even without a known service ('').
create table okcm.usage_minute (
    tenant_id text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    minute    timestamptz not null check (extract(epoch from minute) % 60 = 0),
    service   text not null check (service ~ '^([a-z0-9][a-z0-9-]{0,39})?$'),
    operation text not null check (operation ~ '^[a-z][a-z-]{0,39}$'),
    count     bigint not null check (count >= 0),
    refused   bigint not null check (refused between 0 and count),
    bytes     bigint not null check (bytes >= 0),
    primary key (tenant_id, minute, service, operation),
    foreign key (tenant_id) references okcm.tenant
) with (fillfactor = 70);
grant select (tenant_id) on okcm.usage_minute to okcm_worker;
grant select on okcm.usage_minute to okcm_operator, okcm_dashboard;
grant select, insert (tenant_id, minute, service, operation, count, refused, bytes), update (count, refused, bytes)
    on okcm.usage_minute to okcm_crypto;

-- Counters by day, which pages and reports read: adding up a year of minutes takes seconds, a year of days
-- milliseconds. The same statement updates both tables. `refusal` is the error code, empty for answered requests.
-- `latency` counts durations inside the crypto service by bucket (core/usage.py), in an array because all are read
-- together. Requests without a duration are in no bucket, so the buckets may add up to less than `count`.
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
grant select (tenant_id, day, service, operation, refusal, count) on okcm.usage_day to okcm_worker;
grant select, insert (tenant_id, day, service, operation, refusal, count, bytes, microseconds, latency),
    update (count, bytes, microseconds, latency) on okcm.usage_day to okcm_crypto;
grant select on okcm.usage_day to okcm_dashboard;

-- Batches that were counted, so that a batch delivered again after a crash is not counted twice.
create table okcm.usage_batch (
    tenant_id text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    batch_id  text not null check (length(batch_id) between 1 and 300),
    added_at  timestamptz not null default clock_timestamp(),
    primary key (tenant_id, batch_id),
    foreign key (tenant_id) references okcm.tenant
);
create index usage_batch_age on okcm.usage_batch (tenant_id, added_at);
grant select (tenant_id) on okcm.usage_batch to okcm_worker;
grant select on okcm.usage_batch to okcm_operator;
grant select, insert (tenant_id, batch_id) on okcm.usage_batch to okcm_crypto;


-- ===== Notifications =====

-- The unsent messages of a tenant on a channel are a queue: only the oldest is attempted, and the next one follows
-- when it is sent or expired. `next_try` is the time from which it may be attempted; an attempt first moves it
-- forward, so that no second process attempts the same message. `problem` is the result of the last failed attempt;
-- it contains no address and no response. An expired message is a dead letter: it is kept and no longer attempted.
create table okcm.outbox (
    tenant_id  text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    message_id text not null check (length(message_id) between 1 and 100),
    channel    text not null check (channel in ('callback', 'email')),
    kind       text not null check (kind in (
        'ready', 'delayed', 'failed', 'locked', 'unlocked', 'root-key-warning', 'root-key-changed', 'keys-rotated',
        'certificate-renewal-overdue', 'certificate-expired', 'approval-pending', 'offboarding-started',
        'offboarding-reminder', 'restored', 'offboarded', 'rotation-stalled', 'isolation-breached')),
    subject    text not null,
    body       text not null,
    added_at   timestamptz not null default clock_timestamp(),
    sent_at    timestamptz,
    attempts   integer not null default 0 check (attempts >= 0),
    next_try   timestamptz not null default now(),
    problem    text check (length(problem) <= 200),
    expired_at timestamptz check (expired_at is null or sent_at is null),
    primary key (tenant_id, message_id),
    foreign key (tenant_id) references okcm.tenant
);
-- For due_notifications: only messages that are still attempted.
create index outbox_unsent on okcm.outbox (channel, tenant_id, added_at, message_id)
    where sent_at is null and expired_at is null;
-- For undelivered_notifications: a healthy outbox has no such row.
create index outbox_undelivered on okcm.outbox (added_at) where sent_at is null and problem is not null;
create index outbox_age on okcm.outbox (tenant_id, added_at);
grant select, insert (tenant_id, message_id, channel, kind, subject, body),
    update (sent_at, attempts, next_try, problem, expired_at) on okcm.outbox to okcm_worker;
grant select on okcm.outbox to okcm_marketplace, okcm_operator;
grant update (next_try, expired_at) on okcm.outbox to okcm_operator;

-- Return tenants whose oldest unsent message on a channel is due, the longest waiting first. The operation that stored
-- a message younger than ten seconds sends it.
create function okcm.due_notifications(of_channel text, at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select oldest.tenant_id from (
            select distinct on (o.tenant_id) o.tenant_id, o.next_try, o.added_at from okcm.outbox o
            where o.channel = of_channel and o.sent_at is null and o.expired_at is null
            order by o.tenant_id, o.added_at, o.message_id) as oldest
        where oldest.next_try <= statement_timestamp()
        and oldest.added_at <= statement_timestamp() - interval '10 seconds'
        order by oldest.next_try limit at_most;
end
$$;
revoke execute on function okcm.due_notifications(text, integer) from public;
grant execute on function okcm.due_notifications(text, integer) to okcm_worker;

-- Return messages that a receiver did not accept, for operators: messages that expired within `since`, the newest
-- first, then those that are still attempted, the oldest first.
create function okcm.undelivered_notifications(since interval, at_most integer)
returns table (tenant_id text, message_id text, channel text, kind text, added_at timestamptz, attempts integer,
               next_try timestamptz, problem text, expired_at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select o.tenant_id, o.message_id, o.channel, o.kind, o.added_at, o.attempts, o.next_try, o.problem,
               o.expired_at
        from okcm.outbox o
        where o.sent_at is null and o.problem is not null
        and (o.expired_at is null or o.expired_at > statement_timestamp() - since)
        order by o.expired_at desc nulls last, o.added_at, o.tenant_id, o.message_id limit at_most;
end
$$;
revoke execute on function okcm.undelivered_notifications(interval, integer) from public;
grant execute on function okcm.undelivered_notifications(interval, integer) to okcm_operator, okcm_dashboard;


-- ===== Retention =====
-- Rows are deleted after their retention, and old records of an audit stream after a signed archive has them.
-- core/retention.py lists every table with its default and its reason; a test compares it with this schema.

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

-- Return tenants with expired rows in a table, and the last attempt to delete such rows. Those with the oldest attempt
-- come first, then those with the oldest row. The recursion steps from tenant to tenant in the index: a table with
-- millions of rows is not read.
create function okcm.tenants_with_expired_rows(of_table text, days integer, at_most integer)
returns table (tenant_id text, attempted_at timestamptz)
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
        ' select each.tenant_id, attempt.at from each cross join lateral ('
        '    select r.%2$I as since from okcm.%1$I r'
        '    where r.tenant_id = each.tenant_id and r.%2$I < $1 and (%3$s) order by r.%2$I limit 1) oldest'
        ' left join lateral ('
        '    select (t.scheduled_attempts ->> ''row-retention'')::timestamptz as at from okcm.tenant t'
        '    where t.tenant_id = each.tenant_id) attempt on true'
        ' order by attempt.at nulls first, oldest.since limit $2', of_table, rule.age, rule.deletable)
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

-- Return tenants with a checkpoint from before `cutoff` that is not archived, or with archived records that are not
-- deleted. Those with the oldest attempt come first, then those with the oldest checkpoint.
create function okcm.archivable_streams(cutoff timestamptz, at_most integer) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select h.tenant_id from okcm.audit_head h left join okcm.tenant t on t.tenant_id = h.tenant_id
        cross join lateral (
            select coalesce(max(a.seq), 0) as seq from okcm.audit_archive a where a.tenant_id = h.tenant_id) archived
        left join lateral (
            select s.signed_at from okcm.audit_signed_head s
            where s.tenant_id = h.tenant_id and s.seq > archived.seq order by s.seq limit 1) next on true
        where next.signed_at < cutoff
        or exists (select from okcm.audit_event e where e.tenant_id = h.tenant_id and e.seq <= archived.seq)
        order by (t.scheduled_attempts ->> 'audit-archive')::timestamptz nulls first, next.signed_at, h.tenant_id
        limit at_most;
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


-- ===== Row security =====
-- Two policies protect every row, and both must agree:
--   own_rows*  permissive, for one role: the row belongs to the tenant that the transaction names. The predicate is
--              written inline and never for PUBLIC, so that pgrls can prove it with an SMT solver.
--   signed     restrictive, for every role: the context is signed. PostgreSQL joins permissive policies with OR and
--              restrictive ones with AND, so no later policy bypasses it.
-- FORCE subjects the owner to them as well, and so every SECURITY DEFINER function.
--
-- Columns of the table: the command that each role's policy covers ('' for none); whether the owner's functions read
-- the table for the platform (platform_questions), as for the question which tenants have expired rows; whether
-- erase_tenant works on it (erase, while_destroying). The owner reaches such rows of the signed tenant (erase), and only
-- while it is destroyed or when they are older than their least retention (while_destroying). Both hold for each row, so
-- that a fault in erase_tenant or delete_expired_rows, or another function of the owner, meets the same limit. They are
-- two policies, because pgrls can prove the first one separately. Results of isolation assessments have a policy for
-- their retention alone (only_old).
do $$
declare
    own_rows constant text := '(tenant_id = (select current_setting(''app.tenant_id'', true)))';
    platform constant text := '((select current_setting(''app.tenant_id'', true)) = ''*'')';
    access record;
    rule record;
    retention record;
begin
    for access in select * from (values
        --                               worker    market-   operator  crypto    dash-     owner     plat-  erased
        --                                         place               service   board               form
        ('tenant',                       'all',    'all',    'select', 'select', 'select', '',       true,  true),
        ('tenant_policy',                'all',    '',       'select', '',       'select', '',       true,  true),
        ('dashboard_session',            'select', '',       '',       '',       'all',    '',       true,  true),
        ('key',                          'all',    '',       'select', '',       'select', '',       true,  true),
        ('key_fingerprint',              '',       '',       '',       '',       '',       'all',    false, false),
        ('key_probe',                    'all',    '',       '',       '',       '',       '',       true,  true),
        ('marketplace_event',            'all',    'all',    'select', '',       '',       '',       true,  true),
        ('operation_step',               'all',    'all',    'select', '',       'select', '',       true,  true),
        ('route',                        'all',    '',       'select', 'select', 'select', '',       true,  true),
        ('root_key',                     'all',    '',       'select', 'select', 'select', '',       true,  true),
        ('root_key_request',             'all',    '',       'all',    '',       'all',    '',       true,  true),
        ('root_key_change',              'all',    '',       'select', '',       'select', '',       true,  true),
        ('service',                      'all',    'select', 'select', 'all',    'select', '',       true,  true),
        ('service_request',              'all',    'all',    'all',    '',       'all',    '',       true,  true),
        ('certificate_authority',        'all',    'select', 'select', 'select', 'select', '',       true,  false),
        ('service_certificate',          'all',    'select', 'select', 'select', 'select', '',       true,  true),
        ('certificate_revocation_list',  'all',    '',       'select', 'select', 'select', '',       true,  true),
        ('service_key',                  'all',    '',       'select', 'all',    'select', '',       true,  true),
        ('managed_object',               'all',    '',       'select', 'all',    'select', '',       true,  true),
        ('rotation',                     'all',    '',       'select', '',       'select', '',       true,  true),
        ('approval',                     'all',    '',       'select', '',       'all',    '',       true,  true),
        ('approval_vote',                'select', '',       'select', '',       'all',    '',       false, true),
        ('join_token',                   'select', 'all',    'all',    '',       'all',    '',       true,  true),
        ('enrolment',                    'select', 'all',    'select', '',       'select', '',       true,  true),
        ('discovery',                    'select', 'all',    'select', '',       'select', '',       false, true),
        ('agent',                        'select', '',       'select', 'all',    'select', '',       false, true),
        ('protection',                   'select', '',       'all',    'select', 'all',    '',       false, true),
        ('protected_field',              'select', '',       'all',    'select', 'all',    '',       false, true),
        ('protection_use',               'select', '',       '',       'all',    'select', '',       true,  true),
        ('backfill',                     'select', '',       '',       'all',    'select', '',       false, true),
        ('destruction',                  'all',    '',       'select', '',       'select', '',       false, true),
        ('shred_certificate',            'all',    '',       'select', '',       'select', '',       false, false),
        ('boundary_result',              'all',    '',       'select', '',       'select', '',       true,  false),
        ('boundary_clause',              'all',    '',       'select', '',       'select', '',       true,  false),
        ('audit_head',                   'all',    '',       'select', '',       'select', 'all',    true,  false),
        ('audit_signed_head',            'all',    '',       'select', '',       'select', 'all',    true,  false),
        ('audit_archive',                'select', '',       'select', '',       'select', 'all',    true,  false),
        ('audit_event',                  'all',    '',       'select', '',       'select', 'all',    true,  false),
        ('report',                       'all',    '',       '',       '',       'all',    '',       true,  true),
        ('usage_minute',                 'all',    '',       'select', 'all',    'select', '',       true,  true),
        ('usage_day',                    'select', '',       '',       'all',    'select', '',       true,  true),
        ('usage_batch',                  'all',    '',       'select', 'all',    '',       '',       true,  true),
        ('outbox',                       'all',    '',       'select', '',       '',       '',       true,  true)
        ) as matrix (name, worker, marketplace, operator, crypto, dashboard, owner, platform, erased)
    loop
        execute format('alter table okcm.%I enable row level security, force row level security', access.name);
        execute format('create policy signed on okcm.%I as restrictive for all to public '
                       'using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()))', access.name);
        for rule in select * from (values
            ('own_rows',             'okcm_worker',      access.worker),
            ('own_rows_marketplace', 'okcm_marketplace', access.marketplace),
            ('own_rows_operator',    'okcm_operator',    access.operator),
            ('own_rows_crypto',      'okcm_crypto',      access.crypto),
            ('own_rows_dashboard',   'okcm_dashboard',   access.dashboard),
            ('own_rows_owner',       'okcm_owner',       access.owner)
            ) as rules (policy, role, command) where command <> ''
        loop
            execute format('create policy %I on okcm.%I for %s to %I using %s',
                           rule.policy, access.name, rule.command, rule.role, own_rows)
                || case rule.command when 'all' then ' with check ' || own_rows else '' end;
        end loop;
        if access.platform then
            execute format('create policy platform_questions on okcm.%I for select to okcm_owner using %s',
                           access.name, platform);
        end if;
        if access.erased then
            execute format('create policy erase on okcm.%I for %s to okcm_owner using %s',
                           access.name, case access.name when 'managed_object' then 'delete' else 'all' end, own_rows)
                || case access.name when 'managed_object' then '' else ' with check ' || own_rows end;
            -- The tenant's row carries the state that is_destroying reads. objects_sealed reads objects at any time.
            select * into retention from okcm.retention_rules() r where r.name = access.name;
            execute format('create policy while_destroying on okcm.%I as restrictive for %s to okcm_owner '
                           'using (%s or %s%s)',
                           access.name, case access.name when 'managed_object' then 'delete' else 'all' end, platform,
                           case access.name when 'tenant' then '(state = ''offboarding'' and destroying_at is not null)'
                                            else '(select okcm.is_destroying())' end,
                           case when retention.name is not null then
                               format(' or %I < statement_timestamp() - interval ''%s days''',
                                      retention.age, retention.minimum) end)
                || case when retention.name is null then ''
                        else format(' with check (%s or (select okcm.is_destroying()))', platform) end;
        end if;
    end loop;
    -- A query of a partition by its name ignores its parent's policies. Without a policy it returns no row.
    for n in 0..15 loop
        execute format('alter table okcm.audit_event_%s enable row level security, force row level security',
                       to_char(n, 'FM00'));
    end loop;
end
$$;

-- Every tenant is inserted in the first state, whichever process inserts it; transitions are updates.
create policy begins_requested on okcm.tenant as restrictive for insert to public with check (state = 'requested');
-- Operators list tenants with a context that is signed for the platform.
create policy every_tenant on okcm.tenant for select to okcm_operator
    using ((select current_setting('app.tenant_id', true)) = '*');
-- Of all notifications the marketplace shows only the one of readiness.
create policy ready_text on okcm.outbox for select to okcm_marketplace
    using (tenant_id = (select current_setting('app.tenant_id', true)) and kind = 'ready');
-- An operator only makes a dead letter due again: a message that is still attempted cannot be suppressed.
create policy own_rows_operator_retry on okcm.outbox for update to okcm_operator
    using (tenant_id = (select current_setting('app.tenant_id', true)))
    with check (tenant_id = (select current_setting('app.tenant_id', true)));
create policy only_dead_letters on okcm.outbox as restrictive for update to okcm_operator
    using (expired_at is not null) with check (expired_at is null);
-- The worker requests certificates for the platform's own tenants only, never in the name of a customer's service.
create policy platforms_own on okcm.service_request as restrictive for insert to okcm_worker
    with check (starts_with(tenant_id, 'openkcm-'));
-- For objects_sealed: the owner counts objects that the worker may not read.
create policy own_rows_counted on okcm.managed_object for select to okcm_owner
    using (tenant_id = (select current_setting('app.tenant_id', true)));
-- For delete_expired_rows: the owner never reaches evidence younger than 14 days, even through a faulty function.
create policy trim on okcm.boundary_result to okcm_owner
    using (tenant_id = (select current_setting('app.tenant_id', true)))
    with check (tenant_id = (select current_setting('app.tenant_id', true)));
create policy only_old on okcm.boundary_result as restrictive for all to okcm_owner
    using ((select current_setting('app.tenant_id', true)) = '*'
           or recorded_at < statement_timestamp() - interval '14 days');
create policy trim on okcm.boundary_clause to okcm_owner
    using (tenant_id = (select current_setting('app.tenant_id', true)))
    with check (tenant_id = (select current_setting('app.tenant_id', true)));
create policy only_old on okcm.boundary_clause as restrictive for all to okcm_owner
    using ((select current_setting('app.tenant_id', true)) = '*'
           or examined_at < statement_timestamp() - interval '14 days');
