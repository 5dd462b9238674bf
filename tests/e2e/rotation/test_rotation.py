"""A tenant rotates its keys: services keep working, old ciphertexts decrypt, the old tenant key decrypts nothing."""

import asyncio
import json
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from config.secrets import Role
from core import names as ids
from core.errors.keys import KeyUnavailable, KeyVersionRetired
from core.errors.platform import VaultRefused
from core.keys.rotation import RotationScope
from core.messages.keys import RotateRequest
from crypto_service.kmip.codec.enums import Operation, ResultReason
from crypto_service.kmip.codec.fields import text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from openkcm.sdk.errors import ClientError
from tests.concurrency import wait_until
from tests.crypto_service.kmip.messages import batch_item
from tests.e2e.busy import BusyService, Text
from tests.e2e.connected import AT_ONCE_SECONDS, connect, rejection_code
from tests.e2e.isolation.attacker import InsiderAttacker
from tests.e2e.isolation.put_back import copy_rows, rows_restored
from tests.e2e.isolation.tries import code_of
from tests.e2e.kmip_wire import reason_of, send
from tests.e2e.stack import Stack
from vault.auth.client import VaultRejected
from workflows.client.updates import OperationQueued, OperationTimeout
from workflows.client.workflow_client import WorkflowClient

TENANT, SERVICES = "rotating-corp-6", ("ledger", "billing")
ROTATIONS = 5
OPEN = "open"
OBJECTS = ("managed_object",)
YES = ("--confirm", TENANT)


def states(document: dict[str, Any], service: str = "ledger") -> dict[int, str]:
    return {key["version"]: key["state"] for key in document["service_keys"] if key["service_id"] == service}


def rotate(stack: Stack, *more: str) -> dict[str, Any]:
    """Rotate and return the document; after a timeout of the command on a loaded machine wait for the rotation."""
    done = stack.run("key", "rotate", TENANT, *more, "--json")
    document: dict[str, Any] = json.loads(done.stdout)
    if done.returncode:
        assert document["error"]["code"] in {OperationTimeout.code, OperationQueued.code}, document
        wait_until(lambda: _shown(stack)["operation"]["state"] == "done", lambda: f"not done: {_shown(stack)}")
        document = _shown(stack)
    return document


def _shown(stack: Stack) -> dict[str, Any]:
    return stack.command("key", "rotate", TENANT, "--dry-run")


def key_versions_in_use(stack: Stack) -> set[tuple[str, int]]:
    """Return (service, key version) pairs that encrypt objects."""
    with stack.owner() as owner:
        rows = owner.execute(
            "select service, key_version from okcm.managed_object where tenant_id = %s and material is not null",
            [TENANT],
        ).fetchall()
    return set(rows)


@dataclass
class RotationResults:
    """Results of five rotations: copies of the rows before each, the last document, and results of second rotations."""

    attackers: list[InsiderAttacker] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    document: dict[str, Any] = field(default_factory=dict)
    second: list[str] = field(default_factory=list)


def test_five_rotations_under_load_and_the_rejections_of_retired_and_compromised_versions(
    stack: Stack, tmp_path: Path
) -> None:
    stack.enable(TENANT, "Rotating Corp")
    busy = [BusyService(connect(stack, TENANT, "microservice", name, tmp_path / name)) for name in SERVICES]
    results = rotate_five_times_under_load(stack, busy)
    assert_every_response_was_correct(results, busy)
    assert_every_object_is_reencrypted(stack, results, busy)
    assert_second_rotations_were_rejected(stack, results)
    assert_no_copied_wrap_decrypts(stack, results)
    retire_the_first_version(stack, busy)
    rotate_while_suspended_and_restore_an_object_of_a_retired_version(stack, results, busy)
    stack.command("tenant", "lock", TENANT, *YES)
    assert rejection_code(stack, "key", "rotate", TENANT) == "tenant_not_operational"
    stack.command("tenant", "unlock", TENANT)
    assert all(one.check_objects() for one in busy)
    rotate_as_compromised(stack, results, busy)


