-- An export is recorded as `audit.exported`, whether the dashboard or a command made it; as 0026 but for that name.
create or replace function okcm.audit_append_command(event jsonb) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if event ->> 'actor_kind' is distinct from 'human' or event ->> 'actor' is distinct from 'operator'
       or coalesce(event ->> 'event_id', '') !~ '^command/[0-9a-f]{32}$'
       or coalesce(event ->> 'name', '') !~ '^([a-z_]+\.[a-z_]+_requested|audit\.(exported|stream_[a-z]+))$' then
        raise insufficient_privilege using message = 'an operator records what an operator did';
    end if;
    return okcm.audit_append_all(jsonb_build_array(event));
end
$$;
