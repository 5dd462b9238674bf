"""What hostile SQL there is, by the process in whose session it runs; `breaking` runs it."""

TABLES = (
    *("tenant", "marketplace_event", "operation_step", "key", "certificate_authority", "route", "boundary_result"),
    *("certificate_revocation_list", "outbox", "audit_event", "audit_head", "audit_signed_head"),
    *("service", "service_request", "service_certificate", "service_key", "managed_object"),
    *("usage_minute", "usage_day", "usage_batch", "dashboard_session"),
    *("root_key", "root_key_request", "root_key_change", "tenant_policy", "rotation", "destruction"),
    *("approval", "approval_vote", "shred_certificate"),
)
ATTACKER, VICTIM = "acme", "beta"


NEVER_ON_ANY_TABLE = (
    "update okcm.{table} set tenant_id = '{victim}'",
    "truncate okcm.{table} cascade",
    "copy okcm.{table} from stdin",
    (
        "create trigger mine before update on okcm.{table}"
        " for each row execute function suppress_redundant_updates_trigger()"
    ),
)
PARTITIONS = tuple(f"audit_event_{number:02d}" for number in range(16))
# What each process may really write, aimed at the victim's rows.
ALLOWED_WRITES = {
    "worker": (
        "update okcm.tenant set state = 'active' where tenant_id = '{victim}'",
        "update okcm.marketplace_event set started_at = now() where tenant_id = '{victim}'",
        "update okcm.operation_step set problem = 'x' where tenant_id = '{victim}'",
        "update okcm.route set region = 'x' where tenant_id = '{victim}'",
        "delete from okcm.route where tenant_id = '{victim}'",
        "update okcm.outbox set sent_at = now() where tenant_id = '{victim}'",
        "insert into okcm.tenant (tenant_id, organization, region) values ('gamma', 'x', 'x')",
        (
            "insert into okcm.marketplace_event (tenant_id, event_id, kind, organization, region, occurred_at)"
            " values ('{victim}', 'new', 'service_enabled', 'x', 'x', now())"
        ),
        "insert into okcm.operation_step (tenant_id, operation_id, step, number) values ('{victim}', 'new', 'x', 1)",
        "insert into okcm.key (tenant_id, name, kind, version) values ('{victim}', 'new', 'L2', 1)",
        (
            "insert into okcm.certificate_authority (tenant_id, serial, certificate_pem, chain_pem, not_after)"
            " values ('{victim}', 'ff', 'x', 'x', now()) on conflict do nothing"
        ),
        (
            "insert into okcm.route (tenant_id, l2_key, issuer_fingerprint, region)"
            " values ('{victim}', 'L2-{victim}-primary', repeat('0', 64), 'x') on conflict do nothing"
        ),
        (
            "insert into okcm.boundary_result"
            " (tenant_id, number, operation_id, clause, name, outcome, seconds, evidence)"
            " values ('{victim}', 9, 'x', 'M2', 'x', 'held', 0, 'x')"
        ),
        (
            "insert into okcm.outbox (tenant_id, message_id, channel, kind, subject, body)"
            " values ('{victim}', 'new', 'email', 'ready', 'x', 'x')"
        ),
        "update okcm.service set state = 'connected' where tenant_id = '{victim}'",
        "update okcm.service_certificate set revoked_at = null where tenant_id = '{victim}'",
        "insert into okcm.service (tenant_id, service, kind) values ('{victim}', 'new', 'mongodb')",
        (
            "insert into okcm.service_certificate (tenant_id, serial, service, generation, request_id,"
            " certificate_pem, not_before, not_after, authority)"
            " values ('{victim}', 'ff', 'orders', 9, 'x', 'x', now(), now() + interval '1 hour',"
            " encode('{victim}', 'hex'))"
        ),
        # A certificate of one's own that claims another's authority as its issuer.
        (
            "insert into okcm.service_certificate (tenant_id, serial, service, generation, request_id,"
            " certificate_pem, not_before, not_after, authority)"
            " values ('{attacker}', 'ff', 'orders', 9, 'x', 'x', now(), now() + interval '1 hour',"
            " encode('{victim}', 'hex'))"
        ),
        "update okcm.certificate_authority set state = 'ended' where tenant_id = '{victim}'",
        "update okcm.route set former_issuer_fingerprint = repeat('f', 64) where tenant_id = '{victim}'",
        "update okcm.certificate_revocation_list set number = 9 where tenant_id = '{victim}'",
        (
            "insert into okcm.certificate_revocation_list (tenant_id, authority, number, der, this_update, next_update)"
            " values ('{victim}', encode('{victim}', 'hex'), 9, 'x', now(), now() + interval '1 hour')"
            " on conflict do nothing"
        ),
        (
            "insert into okcm.service_key (tenant_id, service, version, l2_key, root_key_mode, root_key, wrapped)"
            " values ('{victim}', 'orders', 9, 'L2-{victim}-primary', 'platform', 'x', 'x')"
        ),
        "update okcm.service_key set wrapped = 'x' where tenant_id = '{victim}'",
        "update okcm.tenant set locks = '{{}}' where tenant_id = '{victim}'",
        "update okcm.root_key set health = 'ok', credentials = 'x' where tenant_id = '{victim}'",
        "update okcm.root_key_request set sealed = null where tenant_id = '{victim}'",
        "update okcm.root_key_change set problem = 'x' where tenant_id = '{victim}'",
        (
            "insert into okcm.root_key (tenant_id, root_key_id, mode, name, place, credentials)"
            " values ('{victim}', repeat('e', 32), 'openbao', 'x', '{{}}', 'x')"
        ),
        (
            "insert into okcm.root_key_change (tenant_id, number, from_mode, from_name, to_mode, to_name)"
            " values ('{victim}', 9, 'x', 'x', 'x', 'x')"
        ),
        "update okcm.key set version = 2, oldest = 2 where tenant_id = '{victim}'",
        "update okcm.service_key set state = 'destroyed', wrapped = null where tenant_id = '{victim}'",
        "update okcm.root_key set credentials = 'x', l2_version = 2 where tenant_id = '{victim}'",
        "update okcm.tenant_policy set tenant_key_days = 700 where tenant_id = '{victim}'",
        "update okcm.rotation set problem = 'x' where tenant_id = '{victim}'",
        (
            "insert into okcm.tenant_policy (tenant_id, tenant_key_days, service_key_days) values ('{victim}', 30, 7)"
            " on conflict do nothing"
        ),
        (
            "insert into okcm.rotation (tenant_id, number, tenant_key, from_version, services)"
            " values ('{victim}', 9, true, 1, 'none')"
        ),
        "update okcm.approval set reason = 'x' where tenant_id = '{victim}'",
        "update okcm.tenant set destroying_at = now() where tenant_id = '{victim}'",
        "update okcm.destruction set destroyed_at = now() where tenant_id = '{victim}'",
        (
            "insert into okcm.destruction (tenant_id, kind, name, versions, fingerprint)"
            " values ('{victim}', 'service key', 'x', '1', repeat('0', 64))"
        ),
        "insert into okcm.shred_certificate values ('{victim}', 'x', 'x', 'x', now()) on conflict do nothing",
        # A service key of one's own under another's root key.
        (
            "update okcm.service_key set root_key_mode = 'openbao',"
            " root_key_id = md5('{victim}') where tenant_id = '{attacker}'"
        ),
    ),
    "marketplace": (
        "update okcm.marketplace_event set started_at = now() where tenant_id = '{victim}'",
        "insert into okcm.tenant (tenant_id, organization, region) values ('gamma', 'x', 'x')",
        (
            "insert into okcm.marketplace_event (tenant_id, event_id, kind, organization, region, occurred_at)"
            " values ('{victim}', 'new', 'service_enabled', 'x', 'x', now())"
        ),
    ),
    "operator": (
        (
            "insert into okcm.service_request (tenant_id, request_id, service, kind, csr_pem)"
            " values ('{victim}', 'new', 'orders', 'mongodb', 'x')"
        ),
        (
            "insert into okcm.root_key_request (tenant_id, request_id, place, sealed)"
            " values ('{victim}', repeat('e', 32), '{{}}', 'x')"
        ),
    ),
    "crypto": (
        "update okcm.service set last_seen_at = now() where tenant_id = '{victim}'",
        "update okcm.service_key set last_opened_at = now(), emptied_at = now() where tenant_id = '{victim}'",
        "update okcm.managed_object set material = null where tenant_id = '{victim}'",
        "delete from okcm.managed_object where tenant_id = '{victim}'",
        "delete from okcm.usage_batch where tenant_id = '{victim}'",
        "update okcm.usage_minute set count = 10 where tenant_id = '{victim}'",
        (
            "insert into okcm.managed_object (tenant_id, l2_key, object_id, service, object_type, state, names,"
            " attributes, key_version, material, revision)"
            " values ('{victim}', 'L2-{victim}-primary', 'new', 'orders', 2, 1, '{{}}', '', 1, 'x', 1)"
        ),
        # The wall behind row security: an object of one's own that hangs on another's L2, or on no key at all.
        (
            "insert into okcm.managed_object (tenant_id, l2_key, object_id, service, object_type, state, names,"
            " attributes, key_version, material, revision)"
            " values ('{attacker}', 'L2-{victim}-primary', 'new', 'orders', 2, 1, '{{}}', '', 1, 'x', 1)"
        ),
        (
            "insert into okcm.usage_minute (tenant_id, minute, service, operation, count, refused, bytes)"
            " values ('{victim}', '2026-01-01', 'orders', 'get', 1, 0, 0)"
        ),
        "insert into okcm.usage_batch (tenant_id, batch_id) values ('{victim}', 'new')",
        "update okcm.usage_day set count = 10 where tenant_id = '{victim}'",
        "insert into okcm.usage_day values ('{victim}', now(), '', 'x', '', 1, 0, 0, array_fill(0::bigint, array[40]))",
    ),
    "dashboard": (
        (
            "insert into okcm.approval (tenant_id, approval_id, action, requested_by, requested_name)"
            " values ('{victim}', repeat('e', 32), 'lock', 'ada', 'Ada')"
        ),
        (
            "insert into okcm.approval_vote (tenant_id, approval_id, subject, name, roles, choice)"
            " values ('{victim}', md5('{victim}'), 'kai', 'Kai', '{{administrator}}', 'approve')"
        ),
        "update okcm.dashboard_session set ended_at = now() where tenant_id = '{victim}'",
        "delete from okcm.dashboard_session where tenant_id = '{victim}'",
        (
            "insert into okcm.dashboard_session (tenant_id, session_id, subject, expires_at)"
            " values ('{victim}', repeat('e', 64), 'mallory', now())"
        ),
        (
            "insert into okcm.service_request (tenant_id, request_id, service, kind, csr_pem)"
            " values ('{victim}', 'new', 'orders', 'mongodb', 'x')"
        ),
        (
            "insert into okcm.root_key_request (tenant_id, request_id, place, sealed)"
            " values ('{victim}', repeat('e', 32), '{{}}', 'x')"
        ),
    ),
}
READABLE = {
    "worker": TABLES,
    "marketplace": ("tenant", "marketplace_event", "operation_step", "outbox"),
    "operator": tuple(table for table in TABLES if table not in {"usage_day", "dashboard_session"}),
    "dashboard": tuple(table for table in TABLES if table not in {"marketplace_event", "outbox", "usage_batch"}),
    "crypto": (
        *("tenant", "route", "certificate_authority", "service", "service_certificate", "service_key"),
        *("managed_object", "usage_minute", "usage_day", "usage_batch", "root_key", "certificate_revocation_list"),
    ),
}
# Granted to the dashboard's role alone, and to it for the platform's context alone.
OPERATORS_QUESTIONS = (
    "select count(*) from okcm.count_tenants('3 minutes')",
    "select count(*) from okcm.page_of_tenants(null, null, false, null, '3 minutes', '', 10)",
    "select count(*) from okcm.stuck_tenants('3 minutes', 10)",
    "select count(*) from okcm.provisioning_times(10)",
)
# Inside its own tenant a process may still not do these.
NEVER = {
    "worker": (
        "select okcm.unstarted_events(10)",
        "select okcm.moved_heads(10)",
        "select okcm.waiting_outboxes(10)",
        "select okcm.due_authorities(10)",
        "select okcm.outlived_authorities(10)",
        "select okcm.stale_revocation_lists('12 hours', 10)",
        "select okcm.expiring(10)",
        "update okcm.certificate_authority set certificate_pem = 'x'",
        "update okcm.service_certificate set authority = 'x'",
        *(f"delete from okcm.{table}" for table in ("certificate_authority", "certificate_revocation_list")),
        "select okcm.unknown_serials('{{aa}}')",
        "select okcm.watched_root_keys('eu-west-1', '1 minute')",
        "select okcm.untaken_credentials(10)",
        (
            "insert into okcm.tenant (tenant_id, organization, region, state) values ('{attacker}', 'x', 'x', 'active')"
            " on conflict do nothing"
        ),
        "insert into okcm.audit_event values ('{attacker}', 99, 'x', '{{}}', sha256(''))",
        "update okcm.audit_head set seq = 0",
        "update okcm.audit_event set record = '{{}}'",
        "delete from okcm.audit_event",
        "delete from okcm.audit_signed_head",
        "delete from okcm.boundary_result",
        "update okcm.key set name = 'x'",
        "select okcm.due_rotations(1, 1, 10)",
        "delete from okcm.rotation",
        *(f"update okcm.rotation set {column}" for column in ("services = 'all'", "from_version = 9", "number = 9")),
        "delete from okcm.tenant_policy",
        "delete from okcm.service_certificate",
        "update okcm.service_certificate set not_after = now()",
        "delete from okcm.service_key",
        "update okcm.service_key set l2_key = 'x'",
        "update okcm.root_key set place = '{{}}'",
        "update okcm.root_key_request set place = '{{}}'",
        "delete from okcm.root_key",
        # It decides by what people said, and says nothing in their place.
        (
            "insert into okcm.approval (tenant_id, approval_id, action, requested_by, requested_name)"
            " values ('{attacker}', repeat('e', 32), 'lock', 'ada', 'Ada')"
        ),
        (
            "insert into okcm.approval_vote (tenant_id, approval_id, subject, name, roles, choice)"
            " values ('{attacker}', md5('{attacker}'), 'ada', 'Ada', '{{administrator}}', 'approve')"
        ),
        "update okcm.approval set requested_by = 'x'",
        "update okcm.approval set action = 'lock', argument = '{{}}'",
        "delete from okcm.approval",
        "update okcm.approval_vote set choice = 'approve'",
        "delete from okcm.approval_vote",
        "delete from okcm.root_key_change",
        "delete from okcm.service",
        "update okcm.service_request set csr_pem = 'x'",
        *(f"select {column} from okcm.managed_object" for column in ("material", "attributes")),
        "delete from okcm.managed_object",
        *(f"select count from okcm.{table}" for table in ("usage_minute", "usage_day")),
        "select subject from okcm.dashboard_session",
        "update okcm.destruction set fingerprint = repeat('0', 64)",
        "update okcm.shred_certificate set statement = 'x'",
        *(f"delete from okcm.{table}" for table in ("destruction", "shred_certificate")),
    ),
    "marketplace": (
        "select okcm.unstarted_events(10)",
        "select okcm.moved_heads(10)",
        "select okcm.unknown_serials('{{aa}}')",
        (
            "insert into okcm.tenant (tenant_id, organization, region, state) values ('{attacker}', 'x', 'x', 'active')"
            " on conflict do nothing"
        ),
        "select * from okcm.audit_event",
        "select * from okcm.key",
        "update okcm.tenant set state = 'active'",
        "update okcm.marketplace_event set organization = 'x'",
        *(f"select * from okcm.{table}" for table in ("service", "service_key", "managed_object", "usage_minute")),
    ),
    "operator": (
        'select okcm.audit_append(\'{{"event_id": "x"}}\')',
        "select okcm.unstarted_events(10)",
        "update okcm.tenant set state = 'active'",
        "delete from okcm.route",
        "update okcm.service_request set csr_pem = 'x'",
        "update okcm.service set state = 'connected'",
        "select wrapped from okcm.service_key",
        "select staged_wrapped from okcm.service_key",
        *(f"select {column} from okcm.managed_object" for column in ("material", "attributes")),
        *(f"select {column} from okcm.root_key" for column in ("credentials", "probe", "probe_digest")),
        "select sealed from okcm.root_key_request",
        "update okcm.root_key_request set problems = '[]'",
        "update okcm.root_key set health = 'ok'",
        "select count from okcm.usage_day",
    ),
    # It faces the customers' networks: what it could change here, a hole in it could change.
    "crypto": (
        "select okcm.unknown_serials('{{aa}}')",
        "select okcm.watched_root_keys('eu-west-1', '1 minute')",
        "select okcm.untaken_credentials(10)",
        "select probe from okcm.root_key",
        "update okcm.root_key set health = 'ok'",
        "select * from okcm.root_key_request",
        "select * from okcm.root_key_change",
        "select okcm.moved_heads(10)",
        "select okcm.audit_save_signed_head(1, '', '', '')",
        *(f"select * from okcm.{table}" for table in ("audit_event", "key", "service_request", "outbox")),
        "update okcm.tenant set state = 'active'",
        "update okcm.route set region = 'x'",
        "update okcm.certificate_authority set serial = 'ff'",
        "update okcm.certificate_authority set state = 'current'",
        "update okcm.route set former_issuer_fingerprint = repeat('f', 64)",
        "update okcm.certificate_revocation_list set der = 'x'",
        "select okcm.expiring(10)",
        "update okcm.service set state = 'connected'",
        "insert into okcm.service (tenant_id, service, kind) values ('{attacker}', 'new', 'mongodb')",
        "update okcm.service_certificate set revoked_at = null",
        (
            "insert into okcm.service_certificate"
            " (tenant_id, serial, service, generation, request_id, certificate_pem, not_before, not_after)"
            " values ('{attacker}', 'ff', 'orders', 9, 'x', 'x', now(), now() + interval '1 hour')"
        ),
        *(f"update okcm.service_key set {what}" for what in ("wrapped = 'x'", "state = 'active'", "l2_version = 9")),
        "select okcm.stale_services('', '', 10)",
        "select okcm.due_rotations(1, 1, 10)",
        "select okcm.objects_sealed('orders', 1)",
        *(f"select * from okcm.{table}" for table in ("tenant_policy", "rotation")),
        "update okcm.managed_object set service = 'another'",
        "update okcm.managed_object set l2_key = 'another'",
        "update okcm.managed_object set object_id = 'another'",
        "update okcm.managed_object set object_type = 9",
        *(f"delete from okcm.{table}" for table in ("usage_minute", "usage_day")),
        "select * from okcm.dashboard_session",
    ),
    # People's browsers end here: it looks, asks, and changes nothing but who is signed on.
    "dashboard": (
        "select okcm.unstarted_events(10)",
        "select okcm.audit_save_signed_head(1, '', '', '')",
        *(f"select * from okcm.{table}" for table in ("marketplace_event", "outbox", "usage_batch")),
        "update okcm.tenant set state = 'active'",
        "update okcm.service set state = 'connected'",
        "update okcm.service_certificate set revoked_at = null",
        "update okcm.service_request set csr_pem = 'x'",
        "select wrapped from okcm.service_key",
        "select staged_wrapped from okcm.service_key",
        *(f"select {column} from okcm.root_key" for column in ("credentials", "probe", "probe_digest")),
        "select sealed from okcm.root_key_request",
        "update okcm.tenant_policy set service_key_days = 300",
        "update okcm.rotation set problem = null",
        "update okcm.service_key set state = 'active'",
        "update okcm.root_key_request set problems = '[]'",
        "update okcm.root_key set health = 'ok'",
        "update okcm.root_key_change set state = 'done'",
        # Nobody decides here, and nobody speaks who is not signed on, or speaks twice.
        "update okcm.approval set state = 'approved'",
        (
            "insert into okcm.approval (tenant_id, approval_id, action, requested_by, requested_name, state)"
            " values ('{attacker}', repeat('e', 32), 'lock', 'ada', 'Ada', 'approved')"
        ),
        (
            "insert into okcm.approval (tenant_id, approval_id, action, requested_by, requested_name)"
            " values ('{attacker}', repeat('e', 32), 'lock', 'nobody', 'Ada')"
        ),
        (
            "insert into okcm.approval_vote (tenant_id, approval_id, subject, name, roles, choice)"
            " values ('{attacker}', md5('{attacker}'), 'nobody', 'Ada', '{{administrator}}', 'approve')"
        ),
        "update okcm.approval_vote set choice = 'approve'",
        "delete from okcm.approval_vote",
        "update okcm.tenant_policy set four_eyes = '{{}}'",
        "delete from okcm.tenant_policy",
        *(f"select {column} from okcm.managed_object" for column in ("material", "attributes")),
        "update okcm.audit_event set record = '{{}}'",
        "delete from okcm.audit_event",
        "update okcm.dashboard_session set subject = 'mallory'",
        "update okcm.dashboard_session set expires_at = now()",
        "update okcm.usage_day set count = 0",
        *(f"delete from okcm.{table}" for table in ("usage_minute", "usage_day")),
    ),
}
NEVER_ANYBODY = (
    "select * from okcm.context_key",
    "select * from okcm.schema_migration",
    "select * from okcm.audit_key",
    "select count(*) from okcm.audit_keys()",
    "select okcm.record_audit_key('audit-heads:9', 'x')",
    "insert into okcm.audit_key (key, public_key_pem) values ('audit-heads:9', 'x')",
    "update okcm.audit_key set public_key_pem = 'x'",
    "delete from okcm.audit_key",
    "set role okcm_owner",
    "set role okcm_migrator",
    "set session authorization postgres",
    "alter table okcm.tenant disable row level security",
    "drop policy signed on okcm.tenant",
    "create table okcm.mine ()",
    "create temporary table mine ()",
    "create function okcm.mine() returns int language sql as 'select 1'",
    "alter function okcm.ctx_ok() rename to mine",
    "select okcm.require_platform_context()",
    # Granted to the worker, and to it for a tenant that is being destroyed.
    "select okcm.erase_tenant(10)",
    "select okcm.is_destroying()",
    "copy (select 1) to program 'true'",
    "select pg_read_file('PG_VERSION')",
    "set session_replication_role = replica",
)
