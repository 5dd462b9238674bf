-- For the records of rare events, such as locks: most rows of an hour count requests of services. Counting a further
-- record changes none of these columns and updates no index.
-- without transaction
drop index concurrently if exists okcm.audit_hour_named;
create index concurrently audit_hour_named on okcm.audit_hour (tenant_id, name, hour);
