-- The public halves of the key that signs heads of audit streams and crypto-shred certificates. They are the platform's, no
-- tenant's, so nobody has a right on the table: what may be done with it are the two functions below.

-- Rows are added and stay as they are: with the key of an old head gone or replaced, what it signed could not be checked.
create table okcm.audit_key (
    key            text primary key check (key ~ '^[a-z0-9][a-z0-9-]{0,39}:[1-9][0-9]{0,8}$'),
    public_key_pem text not null check (length(public_key_pem) between 1 and 2000),
    recorded_at    timestamptz not null default clock_timestamp()
);

create trigger append_only before update or delete on okcm.audit_key
    for each row execute function okcm.refuse_change();
alter table okcm.audit_key enable always trigger append_only;
create trigger no_truncate before truncate on okcm.audit_key
    for each statement execute function okcm.refuse_change();
alter table okcm.audit_key enable always trigger no_truncate;

create function okcm.audit_keys() returns table (key text, public_key_pem text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    return query select k.key, k.public_key_pem from okcm.audit_key k;
end
$$;
revoke execute on function okcm.audit_keys() from public;
grant execute on function okcm.audit_keys() to okcm_operator, okcm_dashboard, okcm_worker, okcm_crypto;

-- Records one once. Another key under a name that is on record is refused: it would pass what it signed off as the old one's.
create function okcm.record_audit_key(name text, pem text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform okcm.require_platform_context();
    insert into okcm.audit_key (key, public_key_pem) values (name, pem) on conflict do nothing;
    perform from okcm.audit_key k where k.key = name and k.public_key_pem = pem;
    if not found then
        raise insufficient_privilege using message = 'another public key is on record under this name';
    end if;
end
$$;
revoke execute on function okcm.record_audit_key(text, text) from public;
grant execute on function okcm.record_audit_key(text, text) to okcm_worker;
