-- A tenant whose provisioning failed can be offboarded, and a restore returns it to `failed`.
alter table okcm.tenant drop constraint tenant_returns_to_check;
alter table okcm.tenant add constraint tenant_returns_to_check
    check (returns_to in ('failed', 'active', 'suspended', 'locked')) not valid;
alter table okcm.tenant validate constraint tenant_returns_to_check;
-- A restore must not activate a tenant that never passed the isolation checks, even by a faulty process.
alter table okcm.tenant add constraint tenant_returns_ready_check
    check (returns_to is null or returns_to = 'failed' or ready_at is not null) not valid;
alter table okcm.tenant validate constraint tenant_returns_ready_check;
