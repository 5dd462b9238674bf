-- As before, with the last event of the marketplace as the worker determines it.
create or replace function okcm.retention_rules() returns table (name text, age text, minimum integer, deletable text)
language sql immutable set search_path = pg_catalog, pg_temp
as $$
    values
        ('approval', 'requested_at', 400, 'r.state not in (''asked'', ''pending'', ''approved'')'),
        -- Results of the gate have no line; those of an assessment with a breach stay as long as its lines.
        ('boundary_result', 'recorded_at', 14,
            'exists (select from okcm.boundary_clause c where c.tenant_id = r.tenant_id'
            ' and c.examined_at = r.recorded_at and c.clause = r.clause)'
            ' and (r.recorded_at < $1 - interval ''386 days'' or not exists (select from okcm.boundary_clause b'
            ' where b.tenant_id = r.tenant_id and b.examined_at = r.recorded_at and b.breached > 0))'),
        ('boundary_clause', 'examined_at', 90,
            'not exists (select from okcm.boundary_result b where b.tenant_id = r.tenant_id'
            ' and b.recorded_at = r.examined_at)'),
        ('dashboard_session', 'expires_at', 30, 'true'),
        ('enrolment', 'requested_at', 30, 'r.state <> ''pending'''),
        ('join_token', 'expires_at', 30, 'true'),
        -- The last enable or disable stays, in the order of database/offboarding.py: a time of the event after its
        -- acceptance is wrong and outranks nothing.
        ('marketplace_event', 'accepted_at', 90,
            'r.started_at is not null and (r.kind = ''service_discovered'' or exists ('
            'select from okcm.marketplace_event n where n.tenant_id = r.tenant_id and n.accepted_at < $1'
            ' and n.kind in (''service_enabled'', ''service_disabled'')'
            ' and (least(n.occurred_at, n.accepted_at), n.accepted_at, n.event_id)'
            ' > (least(r.occurred_at, r.accepted_at), r.accepted_at, r.event_id)))'),
        -- The newest operation stays: it is the one that pages and alerts show.
        ('operation_step', 'planned_at', 30,
            'exists (select from okcm.operation_step n where n.tenant_id = r.tenant_id and n.planned_at < $1'
            ' and n.planned_at > r.planned_at and n.operation_id <> r.operation_id)'),
        ('outbox', 'added_at', 30, 'r.sent_at is not null or r.expired_at is not null'),
        ('protection_use', 'day', 400, 'true'),
        ('report', 'requested_at', 90, 'true'),
        ('root_key_change', 'started_at', 400,
            'r.state <> ''running'' and exists (select from okcm.root_key_change n where n.tenant_id = r.tenant_id'
            ' and n.number > r.number and n.started_at < $1)'),
        ('root_key_request', 'requested_at', 30, 'r.sealed is null'),
        ('rotation', 'started_at', 400,
            'r.state <> ''running'' and exists (select from okcm.rotation n where n.tenant_id = r.tenant_id'
            ' and n.number > r.number and n.state = ''done'' and n.started_at < $1)'),
        -- A generation is never reused, so the newest certificate of a service stays.
        ('service_certificate', 'not_after', 90,
            'exists (select from okcm.service_certificate n where n.tenant_id = r.tenant_id and n.service = r.service'
            ' and n.generation > r.generation and n.not_after < $1)'),
        ('service_request', 'used_at', 90, 'true'),
        -- Longer than the write-ahead log keeps an undelivered batch.
        ('usage_batch', 'added_at', 90, 'true'),
        ('usage_day', 'day', 400, 'true'),
        ('usage_hour', 'hour', 30, 'true'),
        ('usage_minute', 'minute', 30, 'true'),
        ('usage_month', 'month', 400, 'true')
$$;
