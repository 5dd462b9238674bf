-- The crypto service completes the chain of a client that sends only its leaf certificate, so each of its processes
-- reads the certificates of all authorities. `recorded_xid` orders them as okcm.mark_for_monitoring does: a reader
-- passes the oldest transaction that was unfinished at its last read, and misses no row that was committed late.
alter table okcm.certificate_authority add column recorded_xid xid8 not null default pg_current_xact_id();
create index certificate_authority_recorded on okcm.certificate_authority (recorded_xid, serial);

-- Record in okcm.cache_change that an authority is new. The hash is the same for all tenants, because no process of the
-- crypto service recognizes the hash of a new tenant.
create function okcm.announce_authority() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    insert into okcm.cache_change (hash) values (sha256(convert_to('/authorities', 'UTF8'))) on conflict do nothing;
    return null;
end
$$;
revoke execute on function okcm.announce_authority() from public;
create trigger announce_authority after insert on okcm.certificate_authority
    for each row execute function okcm.announce_authority();

-- Return the certificates, which are public, of the authorities that have not ended, in the order of their transactions
-- after the given position; `until` is the transaction from which the next read continues.
create function okcm.client_authorities(after_xid xid8, after_serial text, at_most integer)
returns table (until xid8, xid xid8, serial text, certificate_pem text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query
        select pg_snapshot_xmin(pg_current_snapshot()), a.recorded_xid, a.serial, a.certificate_pem
        from okcm.certificate_authority a
        where (a.recorded_xid, a.serial) > (after_xid, after_serial) and a.state <> 'ended'
        order by a.recorded_xid, a.serial limit at_most;
end
$$;
revoke execute on function okcm.client_authorities(xid8, text, integer) from public;
grant execute on function okcm.client_authorities(xid8, text, integer) to okcm_crypto;
