-- For okcm.stale_revocation_lists.
-- without transaction
drop index concurrently if exists okcm.certificate_revocation_list_age;
create index concurrently certificate_revocation_list_age on okcm.certificate_revocation_list (this_update);
drop index concurrently if exists okcm.service_certificate_revocation;
create index concurrently service_certificate_revocation on okcm.service_certificate (revoked_at)
    where revoked_at is not null;
