-- The tables. Every primary key, unique constraint and foreign key leads with tenant_id: a key that did not would tell
-- one tenant that another has the same value, and a reference that did not could point at another tenant's row,
-- because PostgreSQL checks both without row security.
--
-- Runs as okcm_owner, which owns the schema and which nobody can log in as.

create table okcm.tenant (
    tenant_id         text primary key check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    organization      text not null check (length(organization) between 1 and 200),
    region            text not null check (length(region) between 1 and 40),
    state             text not null default 'requested' check (state in (
                          'requested', 'provisioning', 'failed', 'active', 'suspended', 'locked', 'leaving', 'offboarded')),
    root_key_mode     text not null default 'platform' check (root_key_mode in ('platform')),
    requested_at      timestamptz not null default now(),
    ready_at          timestamptz,
    promise_broken_at timestamptz
);

-- The inbox. It does not refer to tenant: an event about a tenant nobody knows must be kept as well.
create table okcm.marketplace_event (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    event_id     text not null check (length(event_id) between 1 and 200),
    kind         text not null check (kind in ('service_enabled', 'service_disabled')),
    organization text not null check (length(organization) between 1 and 200),
    region       text not null check (length(region) between 1 and 40),
    occurred_at  timestamptz not null,
    accepted_at  timestamptz not null default clock_timestamp(),
    started_at   timestamptz,
    primary key (tenant_id, event_id)
);
-- What the sweep reads: empty while Temporal is up, however many events have ever come.
create index marketplace_event_unstarted on okcm.marketplace_event (accepted_at) where started_at is null;

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

create table okcm.key (
    tenant_id  text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    name       text not null check (length(name) between 1 and 100),
    kind       text not null check (kind in ('L2', 'CA', 'payload')),
    version    integer not null check (version > 0),
    created_at timestamptz not null default now(),
    primary key (tenant_id, name),
    foreign key (tenant_id) references okcm.tenant
);

create table okcm.certificate_authority (
    tenant_id       text primary key check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    serial          text not null check (serial ~ '^[0-9a-f]{1,64}$'),
    certificate_pem text not null,
    chain_pem       text not null,
    not_after       timestamptz not null,
    recorded_at     timestamptz not null default now(),
    foreign key (tenant_id) references okcm.tenant
);
-- For unknown_serials, which looks a serial up without knowing its tenant.
create index certificate_authority_serial on okcm.certificate_authority (serial);

create table okcm.route (
    tenant_id          text primary key check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    l2_key             text not null,
    issuer_fingerprint text not null check (issuer_fingerprint ~ '^[0-9a-f]{64}$'),
    region             text not null check (length(region) between 1 and 40),
    published_at       timestamptz not null default now(),
    foreign key (tenant_id) references okcm.tenant,
    -- A route can only lead to a key of the same tenant (MTCI U1).
    foreign key (tenant_id, l2_key) references okcm.key (tenant_id, name)
);

-- One run is what one transaction recorded; a repeated gate adds a run, because its attacks really happened again.
create table okcm.boundary_result (
    tenant_id    text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    recorded_at  timestamptz not null default now(),
    number       integer not null check (number > 0),
    operation_id text not null check (length(operation_id) between 1 and 200),
    clause       text not null,
    name         text not null,
    outcome      text not null check (outcome in ('held', 'breached')),
    seconds      double precision not null,
    evidence     text not null,
    primary key (tenant_id, recorded_at, number),
    foreign key (tenant_id) references okcm.tenant
);

create table okcm.outbox (
    tenant_id  text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    message_id text not null check (length(message_id) between 1 and 100),
    channel    text not null check (channel in ('callback', 'email')),
    kind       text not null check (kind in ('ready', 'late', 'failed')),
    subject    text not null,
    body       text not null,
    added_at   timestamptz not null default clock_timestamp(),
    sent_at    timestamptz,
    primary key (tenant_id, message_id),
    foreign key (tenant_id) references okcm.tenant
);
-- What the sweep reads: only messages nobody has taken yet.
create index outbox_unsent on okcm.outbox (added_at, tenant_id) where sent_at is null;

-- The end of each tenant's audit stream; its row lock is what makes the stream gap-free. `moved` is a column of its own
-- and not `seq > signed seq`, so that an append to a stream that has already moved stays a cheap in-page update.
create table okcm.audit_head (
    tenant_id  text primary key check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    seq        bigint not null check (seq >= 0),
    chain_hash bytea not null check (length(chain_hash) = 32),
    moved      boolean not null default false
) with (fillfactor = 70);
create index audit_head_moved on okcm.audit_head (tenant_id) where moved;

create table okcm.audit_signed_head (
    tenant_id  text not null check (tenant_id ~ '^[a-z0-9][a-z0-9-]{2,39}$'),
    seq        bigint not null check (seq > 0),
    chain_hash bytea not null check (length(chain_hash) = 32),
    signature  text not null,
    key        text not null,
    signed_at  timestamptz not null default clock_timestamp(),
    primary key (tenant_id, seq)
);

-- 16 hash partitions keep each index small at any number of tenants; a partition per tenant would take thousands of
-- locks for one query. No reference to tenant: the stream outlives everything else there is of one.
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
