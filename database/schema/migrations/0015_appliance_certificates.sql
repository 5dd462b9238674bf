-- The lifetime in days of the certificates for an appliance that cannot renew them; null for the usual one. The
-- platform does not renew such a certificate, so its request must be kept until the certificate ends.
alter table okcm.service_request add column certificate_days integer check (certificate_days between 1 and 365);
grant insert (certificate_days) on okcm.service_request to okcm_operator, okcm_dashboard;

create or replace function okcm.mark_request_used() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    update okcm.service_request set used_at = greatest(clock_timestamp(), new.not_after)
        where tenant_id = new.tenant_id and request_id = new.request_id;
    return null;
end
$$;
