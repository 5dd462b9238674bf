"""What no process may, whatever its rows: by the process in whose session it is tried; `breaking` tries it."""

from tests.database.hostile import TABLES

READABLE = {
    "worker": tuple(table for table in TABLES if table != "key_fingerprint"),
    "marketplace": (
        *("tenant", "marketplace_event", "operation_step", "outbox", "join_token", "enrolment", "discovery"),
        *("service", "service_request", "service_certificate", "certificate_authority"),
    ),
    "operator": tuple(
        table
        for table in TABLES
        if table
        not in {
            *("usage_day", "dashboard_session", "protection_use", "backfill", "report"),
            *("key_probe", "key_fingerprint"),
        }
    ),
    "dashboard": tuple(
        table
        for table in TABLES
        if table not in {"marketplace_event", "outbox", "usage_batch", "key_probe", "key_fingerprint"}
    ),
    "crypto": (
        *("tenant", "route", "certificate_authority", "service", "service_certificate", "service_key"),
        *("managed_object", "usage_minute", "usage_day", "usage_batch", "root_key", "certificate_revocation_list"),
        *("agent", "protection_use", "backfill", "protection", "protected_field"),
    ),
}
# Granted to the dashboard's role alone, and to it for the platform's context alone.
OPERATORS_QUESTIONS = (
    "select count(*) from okcm.count_tenants('3 minutes')",
    "select count(*) from okcm.page_of_tenants(null, null, false, null, '3 minutes', '', 10)",
    "select count(*) from okcm.stuck_tenants('3 minutes', 10)",
    "select count(*) from okcm.provisioning_times(10)",
)
# Whoever changes a list of protected fields neither renames in it, nor says when, nor lets its version fall, nor lets
# fields go unseen: a deletion says first who makes it.
_PROTECTION = (
    "delete from okcm.protected_field",
    "delete from okcm.protection",
    *(f"update okcm.protected_field set {column}" for column in ("field = 'x'", "changed_at = now()")),
    *(f"update okcm.protection set {column}" for column in ("version = 0", "changed_at = now()", "service = 'x'")),
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
        "select count(*) from okcm.key_probes('', 10)",
        *(f"select {column} from okcm.key_fingerprint" for column in ("tenant_id", "fingerprint")),
        "update okcm.key_fingerprint set fingerprint = repeat('e', 64)",
        "delete from okcm.key_fingerprint",
        (
            "insert into okcm.key_fingerprint (tenant_id, name, version, fingerprint)"
            " values ('{attacker}', 'mine', 1, repeat('e', 64))"
        ),
        "delete from okcm.key_probe",
        "update okcm.certificate_authority set certificate_pem = 'x'",
        "update okcm.service_certificate set authority = 'x'",
        *(f"delete from okcm.{table}" for table in ("certificate_authority", "certificate_revocation_list")),
        "select okcm.unknown_serials('{{aa}}')",
        "select okcm.watched_root_keys('eu-west-1', '1 minute')",
        "select okcm.untaken_credentials(10)",
        "select count(*) from okcm.numbered_root_keys()",
        "update okcm.rotation set root_key_version = 9",
        (
            "insert into okcm.tenant (tenant_id, organization, region, state) values ('{attacker}', 'x', 'x', 'active')"
            " on conflict do nothing"
        ),
        "insert into okcm.audit_event values ('{attacker}', 99, 'x', '{{}}', sha256(''))",
        "update okcm.audit_head set seq = 0",
        "update okcm.audit_event set record = '{{}}'",
        "delete from okcm.audit_event",
        "delete from okcm.audit_signed_head",
        *(f"delete from okcm.{table}" for table in ("boundary_result", "boundary_clause")),
        "update okcm.boundary_clause set breached = 0",
        "select okcm.due_examinations('', 10)",
        "select okcm.troubled_examinations('1 hour', 10)",
        "select count(*) from okcm.examination_dues()",
        "update okcm.key set name = 'x'",
        "select okcm.due_rotations(1, 1, 10)",
        "select okcm.stuck_rotations(1, 1, '1 hour', '1 day', 10)",
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
        # A certificate in the name of a customer's service: that is for people and agents to ask for.
        (
            "insert into okcm.service_request (tenant_id, request_id, service, kind, csr_pem)"
            " values ('{attacker}', md5('{attacker}'), 'orders', 'microservice', 'x')"
        ),
        *(f"select {column} from okcm.managed_object" for column in ("material", "attributes")),
        "delete from okcm.managed_object",
        "select count from okcm.usage_minute",
        "select bytes from okcm.usage_day",
        "select changed_by from okcm.protected_field",
        # What was asked of a report and stated once nobody asks or states otherwise, the worker itself not.
        *(f"update okcm.report set {column} = now()" for column in ("since", "until", "requested_at")),
        "update okcm.report set made_for = 'x'",
        (
            "insert into okcm.report (tenant_id, report_id, since, until, made_for)"
            " values ('{attacker}', repeat('e', 32), now() - interval '1 day', now(), 'x')"
        ),
        "delete from okcm.report",
        "update okcm.protected_field set mode = 'randomised'",
        *(f"delete from okcm.{table}" for table in ("agent", "protection_use", "backfill")),
        *(f"delete from okcm.{table}" for table in ("protection", "protected_field")),
        "update okcm.agent set problem = null",
        "select subject from okcm.dashboard_session",
        "update okcm.destruction set fingerprint = repeat('0', 64)",
        "update okcm.shred_certificate set statement = 'x'",
        "select token_hash from okcm.join_token",
        "select ticket_hash from okcm.enrolment",
        *(f"delete from okcm.{table}" for table in ("destruction", "shred_certificate", "discovery")),
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
        # Agents enrol here: it uses tokens and makes none, and what it stored it does not read or alter.
        (
            "insert into okcm.join_token (tenant_id, token_hash, service, kind, made_by, expires_at)"
            " values ('{attacker}', repeat('e', 64), 'orders', 'mongodb', 'x', now())"
        ),
        "update okcm.join_token set expires_at = now()",
        "update okcm.join_token set service = 'another'",
        "update okcm.enrolment set service = 'another'",
        "update okcm.enrolment set ticket_hash = repeat('e', 64)",
        "select csr_pem from okcm.service_request",
        "update okcm.service_request set csr_pem = 'x'",
        "update okcm.service set state = 'connected'",
        "update okcm.service_certificate set revoked_at = null",
        *(f"delete from okcm.{table}" for table in ("join_token", "enrolment", "discovery")),
    ),
    "operator": (
        'select okcm.audit_append(\'{{"event_id": "x"}}\')',
        'select okcm.audit_append_all(\'[{{"event_id": "x"}}]\')',
        *(
            f"select okcm.audit_append_command(jsonb_build_object('event_id', 'command/' || repeat('a', 32), {forged}))"
            for forged in (
                "'name', 'tenant.lock_requested', 'actor_kind', 'system', 'actor', 'operator'",
                "'name', 'tenant.lock_requested', 'actor_kind', 'human', 'actor', 'pat@acme.example'",
                "'name', 'tenant.locked', 'actor_kind', 'human', 'actor', 'operator'",
                "'actor_kind', 'human', 'actor', 'operator'",
            )
        ),
        (
            'select okcm.audit_append_command(\'{{"event_id": "tenant/x/rotate/1", "actor_kind": "human",'
            ' "actor": "operator", "name": "tenant.lock_requested"}}\')'
        ),
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
        *(f"select place from okcm.{table}" for table in ("protection_use", "backfill")),
        "select stated from okcm.report",
        "update okcm.agent set problem = null",
        "select token_hash from okcm.join_token",
        "update okcm.join_token set used_at = null",
        "select ticket_hash from okcm.enrolment",
        "update okcm.enrolment set state = 'issued'",
        "delete from okcm.join_token",
        *_PROTECTION,
    ),
    # It faces the customers' networks: what it could change here, a hole in it could change.
    "crypto": (
        "select okcm.unknown_serials('{{aa}}')",
        "select okcm.watched_root_keys('eu-west-1', '1 minute')",
        "select okcm.untaken_credentials(10)",
        "select count(*) from okcm.numbered_root_keys()",
        "update okcm.tenant set root_key_newest = 9",
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
        "select okcm.stuck_rotations(1, 1, '1 hour', '1 day', 10)",
        "select okcm.objects_sealed('orders', 1)",
        *(f"select * from okcm.{table}" for table in ("tenant_policy", "rotation")),
        "update okcm.managed_object set service = 'another'",
        "update okcm.managed_object set l2_key = 'another'",
        "update okcm.managed_object set object_id = 'another'",
        "update okcm.managed_object set object_type = 9",
        *(f"delete from okcm.{table}" for table in ("usage_minute", "usage_day", "protection_use")),
        "update okcm.agent set first_contact_at = now()",
        "update okcm.agent set service = 'another'",
        *(f"update okcm.{table} set place = 'another'" for table in ("protection_use", "backfill")),
        "select changed_by from okcm.protected_field",
        "update okcm.protected_field set plain_allowed = true",
        "update okcm.protection set changed_by = 'x'",
        *(f"delete from okcm.{table}" for table in ("protection", "protected_field")),
        "select * from okcm.dashboard_session",
        *(f"select count(*) from okcm.{table}" for table in ("join_token", "enrolment", "discovery")),
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
        "update okcm.approval set state = 'withdrawn'",
        (
            "insert into okcm.approval (tenant_id, approval_id, action, requested_by, requested_name, state)"
            " values ('{attacker}', repeat('e', 32), 'lock', 'ada', 'Ada', 'withdrawn')"
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
        *(f"update okcm.report set {what}" for what in ("stated = '{{}}'", "json = 'x'", "made_at = now()")),
        "delete from okcm.report",
        "update okcm.dashboard_session set expires_at = now()",
        "update okcm.usage_day set count = 0",
        "update okcm.agent set last_contact_at = now()",
        "update okcm.protection_use set operations = 0",
        "update okcm.backfill set remaining = 0",
        *(f"delete from okcm.{table}" for table in ("agent", "protection_use", "backfill")),
        "select token_hash from okcm.join_token",
        "update okcm.join_token set used_at = null",
        "select ticket_hash from okcm.enrolment",
        "update okcm.enrolment set state = 'issued'",
        *_PROTECTION,
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
    # Granted to the marketplace, and to it for the platform's context.
    "select okcm.pending_enrolments(10)",
    # Granted to the worker, and to it for a tenant that is being destroyed.
    "select okcm.erase_tenant(10)",
    "select okcm.is_destroying()",
    "copy (select 1) to program 'true'",
    "select pg_read_file('PG_VERSION')",
    "set session_replication_role = replica",
)
