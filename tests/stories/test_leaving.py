"""A tenant leaves: in the grace period nothing works and can be restored; afterwards its keys are proven destroyed."""

import json
from pathlib import Path

import pytest

from config.secrets import Role
from core import names as ids
from core.errors.keys import KeyUnavailable
from openkcm.verification.erasure_certificate import shred_message
from tests.activities.offboarding.test_destruction import verified
from tests.concurrency import wait_until
from tests.stories.clients import OK, SERVICE, Program, start_program
from tests.stories.connected import refused
from tests.stories.stack import Stack
from tests.stories.tenants import ORGANIZATION, new_tenant
from tests.stories.test_story_1_enable import assert_refused
from tests.stories.test_traces import found_in
from tests.stories.thief import Thief
from vault.transit.audit_signer import TransitAuditSigner

LEAVER = "Leaver Holding"


def refuses_all(program: Program) -> bool:
    """Whether no request of any kind succeeds; a connection that is not even made is a refusal too."""
    for name in ("encrypt", "decrypt", "data key", "Get", "Encrypt", "Create", "Get Attributes", "Locate", "Query"):
        try:
            if OK in program.probe(name).values():
                return False
        except (OSError, EOFError):
            program.hang_up()
    return True


def test_in_the_grace_period_nothing_works_until_the_tenant_is_restored(stack: Stack, program: Program) -> None:
    tenant = program.service.tenant_id
    assert program.works()
    # The operator off-boards and restores.
    plan = stack.command("tenant", "offboard", tenant, "--dry-run")
    assert [service["service_id"] for service in plan["would_stop"]] == [SERVICE]
    assert stack.state(tenant) == "active"
    left = stack.command("tenant", "offboard", tenant, "--grace", "2h", "--confirm", tenant)
    assert (left["state"], left["operation"]) == ("leaving", f"tenant/{tenant}/offboard")
    wait_until(lambda: refuses_all(program), lambda: "a request of a tenant that is leaving succeeds")
    assert refused(stack, "tenant", "unlock", tenant) == "illegal_move"
    wait_until(lambda: bool(stack.callback.about(tenant, "leaving")), lambda: "no notification")
    assert stack.command("tenant", "restore", tenant)["state"] == "active"
    wait_until(program.works, lambda: "what was encrypted before is not decrypted")
    assert refused(stack, "tenant", "restore", tenant) == "illegal_move"

    # The marketplace disables and enables.
    answer = stack.click(event="service_disabled", customer=tenant, organization=ORGANIZATION)
    assert answer.status_code == 202, answer.text
    stack.wait_for(tenant, "leaving")
    wait_until(lambda: refuses_all(program), lambda: "a request of a tenant that is leaving succeeds")
    assert stack.click(customer=tenant, organization=ORGANIZATION).status_code == 202
    stack.wait_for(tenant, "active")
    wait_until(program.works, lambda: "what was encrypted before is not decrypted")


@pytest.mark.e2e
def test_after_the_grace_period_keys_and_names_are_gone_and_the_certificate_says_so(
    stack: Stack, tmp_path: Path
) -> None:
    tenant = new_tenant(stack, "leaver", LEAVER)
    program = start_program(stack, tenant, tmp_path)
    assert program.works()
    thief = Thief(stack, tenant)
    assert [len(key) for key in thief.opened()] == [32]
    stack.command("tenant", "offboard", tenant, "--grace", "3s", "--confirm", tenant)
    stack.wait_for(tenant, "offboarded")
    program.hang_up()
    assert refuses_all(program)
    program.hang_up()
    # A copy of every row from before decrypts no service key.
    with pytest.raises(KeyUnavailable):
        thief.opened()
    for name in (ids.l2_key(tenant), ids.ca_key(tenant), ids.payload_key(tenant)):
        assert stack.vault().read(f"transit/keys/{name}") is None

    assert found_in("\n".join(stack.rows().values()).encode(), [LEAVER.encode()]) == []
    assert_refused(stack.click(customer=tenant, organization=LEAVER), 409, "tenant_offboarded")
    for words in (("tenant", "offboard", tenant, "--confirm", tenant), ("tenant", "restore", tenant)):
        assert refused(stack, *words) == "tenant_offboarded"

    with stack.database(Role.OPERATOR).tenant_tx(tenant) as tx:
        kept = tx.leaving.certificate()
    assert kept is not None
    public = TransitAuditSigner(stack.vault()).public_keys()[kept.key]
    assert verified(public, kept.signature, shred_message(tenant, kept.statement))
    kinds = {one["kind"] for one in json.loads(kept.statement)["destroyed"]}
    assert kinds == {
        *("L2 tenant key", "service key", "payload key", "certificate authority key", "service certificate"),
    }
    wait_until(
        lambda: bool(stack.callback.about(tenant, "farewell") and stack.mailbox.about(tenant, "keys are destroyed")),
        lambda: "no last notification",
    )
    shown = stack.command("tenant", "show", tenant)
    assert (shown["organization"], bool(shown["leaving"]["ended_at"])) == ("(erased)", True)
