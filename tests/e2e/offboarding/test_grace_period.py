"""Offboarding: in the grace period all requests are rejected and a restore is possible; then the keys are destroyed."""

import json
from pathlib import Path

import pytest

from config.secrets import Role
from core import names as ids
from core.errors.keys import KeyUnavailable
from openkcm.verification.erasure_certificate import shred_message
from tests.activities.offboarding.test_destruction import verified
from tests.concurrency import wait_until
from tests.e2e.clients import OK, SERVICE, Program, start_program
from tests.e2e.connected import rejection_code
from tests.e2e.isolation.attacker import InsiderAttacker
from tests.e2e.isolation.test_traces import found_in
from tests.e2e.provisioning.test_enable import assert_refused
from tests.e2e.stack import Stack
from tests.e2e.tenants import ORGANIZATION, new_tenant
from vault.transit.audit_signer import TransitAuditSigner

LEAVER = "Leaver Holding"


def refuses_all(program: Program) -> bool:
    """Return whether requests of every kind fail; a refused connection counts as a failure."""
    for name in ("encrypt", "decrypt", "data key", "Get", "Encrypt", "Create", "Get Attributes", "Locate", "Query"):
        try:
            if OK in program.probe(name).values():
                return False
        except (OSError, EOFError):
            program.hang_up()
    return True


def test_all_requests_are_rejected_in_the_grace_period_until_the_tenant_is_restored(
    stack: Stack, program: Program
) -> None:
    tenant = program.service.tenant_id
    assert program.works()
    # The operator offboards and restores.
    plan = stack.command("tenant", "offboard", tenant, "--dry-run")
    assert [service["service_id"] for service in plan["would_stop"]] == [SERVICE]
    assert stack.state(tenant) == "active"
    left = stack.command("tenant", "offboard", tenant, "--grace", "2h", "--confirm", tenant)
    assert (left["state"], left["operation"]) == ("offboarding", f"tenant/{tenant}/offboard")
    wait_until(lambda: refuses_all(program), lambda: "a request succeeds in the grace period")
    assert rejection_code(stack, "tenant", "unlock", tenant) == "invalid_transition"
    wait_until(lambda: bool(stack.callback.about(tenant, "offboarding-started")), lambda: "no notification")
    assert stack.command("tenant", "restore", tenant)["state"] == "active"
    wait_until(program.works, lambda: "what was encrypted before is not decrypted")
    assert rejection_code(stack, "tenant", "restore", tenant) == "invalid_transition"

    # The marketplace disables and enables.
    answer = stack.click(event="service_disabled", customer=tenant, organization=ORGANIZATION)
    assert answer.status_code == 202, answer.text
    stack.wait_for(tenant, "offboarding")
    wait_until(lambda: refuses_all(program), lambda: "a request succeeds in the grace period")
    assert stack.click(customer=tenant, organization=ORGANIZATION).status_code == 202
    stack.wait_for(tenant, "active")
    wait_until(program.works, lambda: "what was encrypted before is not decrypted")


@pytest.mark.e2e
def test_after_the_grace_period_keys_and_names_are_erased_and_the_certificate_states_it(
    stack: Stack, tmp_path: Path
) -> None:
    tenant = new_tenant(stack, "leaver", LEAVER)
    program = start_program(stack, tenant, tmp_path)
    assert program.works()
    attacker = InsiderAttacker(stack, tenant)
    assert [len(key) for key in attacker.unwrap_keys()] == [32]
    stack.command("tenant", "offboard", tenant, "--grace", "3s", "--confirm", tenant)
    stack.wait_for(tenant, "offboarded")
    program.hang_up()
    assert refuses_all(program)
    program.hang_up()
    # An earlier copy of every row does not allow the decryption of a service key.
    with pytest.raises(KeyUnavailable):
        attacker.unwrap_keys()
    for name in (ids.l2_key(tenant), ids.ca_key(tenant), ids.payload_key(tenant)):
        assert stack.vault().read(f"transit/keys/{name}") is None

    assert found_in("\n".join(stack.rows().values()).encode(), [LEAVER.encode()]) == []
    assert_refused(stack.click(customer=tenant, organization=LEAVER), 409, "tenant_offboarded")
    for words in (("tenant", "offboard", tenant, "--confirm", tenant), ("tenant", "restore", tenant)):
        assert rejection_code(stack, *words) == "tenant_offboarded"

    with stack.database(Role.OPERATOR).tenant_tx(tenant) as tx:
        certificate = tx.leaving.certificate()
    assert certificate is not None
    public = TransitAuditSigner(stack.vault()).public_keys()[certificate.key]
    assert verified(public, certificate.signature, shred_message(tenant, certificate.statement))
    kinds = {one["kind"] for one in json.loads(certificate.statement)["destroyed"]}
    assert kinds == {
        *("L2 tenant key", "service key", "payload key", "certificate authority key", "service certificate"),
    }
    wait_until(
        lambda: bool(stack.callback.about(tenant, "offboarded") and stack.mailbox.about(tenant, "keys are destroyed")),
        lambda: "no last notification",
    )
    shown = stack.command("tenant", "show", tenant)
    assert (shown["organization"], bool(shown["leaving"]["ended_at"])) == ("(erased)", True)