def rotate_five_times_under_load(stack: Stack, busy: list[BusyService]) -> RotationResults:
    """Rotate all keys while all services work; attempt a second rotation during each rotation."""
    found = RotationResults()
    with ExitStack() as stack_of_loads, ThreadPoolExecutor(1) as beside:
        for one in busy:
            stack_of_loads.enter_context(one.under_load())
        wait_until(
            lambda: all(one.texts and one.data_keys and one.sealed for one in busy), lambda: "nothing is encrypted"
        )
        copy_rows(stack, TENANT, OBJECTS)
        found.objects = list(busy[0].objects)
        for number in range(1, ROTATIONS + 1):
            attacker = InsiderAttacker(stack, TENANT)
            assert {len(key) for key in attacker.unwrap_keys()} == {32}
            found.attackers.append(attacker)
            first: Future[dict[str, Any]] = beside.submit(rotate, stack)
            wait_until(partial(_began, stack, number), lambda: "no rotation began")
            found.second.append(code_of(lambda: asyncio.run(_request_second_rotation(stack))))
            found.document = first.result()
            assert found.document["operation"]["state"] == "done"
            wait_until(partial(_all_use, busy, number + 1), lambda: "a service does not use the new version")
    return found


def _all_use(busy: list[BusyService], version: int) -> bool:
    return all(kept[-1].version == version for one in busy for kept in (one.texts, one.data_keys))


async def _request_second_rotation(stack: Stack) -> None:
    """Request a rotation without the command, whose start on a loaded machine could take longer than the first one."""
    gateway = await WorkflowClient.connect(stack.settings.temporal_address, 180)
    await gateway.rotate_keys(
        TENANT, RotateRequest(request_id=uuid4().hex, services=RotationScope.ALL, service=None, tenant_key=True)
    )


def _began(stack: Stack, number: int) -> bool:
    with stack.database(Role.OPERATOR).tenant_tx(TENANT) as tx:
        newest = next(iter(tx.rotations.all(1)), None)
    return newest is not None and newest.number == number


def assert_every_response_was_correct(results: RotationResults, busy: list[BusyService]) -> None:
    problems = [problem for one in busy for problem in one.problems]
    assert problems == []
    newest = ROTATIONS + 1
    for one in busy:
        assert set(one.requests) == {
            *("encrypt", "decrypt", "data key", "open a data key"),
            *("Create", "Get", "Locate", "Encrypt", "Decrypt"),
        }
        for kept in (one.texts, one.data_keys):
            assert {text.version for text in kept} == set(range(1, newest + 1))
        assert one.decrypt_all()
    assert results.document["l2_versions"] == {"newest": newest, "oldest": newest}
    assert states(results.document) == dict.fromkeys(range(1, newest), "deactivated") | {newest: "active"}


def assert_every_object_is_reencrypted(stack: Stack, results: RotationResults, busy: list[BusyService]) -> None:
    newest = {(name, max(states(results.document, name))) for name in SERVICES}
    wait_until(
        lambda: key_versions_in_use(stack) == newest, lambda: f"objects are encrypted with {key_versions_in_use(stack)}"
    )
    assert all(one.objects for one in busy)


def assert_second_rotations_were_rejected(stack: Stack, results: RotationResults) -> None:
    assert results.second == ["operation_running"] * ROTATIONS
    wait_until(lambda: bool(stack.callback.about(TENANT, "keys-rotated")), lambda: "no notification")
    shown = stack.command("tenant", "show", TENANT)
    assert [states(shown, name) for name in SERVICES] == [states(results.document, name) for name in SERVICES]


def assert_no_copied_wrap_decrypts(stack: Stack, results: RotationResults) -> None:
    """The attacker has the rows, the platform's root key, and the identities of worker, crypto service and tenant."""
    attempts = 0
    for attacker in results.attackers:
        for context, inner in attacker.inner():
            for attempt in (
                attacker.keys.decrypt,
                lambda context, inner, t=attacker: t.keys.rewrap([(context, inner)]),
            ):
                with pytest.raises(KeyUnavailable):
                    attempt(context, inner)
                attempts += 1
            for role in (Role.WORKER, Role.CRYPTO):
                for operation in ("decrypt", "rewrap"):
                    with pytest.raises((VaultRefused, VaultRejected)):
                        stack.vault(role).write(f"transit/{operation}/{context.l2_key}", {"ciphertext": inner})
                    attempts += 1
    assert attempts == 6 * len(SERVICES) * sum(range(1, ROTATIONS + 1))
    assert {len(key) for key in InsiderAttacker(stack, TENANT).unwrap_keys()} == {32}, (
        "the attack fails on current wraps"
    )


# ── retired versions ─────────────────────────────────────────────────────────────────────────────────────────────────


