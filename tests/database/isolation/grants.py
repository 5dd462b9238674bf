"""All rights of each process on tables and functions of the schema; `breaking` compares them with the catalog."""

_PEOPLE = {
    "select": """
        agent approval approval_vote audit_archive audit_event audit_head audit_signed_head boundary_clause
        boundary_result certificate_authority certificate_revocation_list destruction discovery
        enrolment(tenant_id, enrolment_id,
        service, kind, proof, state, requested_at, settled_at, code, message, hint) join_token(tenant_id, service, kind,
        made_by, made_at, expires_at, used_at, enrolment_id) isolation_assessment key
        managed_object(tenant_id, l2_key, object_id, service,
        object_type, state, names, key_version, revision, created_at) operation_step protected_field protection
        root_key(tenant_id, root_key_id, mode, name, place, state, health, health_since, created_at, probe_version,
        viewed_at)
        root_key_change root_key_request(tenant_id, request_id, place, problems, requested_at) rotation route service
        service_certificate service_key(tenant_id, service, version, l2_key, root_key_mode, root_key, created_at, state,
        l2_version, activated_at, deactivated_at, destroyed_at, last_opened_at, emptied_at, root_key_version)
        service_request shred_certificate tenant tenant_policy usage_hour usage_minute
    """,
    "insert": """
        join_token(tenant_id, token_hash, service, kind, made_by, expires_at) protected_field(tenant_id, service, store,
        place, field, mode, plaintext_allowed, changed_by) protection(tenant_id, service, changed_by)
        root_key_request(tenant_id, request_id, place, sealed) service_request(tenant_id, request_id, service, kind,
        csr_pem, certificate_days)
    """,
    "update": "protected_field(mode, plaintext_allowed, changed_by) protection(changed_by)",
    "delete": "protected_field",
    "execute": "audit_keys ctx_ok process_reports schema_version undelivered_notifications",
}
"""The common rights of the operator and the dashboard."""

_TARGET = "target_id, number, kind, label, shown_address, muted, paused, secret_number, former_until, created_at"
_DELIVERY = "channel, kind, added_at, sent_at, attempts, next_try, problem, expired_at, target_id, response"

