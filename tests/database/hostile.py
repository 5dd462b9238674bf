"""What hostile SQL there is, by the process in whose session it runs; `breaking` runs it."""

TABLES = (
    *("tenant", "marketplace_event", "operation_step", "key", "certificate_authority", "route", "boundary_result"),
    *("boundary_clause", "certificate_revocation_list", "outbox", "audit_event", "audit_head", "audit_signed_head"),
    *("service", "service_request", "service_certificate", "service_key", "managed_object"),
    *("usage_minute", "usage_day", "usage_batch", "dashboard_session"),
    *("root_key", "root_key_request", "root_key_change", "tenant_policy", "rotation", "destruction"),
    *("approval", "approval_vote", "shred_certificate", "agent", "protection_use", "backfill", "report"),
    *("join_token", "enrolment", "discovery", "protection", "protected_field", "key_probe", "key_fingerprint"),
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
_PROTECTING = (
    "update okcm.protection set changed_by = 'mallory' where tenant_id = '{victim}'",
    "update okcm.protected_field set mode = 'randomised' where tenant_id = '{victim}'",
    (
        "with said as (update okcm.protected_field set changed_by = 'x' where tenant_id = '{victim}')"
        " delete from okcm.protected_field where tenant_id = '{victim}'"
    ),
    "insert into okcm.protection (tenant_id, service, changed_by) values ('{victim}', 'orders', 'x')",
    (
        "insert into okcm.protected_field (tenant_id, service, store, place, field, mode, plain_allowed, changed_by)"
        " values ('{victim}', 'orders', 'postgresql', 'public.customers', 'new', 'randomised', true, 'x')"
    ),
)
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
            "insert into okcm.boundary_clause (tenant_id, examined_at, clause, operation_id, held, breached,"
            " not_checked, digest, signature, key)"
            " values ('{victim}', now(), 'M2', 'x', 1, 0, 0, sha256(''), 'x', 'x')"
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
        "update okcm.tenant set root_key_newest = 9 where tenant_id = '{victim}'",
        "update okcm.root_key set probe = 'x' where tenant_id = '{victim}'",
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
        "update okcm.key_probe set tried = '' where tenant_id = '{victim}'",
        (
            "insert into okcm.key_probe (tenant_id, l2_key, version, ciphertext, tried)"
            " values ('{victim}', 'L2-{victim}-primary', 1, 'vault:v1:aGk=', '') on conflict do nothing"
        ),
        # A probe of one's own that hangs on another's L2.
        "update okcm.key_probe set l2_key = 'L2-{victim}-primary' where tenant_id = '{attacker}'",
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
        "update okcm.join_token set used_at = now(), enrolment_id = repeat('e', 32) where tenant_id = '{victim}'",
        "update okcm.enrolment set state = 'issued', settled_at = now() where tenant_id = '{victim}'",
        (
            "insert into okcm.enrolment (tenant_id, enrolment_id, service, kind, proof, proof_hash, key_hash,"
            " ticket_hash) values ('{victim}', repeat('e', 32), 'orders', 'mongodb', 'jwt', repeat('e', 64),"
            " repeat('e', 64), repeat('e', 64))"
        ),
        "insert into okcm.discovery (tenant_id, service, kind) values ('{victim}', 'new', 'mongodb')",
        (
            "insert into okcm.service_request (tenant_id, request_id, service, kind, csr_pem)"
            " values ('{victim}', 'new', 'orders', 'mongodb', 'x')"
        ),
    ),
    "operator": (
        *_PROTECTING,
        (
            "insert into okcm.join_token (tenant_id, token_hash, service, kind, made_by, expires_at)"
            " values ('{victim}', repeat('e', 64), 'orders', 'mongodb', 'x', now())"
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
        "update okcm.agent set last_contact_at = now() where tenant_id = '{victim}'",
        "delete from okcm.agent where tenant_id = '{victim}'",
        "insert into okcm.agent values ('{victim}', 'orders', 'new', '1', now(), null, now(), now())",
        "update okcm.protection_use set operations = 10 where tenant_id = '{victim}'",
        "update okcm.backfill set remaining = 0 where tenant_id = '{victim}'",
        "delete from okcm.backfill where tenant_id = '{victim}'",
        "insert into okcm.backfill values ('{victim}', 'orders', 'new', 1, 1, 'running', now())",
        "insert into okcm.protection_use values ('{victim}', now(), 'orders', 'new', 1, 1, 1, 1, 1)",
        "insert into okcm.usage_day values ('{victim}', now(), '', 'x', '', 1, 0, 0, array_fill(0::bigint, array[40]))",
    ),
    "dashboard": (
        *_PROTECTING,
        (
            "insert into okcm.report (tenant_id, report_id, since, until, made_for)"
            " values ('{victim}', repeat('e', 32), now() - interval '1 day', now(), 'x')"
        ),
        (
            "insert into okcm.join_token (tenant_id, token_hash, service, kind, made_by, expires_at)"
            " values ('{victim}', repeat('e', 64), 'orders', 'mongodb', 'x', now())"
        ),
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
