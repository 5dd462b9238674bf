"""Statements that a role has the right to send and that must be denied; `breaking` tries them."""

# Rows of the attacker that refer to rows of the victim.
FOREIGN_REFERENCES = {
    "worker": (
        (
            "insert into okcm.service_certificate (tenant_id, serial, service, generation, request_id,"
            " certificate_pem, not_before, not_after, authority)"
            " values ('{attacker}', 'ff', 'orders', 9, 'x', 'x', now(), now() + interval '1 hour',"
            " encode('{victim}', 'hex'))"
        ),
        "update okcm.key_probe set l2_key = 'L2-{victim}-primary' where tenant_id = '{attacker}'",
        (
            "update okcm.service_key set root_key_mode = 'openbao', root_key_id = md5('{victim}')"
            " where tenant_id = '{attacker}'"
        ),
    ),
    "crypto": (
        (
            "insert into okcm.managed_object (tenant_id, l2_key, object_id, service, object_type, state, names,"
            " attributes, key_version, material, revision)"
            " values ('{attacker}', 'L2-{victim}-primary', 'new', 'orders', 2, 1, '{{}}', '', 1, 'x', 1)"
        ),
    ),
}
# Covered by a grant of the process, but denied even for rows of its own tenant.
_COMMAND = f"command/{'a' * 32}"
_UNDOCUMENTED_DELETION = ("delete from okcm.protected_field",)  # the author must be set before a deletion
NEVER = {
    "worker": (
        # A certificate request for a customer's service: only people and agents may store one.
        (
            "insert into okcm.service_request (tenant_id, request_id, service, kind, csr_pem)"
            " values ('{attacker}', md5('{attacker}'), 'orders', 'microservice', 'x')"
        ),
    ),
    "operator": (
        *_UNDOCUMENTED_DELETION,
        "update okcm.outbox set next_try = now() + interval '1 year'",  # a suppressed notification
        *(
            f"select okcm.audit_append_command(jsonb_build_object('event_id', '{event}', 'actor_kind', '{kind}',"
            f" 'actor', '{actor}', 'name', '{name}'))"
            for event, kind, actor, name in (
                (_COMMAND, "system", "operator", "tenant.lock_requested"),
                (_COMMAND, "human", "pat@acme.example", "tenant.lock_requested"),
                (_COMMAND, "human", "operator", "tenant.locked"),
                ("tenant/x/rotate/1", "human", "operator", "tenant.lock_requested"),
            )
        ),
        f"select okcm.audit_append_command(jsonb_build_object('event_id', '{_COMMAND}', 'actor', 'operator'))",
    ),
    "dashboard": (
        *_UNDOCUMENTED_DELETION,
        # Only a signed-in person can request or vote.
        (
            "insert into okcm.approval (tenant_id, approval_id, action, requested_by, requested_name)"
            " values ('{attacker}', repeat('e', 32), 'lock', 'not signed on', 'Ada')"
        ),
        (
            "insert into okcm.approval_vote (tenant_id, approval_id, subject, name, roles, choice)"
            " values ('{attacker}', md5('{attacker}'), 'not signed on', 'Ada', '{{administrator}}', 'approve')"
        ),
    ),
}
# For the platform's context, or for a tenant that is destroyed: denied in the context of any other tenant.
PLATFORM_QUESTIONS = (
    "select count(*) from okcm.count_tenants('3 minutes')",
    "select count(*) from okcm.page_of_tenants(null, null, false, null, '3 minutes', '', 10)",
    "select count(*) from okcm.page_with_problems(null, null, null, null, '3 minutes', now(), '', 10)",
    "select count(*) from okcm.count_problems('3 minutes', now())",
    "select count(*) from okcm.platform_backlog('30 days', '30 days')",
    "select count(*) from okcm.stuck_tenants('3 minutes', 10)",
    "select count(*) from okcm.key_probes('', 10)",
    "select count(*) from okcm.numbered_root_keys()",
    *(
        f"select okcm.{question}"
        for question in (
            *("provisioning_times(10)", "unstarted_events(10)", "unsigned_streams(10)"),
            *("due_notifications('email', 10)", "undelivered_notifications('1 day', 10)"),
            *("due_authorities(10)", "outlived_authorities(10)", "stale_revocation_lists('12 hours', 10)"),
            *("expiring(10)", "unknown_serials('{{aa}}')", "client_authorities('0', '', 10)"),
            *("tenants_with_expired_rows('outbox', 30, 10)", "archivable_streams(now(), 10)"),
            "monitored_root_keys('eu-west-1', 0, 1, '1 minute', '3', '{{}}', '', 10)",
            *("untaken_credentials(10)", "due_examinations('', 10)", "troubled_examinations('1 hour', 10)"),
            *("due_rotations(1, 1, 10)", "stuck_rotations(1, 1, '1 hour', '1 day', 10)", "pending_enrolments(10)"),
            *("stale_services('', '', 10)", "record_audit_key('audit-checkpoints:9', 'x')", "erase_tenant(10)"),
            *("newest_breach()", "workflow_tenants('', 10)", "workflow_services('', '', 10)"),
            *("denied_tenants()", "denied_locks()", "store_states(null, '', 10)"),
        )
    ),
    "select count(*) from okcm.audit_keys()",
)
NEVER_ANY_PROCESS = (
    "select okcm.require_platform_context()",
    "select okcm.is_destroying()",
    "set role okcm_owner",
    "set role okcm_migrator",
    "set session authorization postgres",
    "set session_replication_role = replica",
    "alter table okcm.tenant disable row level security",
    "drop policy signed on okcm.tenant",
    "create table okcm.mine ()",
    "create temporary table mine ()",
    "create function okcm.mine() returns int language sql as 'select 1'",
    "alter function okcm.ctx_ok() rename to mine",
    "copy (select 1) to program 'true'",
    "select pg_read_file('PG_VERSION')",
)