GRANTS = {
    "worker": {
        "select": """
            agent approval approval_vote audit_archive audit_event audit_head audit_signed_head backfill
            boundary_clause boundary_result certificate_authority certificate_revocation_list
            dashboard_session(tenant_id) destruction discovery enrolment(tenant_id) isolation_assessment
            join_token(tenant_id) key key_probe managed_object(tenant_id, l2_key,
            object_id, service, state) marketplace_event notification_target operation_step
            outbox protected_field(tenant_id, service, store, place, field, mode, plaintext_allowed)
            protection(tenant_id) protection_use(tenant_id, day, service,
            place, operations, bytes, microseconds, requests, request_microseconds) report root_key root_key_change
            root_key_request rotation route service service_certificate service_key service_request shred_certificate
            tenant tenant_policy usage_batch(tenant_id) usage_day(tenant_id, day, service, operation, refusal, count)
            usage_hour(tenant_id) usage_minute(tenant_id) usage_month(tenant_id)
        """,
        "insert": """
            isolation_assessment(tenant_id, due_at, changed_at, complete_at, breached, breached_at)
            boundary_clause(tenant_id, examined_at, clause, operation_id, held, breached, not_checked, digest,
            signature, key) boundary_result(tenant_id, recorded_at, number, operation_id, clause, name, outcome,
            seconds, evidence) certificate_authority(tenant_id, serial, certificate_pem, chain_pem, not_after, state,
            key_version) certificate_revocation_list(tenant_id, authority, number, der, this_update, next_update)
            destruction(tenant_id, kind, name, versions, fingerprint) key(tenant_id, name, kind, version)
            key_probe(tenant_id, l2_key, version, ciphertext, tried) marketplace_event(tenant_id, event_id, kind,
            organization, region, occurred_at) operation_step(tenant_id, operation_id, step, number) outbox(tenant_id,
            message_id, channel, kind, subject, body, target_id)
            root_key(tenant_id, root_key_id, mode, name, place, credentials,
            l2_version) root_key_change(tenant_id, number, from_mode, from_name, to_mode, to_name, root_key_id)
            rotation(tenant_id, number, tenant_key, from_version, services, service, compromised, scheduled,
            root_key_version) route(tenant_id, l2_key, issuer_fingerprint, region, former_issuer_fingerprint)
            service(tenant_id, service, kind) service_certificate(tenant_id, serial, service, generation, request_id,
            certificate_pem, not_before, not_after, authority) service_key(tenant_id, service, version, l2_key,
            root_key_mode, root_key, wrapped, root_key_id, state, l2_version, activated_at) service_request(tenant_id,
            request_id, service, kind, csr_pem) shred_certificate tenant(tenant_id, organization, region)
            tenant_policy(tenant_id, tenant_key_days, service_key_days, four_eyes,
            revoked_keys_readable, resources_recorded)
        """,
        "update": """
            approval(state, expires_at, decided_by, decided_name, decided_at, used_by, reason)
            certificate_authority(state) certificate_revocation_list(number, der, this_update, next_update)
            destruction(destroyed_at) isolation_assessment(due_at, changed_at, complete_at, breached, breached_at,
            examined_at, operation_id, held, not_checked, digest, signature, key, runs)
            key(version, oldest, rotated_at) key_probe(l2_key, version, ciphertext, tried,
            left_at) marketplace_event(started_at) operation_step(state, attempts, started_at, finished_at, problem)
            notification_target(sealed, former_sealed, former_until)
            outbox(attempts, next_try, problem, expired_at, sent_at, response)
            report(stated, stated_at, seq, json, html, pdf,
            made_at) root_key(credentials, state, probe, probe_digest, health, health_since, l2_version)
            root_key_change(root_key_id, state, total, wrapped, problem, finished_at) root_key_request(sealed, problems)
            rotation(state, stage, total, done, problem, finished_at) route(l2_key, issuer_fingerprint, region,
            published_at, former_issuer_fingerprint) service(state, connected_at, disconnected_at)
            service_certificate(revoked_at) service_request(used_at)
            service_key(root_key_mode, root_key, wrapped, root_key_id, staged_for,
            staged_wrapped, state, l2_version, activated_at, deactivated_at, destroyed_at) tenant(state, root_key_mode,
            ready_at, promise_broken_at, locks, unlocks_to, leaving_since, leaves_at, restored_at, returns_to,
            destroying_at, offboarded_at, root_key_newest, scheduled_attempts,
            workflow_starts) tenant_policy(tenant_key_days, service_key_days, changed_at, four_eyes,
            revoked_keys_readable, resources_recorded)
        """,
        "delete": "route",
        "execute": """
            archivable_streams audit_append audit_append_all audit_keys audit_save_signed_head ctx_ok
            delete_archived_events delete_expired_rows denied_locks denied_tenants due_authorities due_examinations
            due_deliveries
            due_notifications due_rotations erase_tenant expiring key_probes monitored_root_keys numbered_root_keys
            newest_breach objects_sealed outlived_authorities record_audit_archive record_audit_key record_fingerprint
            report_process schedule_assessment schema_version stale_revocation_lists store_states stuck_rotations
            tenants_with_expired_rows tenants_with_webhooks
            troubled_examinations unknown_serials unsigned_streams untaken_credentials
            withdraw_report workflow_services workflow_tenants
        """,
    },
    "marketplace": {
        "select": """
            certificate_authority discovery enrolment join_token marketplace_event operation_step outbox
            service(tenant_id, service, kind, state) service_certificate service_request(tenant_id) tenant
        """,
        "insert": """
            discovery(tenant_id, service, kind) enrolment(tenant_id, enrolment_id, service, kind, proof, proof_hash,
            key_hash, ticket_hash) marketplace_event(tenant_id, event_id, kind, organization, region, occurred_at,
            service) service_request(tenant_id, request_id, service, kind, csr_pem) tenant(tenant_id, organization,
            region)
        """,
        "update": """
            enrolment(state, settled_at, code, message, hint) join_token(used_at, enrolment_id)
            marketplace_event(started_at)
        """,
        "execute": "audit_append audit_append_all ctx_ok pending_enrolments schema_version unstarted_events",
    },
    "operator": {
        "select": f"{_PEOPLE['select']} marketplace_event notification_target(tenant_id, {_TARGET}) outbox usage_batch",
        "insert": _PEOPLE["insert"],
        "update": _PEOPLE["update"] + " outbox(next_try, expired_at)",
        "delete": _PEOPLE["delete"],
        "execute": _PEOPLE["execute"] + " audit_append_command store_states",
    },
    "crypto": {
        "select": """
            agent backfill certificate_authority certificate_revocation_list managed_object protected_field(tenant_id,
            service, store, place, field, mode, plaintext_allowed) protection(tenant_id, service, version)
            protection_use root_key(tenant_id, root_key_id, place, credentials, state) route service service_certificate
            service_key tenant tenant_policy(tenant_id, revoked_keys_readable, resources_recorded) usage_batch usage_day
            usage_hour usage_minute usage_month
        """,
        "insert": """
            agent(tenant_id, service, instance, agent_version, certificate_not_after, problem, first_contact_at,
            last_contact_at) backfill(tenant_id, service, place, done, remaining, state, reported_at)
            managed_object(tenant_id, l2_key, object_id, service, object_type, state, names, attributes, key_version,
            material, revision, search_version, active_at, inactive_at, usage_mask, archived, fresh, terms)
            protection_use(tenant_id, day, service, place, operations, bytes, microseconds,
            requests, request_microseconds) usage_batch(tenant_id, batch_id) usage_day(tenant_id, day, service,
            operation, refusal, count, bytes, microseconds, latency) usage_hour(tenant_id, hour, service, operation,
            refusal, count, bytes, microseconds, latency, last_minute) usage_minute(tenant_id, minute, service,
            operation, count, refused, bytes) usage_month(tenant_id, month, service, operation, refusal, count, bytes,
            microseconds, latency, first_day, last_day)
        """,
        "update": """
            agent(agent_version, certificate_not_after, problem, last_contact_at) backfill(done, remaining, state,
            reported_at) managed_object(state, names, attributes, key_version, material, revision,
            search_version, active_at, inactive_at, usage_mask, archived, fresh, terms)
            protection_use(operations, bytes, microseconds, requests, request_microseconds) service(last_seen_at)
            service_key(last_opened_at, emptied_at) usage_day(count, bytes, microseconds, latency) usage_hour(count,
            bytes, microseconds, latency, last_minute) usage_minute(count, refused, bytes)
            usage_month(count, bytes, microseconds, latency, first_day, last_day)
        """,
        "delete": "agent backfill managed_object",
        "execute": """
            audit_append audit_append_all audit_keys cache_changes client_authorities ctx_ok report_process
            schema_version stale_services trim_cache_changes withdraw_report
        """,
    },
    "dashboard": {
        "select": f"{_PEOPLE['select']} audit_hour backfill dashboard_session protection_use report usage_day"
        f" usage_month notification_target(tenant_id, address, {_TARGET}) outbox(tenant_id, message_id, {_DELIVERY})",
        "insert": _PEOPLE["insert"]
        + """
            approval(tenant_id, approval_id, action, argument, requested_by, requested_name, request_reason)
            approval_vote(tenant_id, approval_id, subject, name, roles, choice, reason)
            dashboard_session(tenant_id, session_id, subject, expires_at)
            notification_target(tenant_id, target_id, number, kind, label, address, shown_address, muted, sealed)
            report(tenant_id, report_id, since, until, made_for)
        """,
        "update": _PEOPLE["update"]
        + " dashboard_session(last_seen_at, ended_at) notification_target(muted, paused, secret_number, sealed)"
        " root_key(viewed_at)",
        "delete": _PEOPLE["delete"] + " notification_target",
        "execute": _PEOPLE["execute"]
        + """
            audit_append audit_append_all count_problems count_tenants page_of_tenants page_with_problems
            platform_backlog provisioning_times stuck_tenants troubled_examinations usage_months_since
        """,
    },
}
