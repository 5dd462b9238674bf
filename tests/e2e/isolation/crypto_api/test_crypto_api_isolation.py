"""Isolation checks attack a tenant over HTTPS and KMIP with services that the product connected."""

import threading
from collections import Counter

from activities.isolation.crypto_api_suite import CLAUSES
from activities.isolation.probe_services import PROBE, REVOKED, SIBLING
from core.names import CANARY_TENANT_ID, MIRROR_TENANT_ID, tenant_workflow
from core.services import ServiceState
from core.tenants.lifecycle import State
from tests.compliance.isolation.crypto_api.endpoints import close_sessions
from tests.concurrency import wait_until
from tests.e2e.connected import command_until_done
from worker import wiring


def test_attacks_over_https_and_kmip_are_rejected(stack, tenant):
    def second_canary_is_active() -> bool:
        with stack.database().tenant_tx(MIRROR_TENANT_ID) as tx:
            row = tx.tenants.get()
        return row is not None and row.state is State.ACTIVE

    wait_until(second_canary_is_active, lambda: f"see workflow {tenant_workflow(MIRROR_TENANT_ID)}")
    attacks = wiring.crypto_api_suite(
        stack.settings, stack.database(), stack.vault(), wiring.utc_now, threading.Event()
    )
    try:
        results = attacks(tenant)
    finally:
        close_sessions(attacks._suite._sides)
    assert {one.clause for one in results} == set(CLAUSES)
    assert Counter(one.outcome for one in results) == {"held": len(results)}
    with stack.database().tenant_tx(CANARY_TENANT_ID) as tx:  # the attackers are ordinary services
        states = {row.service: row.state for row in tx.services.all()}
        service_keys = list(tx.services.keys())
    assert states == {
        PROBE: ServiceState.CONNECTED,
        SIBLING: ServiceState.CONNECTED,
        REVOKED: ServiceState.DISCONNECTED,
    }
    assert {row.l2_key for row in service_keys} == {f"L2-{CANARY_TENANT_ID}-primary"}
    for tenant_id in (CANARY_TENANT_ID, MIRROR_TENANT_ID):  # canary tenants have no notifications
        with stack.database().tenant_tx(tenant_id) as tx:
            assert tx.outbox.all() == []


def test_check_boundaries_repeats_the_attacks_each_time(stack, tenant):
    seconds = []
    for _ in range(2):
        checks = command_until_done(stack, "isolation", "check", tenant)["checks"]
        found = {check["name"]: check for check in checks if check["name"].startswith("crypto-api/")}
        assert {check["outcome"] for check in found.values()} == {"held"}
        seconds.append(found["crypto-api/kmip-read-other-tenant"]["seconds"])
    assert seconds[0] != seconds[1]
