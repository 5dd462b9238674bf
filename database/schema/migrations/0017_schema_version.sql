-- Each process compares the schema with the one that it needs, and the oldest processes that a migration permits.

alter table okcm.schema_migration add column oldest_process integer not null default 0;

create function okcm.schema_version() returns table (version integer, oldest_process integer)
language sql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$
    select max(m.version), max(m.oldest_process) from okcm.schema_migration m
$$;
revoke execute on function okcm.schema_version() from public;
grant execute on function okcm.schema_version()
    to okcm_worker, okcm_marketplace, okcm_operator, okcm_crypto, okcm_dashboard;
