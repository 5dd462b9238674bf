-- A root key is checked as often as one in use while a page of its tenant is open, so that the page shows its loss
-- within seconds. The dashboard sets nothing else of a root key.
alter table okcm.root_key add column viewed_at timestamptz;
grant select (viewed_at) on okcm.root_key to okcm_operator, okcm_dashboard;
grant update (viewed_at) on okcm.root_key to okcm_dashboard;
create policy own_rows_dashboard_view on okcm.root_key for update to okcm_dashboard
    using ((tenant_id = (select current_setting('app.tenant_id', true))))
    with check ((tenant_id = (select current_setting('app.tenant_id', true))));
-- As for `last_seen_at` of a service: only the first view after a pause.
create trigger mark_viewed before update of viewed_at on okcm.root_key for each row
    when (old.viewed_at is null or new.viewed_at > old.viewed_at + interval '30 seconds')
    execute function okcm.mark_for_monitoring();

-- As before, but a view counts as a use.
create or replace function okcm.monitored_root_keys(of_region text, shard integer, shards integer, lately interval,
    since xid8, tenants text[], after text, at_most integer)
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
            select extract(epoch from greatest(max(s.last_seen_at), k.viewed_at) + lately - statement_timestamp())
                ::double precision
            from okcm.service s where s.tenant_id = k.tenant_id) as u (used_seconds) on true;
end
$$;
