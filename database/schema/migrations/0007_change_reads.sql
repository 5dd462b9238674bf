-- Root key monitoring reads what has changed. Before, each read returned every root key of a region: 0.4 s of database
-- time each second for 50,000 keys.

-- `monitoring_xid` is the transaction that last changed something that monitoring depends on; null means none since this
-- migration. A reader passes the oldest transaction that was unfinished at its last read (pg_snapshot_xmin), and gets
-- the rows of this and later transactions. So a row that was committed late is never missed, and some are read twice. A
-- sequence would not do: its numbers are taken before the commit, in another order.
alter table okcm.root_key add column monitoring_xid xid8;
alter table okcm.tenant add column monitoring_xid xid8;
alter table okcm.service add column monitoring_xid xid8;
create index root_key_monitoring on okcm.root_key (monitoring_xid) where monitoring_xid is not null;
create index tenant_monitoring on okcm.tenant (monitoring_xid) where monitoring_xid is not null;
create index service_monitoring on okcm.service (monitoring_xid) where monitoring_xid is not null;

create function okcm.mark_for_monitoring() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    new.monitoring_xid := pg_current_xact_id();
    return new;
end
$$;
revoke execute on function okcm.mark_for_monitoring() from public;

create trigger mark_for_monitoring before update on okcm.root_key for each row
    when (old.state is distinct from new.state or old.health is distinct from new.health)
    execute function okcm.mark_for_monitoring();
create trigger mark_for_monitoring before update on okcm.tenant for each row
    when (old.state is distinct from new.state or old.locks is distinct from new.locks
          or old.region is distinct from new.region)
    execute function okcm.mark_for_monitoring();
-- Only the first use after a pause: each other update of last_seen_at stays in its page. The pause is shorter than
-- `lately` of monitored_root_keys, after which monitoring reads a tenant again without a mark.
create trigger mark_for_monitoring before update of last_seen_at on okcm.service for each row
    when (old.last_seen_at is null or new.last_seen_at > old.last_seen_at + interval '30 seconds')
    execute function okcm.mark_for_monitoring();

-- Return for one of `shards` parts of a region the tenants that changed since the transaction `since`, those in
-- `tenants`, and the first `at_most` behind `after` in order of their id (`listed`). `root_key_id` is null for a tenant
-- that is not monitored any more. `endpoint` names the server of a root key: a slow one must not delay the checks at
-- others. `used_seconds` is the time that is left until no service was active within `lately`, null for no service: until
-- then a process may have cached a service key.
--
-- The parameters differ greatly in their selectivity, so each call needs its own plan.
drop function okcm.watched_root_keys(text, interval);
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


-- ===== Changes for caches =====

-- The changes that caches of the crypto service depend on; a reader passes transactions as above. Before, each change
-- was a NOTIFY. PostgreSQL takes one lock for all databases from a NOTIFY to the end of the commit, so these commits
-- waited for one another, each with its flush to the disk. No process has a right on this table. It names no tenant: a
-- reader recognizes the hashes of tenants that it knows and learns no others. Unlogged: a crash or a failover empties it
-- and ends every connection, and a reader that connects again assumes that it missed changes.
create unlogged table okcm.cache_change (
    xid        xid8 not null default pg_current_xact_id(),
    hash       bytea not null check (length(hash) = 32),
    changed_at timestamptz not null default clock_timestamp(),
    primary key (xid, hash)
);

-- Record a change once per transaction and tenant. A trigger's argument gives its changes a separate hash (no tenant id
-- contains a slash): a changed object must not make every process unwrap service keys again.
create or replace function okcm.announce_change() returns trigger
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
