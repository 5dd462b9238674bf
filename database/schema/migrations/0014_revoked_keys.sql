-- Whether services may get managed objects that were revoked. The crypto service reads it with the caller's rights.
alter table okcm.tenant_policy add column revoked_keys_readable boolean not null default false;
grant insert (revoked_keys_readable), update (revoked_keys_readable) on okcm.tenant_policy to okcm_worker;
grant select (tenant_id, revoked_keys_readable) on okcm.tenant_policy to okcm_crypto;
create policy own_rows_crypto on okcm.tenant_policy for select to okcm_crypto
    using ((tenant_id = (select current_setting('app.tenant_id', true))));

create trigger announce_change after insert on okcm.tenant_policy for each row when (new.revoked_keys_readable)
    execute function okcm.announce_change();
create trigger announce_update after update on okcm.tenant_policy for each row
    when (old.revoked_keys_readable <> new.revoked_keys_readable) execute function okcm.announce_change();
