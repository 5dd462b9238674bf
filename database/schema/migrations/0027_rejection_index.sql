-- For okcm.tenants_with_problems. `hour` and `refusal` never change, so counting further requests updates no index.
-- without transaction
drop index concurrently if exists okcm.usage_hour_refused;
create index concurrently usage_hour_refused on okcm.usage_hour (hour) where refusal <> '';
