-- What an operator's command asks for, looks at or hands out stands in the tenant's stream, in the operator's own name.

-- Appends one event of a command and returns its sequence number. The operator's role may append nothing else: whoever has
-- its password can neither speak as somebody else nor take the event id of a record that others will write.
create function okcm.audit_append_command(event jsonb) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if event ->> 'actor_kind' is distinct from 'human' or event ->> 'actor' is distinct from 'operator'
       or coalesce(event ->> 'event_id', '') !~ '^command/[0-9a-f]{32}$'
       or coalesce(event ->> 'name', '') !~ '^([a-z_]+\.[a-z_]+_requested|dashboard\.exported|audit\.stream_[a-z]+)$' then
        raise insufficient_privilege using message = 'an operator records what an operator did';
    end if;
    return okcm.audit_append_all(jsonb_build_array(event));
end
$$;
revoke execute on function okcm.audit_append_command(jsonb) from public;
grant execute on function okcm.audit_append_command(jsonb) to okcm_operator;
