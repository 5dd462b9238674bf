"""I leave: nothing works, I come back and everything does; then I leave for good, and nobody opens anything again."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from temporalio.worker import Replayer

from config.secrets import Role
from tenancy import ids
from tenancy.errors import KeyUnavailable
from tenancy.shred import shred_message
from tests.activities.test_destruction import verified
from tests.stories.clients import OK, Program
from tests.stories.connected import connect
from tests.stories.stack import Stack, wait_until
from tests.stories.test_story_1_enable import assert_refused
from tests.stories.test_traces import payloads_of
from tests.stories.thief import Thief
from vault.signer import TransitAuditSigner
from worker import wiring
from worker.codec import ENCODING

TENANT, ORGANIZATION = "leaver-corp-6", "Leaver Holding"
YES = ("--confirm", TENANT)


@pytest.fixture(scope="module")
def program(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A service of the tenant, with data of before."""
    stack.enable(TENANT, ORGANIZATION)
    folder: Path = tmp_path_factory.mktemp("leaver")
    program = Program(connect(stack, TENANT, "microservice", "ledger", folder / "ledger"))
    program.settle()
    assert works(program)
    yield program
    program.hang_up()


def works(program: Program) -> bool:
    return set(program.probe().values()) == {OK}


def refuses_all(program: Program) -> bool:
    """Whether no request of any kind succeeds; a connection that is not even made is a refusal too."""
    for name in ("encrypt", "decrypt", "data key", "Get", "Encrypt", "Create", "Get Attributes", "Locate", "Query"):
        try:
            if OK in program.probe(name).values():
                return False
        except (OSError, EOFError):
            program.hang_up()
    return True


def state(stack: Stack) -> str:
    shown: str = stack.command("tenant", "show", TENANT)["state"]
    return shown


def refused(stack: Stack, *words: str) -> str:
    done = stack.run(*words, "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    code: str = json.loads(done.stdout)["error"]["code"]
    return code


def test_in_the_grace_nothing_works_and_all_of_it_comes_back(stack: Stack, program: Program) -> None:
    plan = stack.command("offboard", TENANT, "--dry-run")
    assert [service["service_id"] for service in plan["would_stop"]] == ["ledger"]
    assert state(stack) == "active"
    left = stack.command("offboard", TENANT, "--grace", "2h", *YES)
    assert (left["state"], left["operation"]) == ("leaving", f"tenant/{TENANT}/offboard")
    wait_until(lambda: refuses_all(program), lambda: "something of a tenant that is leaving works")
    assert refused(stack, "tenant", "unlock", TENANT) == "illegal_move"
    wait_until(lambda: bool(stack.callback.about(TENANT, "leaving")), lambda: "nobody was told")

    assert stack.command("restore", TENANT)["state"] == "active"
    wait_until(lambda: works(program), lambda: "what was encrypted before does not open")
    assert refused(stack, "restore", TENANT) == "illegal_move"


def test_the_marketplace_lets_me_leave_and_come_back(stack: Stack, program: Program) -> None:
    answer = stack.click(event="service_disabled", customer=TENANT, organization=ORGANIZATION)
    assert answer.status_code == 202, answer.text
    wait_until(lambda: state(stack) == "leaving", lambda: "it does not leave")
    wait_until(lambda: refuses_all(program), lambda: "something of a tenant that is leaving works")
    assert stack.click(customer=TENANT, organization=ORGANIZATION).status_code == 202
    wait_until(lambda: state(stack) == "active", lambda: "it does not come back")
    wait_until(lambda: works(program), lambda: "what was encrypted before does not open")


@pytest.fixture(scope="module")
def gone(stack: Stack, program: Program) -> Thief:
    """Leave for good, after a thief has copied everything: by a grace of seconds that ends by itself."""
    thief = Thief(stack, TENANT)
    assert [len(key) for key in thief.opened()] == [32]
    stack.command("offboard", TENANT, "--grace", "3s", *YES)
    wait_until(lambda: state(stack) == "offboarded", lambda: f"it is {state(stack)}")
    program.hang_up()
    return thief


def test_old_certificates_open_nothing_any_more(gone: Thief, program: Program) -> None:
    assert gone
    assert refuses_all(program)


def test_an_operator_with_every_row_from_before_opens_no_service_key(gone: Thief) -> None:
    assert gone.wraps
    with pytest.raises(KeyUnavailable):
        gone.opened()
    for name in (ids.l2_key(TENANT), ids.ca_key(TENANT), ids.payload_key(TENANT)):
        assert gone.stack.vault().read(f"transit/keys/{name}") is None


async def test_the_payloads_of_its_workflows_do_not_decode_but_those_of_its_leaving(gone: Thief) -> None:
    client = await gone.stack.temporal()
    query = f"TenantId = '{TENANT}'"
    histories = [(h.workflow_id, h) async for h in client.list_workflows(query).map_histories()]
    parts = wiring.build(gone.stack.settings)
    parts.keyring.open_platform_key()
    codec = parts.converter.payload_codec
    assert codec is not None
    replayer, closed = Replayer(workflows=wiring.LIFECYCLE_WORKFLOWS, data_converter=parts.converter), 0
    for workflow_id, history in histories:
        sealed = [p for p in payloads_of([(workflow_id, history)]) if p.metadata["encoding"] == ENCODING]
        if ids.payloads_of_tenant(workflow_id) is None:
            assert {p.metadata["key"] for p in sealed} == {b"payloads-platform"}
            await codec.decode(sealed)
            await replayer.replay_workflow(history)
            continue
        for payload in sealed:
            if payload.metadata["key"] == ids.payload_key(TENANT).encode():
                with pytest.raises(KeyUnavailable):
                    await codec.decode([payload])
                closed += 1
    parts.database.close()
    assert closed > 10
    running = [run async for run in client.list_workflows(f"{query} and ExecutionStatus = 'Running'")]
    assert running == []


def test_no_row_has_the_customers_name_and_the_id_is_never_used_again(gone: Thief, stack: Stack) -> None:
    with stack.owner() as owner:
        tables = owner.execute("select tablename from pg_tables where schemaname = 'okcm'").fetchall()
        rows = "".join(str(owner.execute(f"select * from okcm.{table}").fetchall()) for (table,) in tables)
    assert gone
    assert ORGANIZATION not in rows
    assert_refused(stack.click(customer=TENANT, organization=ORGANIZATION), 409, "tenant_offboarded")
    assert refused(stack, "offboard", TENANT, *YES) == "tenant_offboarded"
    assert refused(stack, "restore", TENANT) == "tenant_offboarded"


def test_the_certificate_is_signed_and_the_farewell_was_sent(gone: Thief, stack: Stack) -> None:
    with stack.database(Role.OPERATOR).tenant_tx(TENANT) as tx:
        kept = tx.leaving.certificate()
    assert kept is not None
    public = TransitAuditSigner(gone.stack.vault()).public_keys()[kept.key]
    assert verified(public, kept.signature, shred_message(TENANT, kept.statement))
    kinds = [one["kind"] for one in json.loads(kept.statement)["destroyed"]]
    assert set(kinds) == {
        *("L2 tenant key", "service key", "payload key", "certificate authority key", "service certificate"),
    }
    wait_until(
        lambda: bool(stack.callback.about(TENANT, "farewell") and stack.mailbox.about(TENANT, "keys are destroyed")),
        lambda: "no farewell",
    )
    shown = stack.command("tenant", "show", TENANT)
    assert shown["leaving"]["ended_at"]
    assert shown["organization"] == "(erased)"