def of_version(texts: list[Text], version: int) -> list[Text]:
    return [one for one in texts if one.version == version]


def answers_of(one: BusyService, texts: list[Text], data_keys: list[Text]) -> set[str]:
    return {*one.answers(texts), *one.answers_to_data_keys(data_keys)}


def wait_rejected(one: BusyService, texts: list[Text], data_keys: list[Text]) -> None:
    retired = {KeyVersionRetired.code}
    wait_until(lambda: answers_of(one, texts, data_keys) == retired, lambda: "a ciphertext decrypts", AT_ONCE_SECONDS)


def retire_the_first_version(stack: Stack, busy: list[BusyService]) -> None:
    """Its ciphertexts and data keys are rejected; ciphertexts that were re-encrypted before still decrypt."""
    ledger, billing = busy
    old = of_version(ledger.texts, 1)
    reencrypted = ledger.rewrap(old[::2])
    assert {one.version for one in reencrypted} == {ROTATIONS + 1}
    retired = rotate(stack, "--service", "ledger", "--retire", "1", *YES)
    assert states(retired)[1] == "destroyed"
    wait_rejected(ledger, old, of_version(ledger.data_keys, 1))
    assert ledger.answers(reencrypted) == {"open": len(reencrypted)}
    for version in range(2, ROTATIONS + 2):
        assert answers_of(ledger, of_version(ledger.texts, version), of_version(ledger.data_keys, version)) == {OPEN}
    assert answers_of(billing, of_version(billing.texts, 1), []) == {OPEN}, "the version of another service"
    assert ledger.check_objects()
    words = ("key", "rotate", TENANT, "--service", "ledger", "--retire", str(ROTATIONS + 1), *YES)
    assert rejection_code(stack, *words) == "key_version_in_use"


def rotate_while_suspended_and_restore_an_object_of_a_retired_version(
    stack: Stack, results: RotationResults, busy: list[BusyService]
) -> None:
    """A database administrator restores a row without triggers; KMIP rejects it with the reason."""
    ledger, billing = busy
    object_id = results.objects[0]

    def get() -> Item:
        with ledger.service.open_kmip() as kmip:
            (answer,) = send(kmip, batch_item(Operation.GET, text(Tag.UNIQUE_IDENTIFIER, object_id)))
        return answer

    stack.command("tenant", "suspend", TENANT)
    document = rotate(stack, "--service", "billing")
    assert states(document, "billing")[ROTATIONS + 2] == "active"
    assert billing.check_objects()
    with rows_restored(stack, TENANT, OBJECTS):
        failed = ResultReason.CRYPTOGRAPHIC_FAILURE
        wait_until(lambda: reason_of(get()) is failed, lambda: "the object decrypts", AT_ONCE_SECONDS)
        message = get().first(Tag.RESULT_MESSAGE)
        assert message is not None
        assert message.value == KeyVersionRetired.message
    stack.command("tenant", "resume", TENANT)
    wait_until(lambda: get().first(Tag.RESULT_REASON) is None, lambda: "the object is rejected", AT_ONCE_SECONDS)
    assert ledger.check_objects()


def rotate_as_compromised(stack: Stack, results: RotationResults, busy: list[BusyService]) -> None:
    """Former versions are rejected and destroyed; objects and new requests work."""
    document = rotate(stack, "--compromised", *YES)
    for one in busy:
        newest = max(states(document, one.service.name))
        wait_rejected(one, one.texts, one.data_keys)
        with pytest.raises(ClientError) as denied:
            one.rewrap(one.texts[-1:])
        assert denied.value.code == KeyVersionRetired.code
        assert one.check_objects()
        since = len(one.texts)
        with one.under_load():
            wait_until(lambda one=one, since=since: len(one.texts) > since, lambda: "no new ciphertext")
        assert {text.version for text in one.texts[since:]} == {newest}

    def others() -> set[str]:
        now = stack.command("tenant", "show", TENANT)
        return {state for name in SERVICES for state in list(states(now, name).values())[:-1]}

    wait_until(lambda: others() == {"destroyed"}, lambda: f"former versions are {others()}")
    name, oldest = ids.l2_key(TENANT), document["l2_versions"]["oldest"]
    with pytest.raises(VaultRejected):
        stack.vault().write(f"transit/keys/{name}/config", {"min_decryption_version": oldest - 1})
    for attacker in results.attackers:
        with pytest.raises(KeyUnavailable):
            attacker.unwrap_keys()
