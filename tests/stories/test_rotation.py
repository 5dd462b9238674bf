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
from tests.stories.busy import Busy, Text
from tests.stories.connected import AT_ONCE_SECONDS, connect, refused
from tests.stories.kmip_wire import reason_of, send
from tests.stories.put_back import copy_rows, rows_put_back
from tests.stories.stack import Stack
from tests.stories.thief import Thief
from tests.stories.tries import code_of
from vault.auth.client import VaultRejected
from workflows.client.workflow_client import OperationTimeout, WorkflowClient

TENANT, SERVICES = "rotating-corp-6", ("ledger", "billing")
ROTATIONS = 5
OPEN = "open"
OBJECTS = ("managed_object",)
YES = ("--confirm", TENANT)


def states(document: dict[str, Any], service: str = "ledger") -> dict[int, str]:
    return {key["version"]: key["state"] for key in document["service_keys"] if key["service_id"] == service}


def rotate(stack: Stack, *more: str) -> dict[str, Any]:
    """Rotate and return the document; a command that does not wait long enough on a loaded machine is waited for."""
    done = stack.run("key", "rotate", TENANT, *more, "--json")
    document: dict[str, Any] = json.loads(done.stdout)
    if done.returncode:
        assert document["error"]["code"] == OperationTimeout.code, document
        wait_until(lambda: _shown(stack)["operation"]["state"] == "done", lambda: f"not done: {_shown(stack)}")
        document = _shown(stack)
    return document


def _shown(stack: Stack) -> dict[str, Any]:
    return stack.command("key", "rotate", TENANT, "--dry-run")


def lying_under(stack: Stack) -> set[tuple[str, int]]:
    """Return services with the versions of their keys under which objects lie."""
    with stack.owner() as owner:
        rows = owner.execute(
            "select service, key_version from okcm.managed_object where tenant_id = %s and material is not null",
            [TENANT],
        ).fetchall()
    return set(rows)


@dataclass
class Rotated:
    """What five rotations left: copies of rows from before each, the last document, and answers to second rotations."""

    thieves: list[Thief] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    document: dict[str, Any] = field(default_factory=dict)
    second: list[str] = field(default_factory=list)


def test_five_rotations_under_load_and_what_retired_and_compromised_versions_refuse(
    stack: Stack, tmp_path: Path
) -> None:
    stack.enable(TENANT, "Rotating Corp")
    busy = [Busy(connect(stack, TENANT, "microservice", name, tmp_path / name)) for name in SERVICES]
    rotated = rotate_five_times_under_load(stack, busy)
    assert_every_answer_was_right(rotated, busy)
    assert_every_object_follows(stack, rotated, busy)
    assert_second_rotations_were_refused(stack, rotated)
    assert_no_copied_wrap_decrypts(stack, rotated)
    retire_the_first_version(stack, busy)
    rotate_while_suspended_and_restore_an_object_of_a_retired_version(stack, rotated, busy)
    stack.command("tenant", "lock", TENANT, *YES)
    assert refused(stack, "key", "rotate", TENANT) == "tenant_closed"
    stack.command("tenant", "unlock", TENANT)
    assert all(one.objects_open() for one in busy)
    rotate_as_compromised(stack, rotated, busy)


def rotate_five_times_under_load(stack: Stack, busy: list[Busy]) -> Rotated:
    """Rotate everything while all services work; a second rotation is tried while each runs."""
    found = Rotated()
    with ExitStack() as working, ThreadPoolExecutor(1) as beside:
        for one in busy:
            working.enter_context(one.at_work())
        wait_until(lambda: all(one.texts and one.data_keys and one.sealed for one in busy), lambda: "nothing is sealed")
        copy_rows(stack, TENANT, OBJECTS)
        found.objects = list(busy[0].objects)
        for number in range(1, ROTATIONS + 1):
            thief = Thief(stack, TENANT)
            assert {len(key) for key in thief.opened()} == {32}
            found.thieves.append(thief)
            first: Future[dict[str, Any]] = beside.submit(rotate, stack)
            wait_until(partial(_began, stack, number), lambda: "no rotation began")
            found.second.append(code_of(lambda: asyncio.run(_ask_again(stack))))
            found.document = first.result()
            assert found.document["operation"]["state"] == "done"
            wait_until(partial(_all_use, busy, number + 1), lambda: "a service does not use the new version")
    return found


def _all_use(busy: list[Busy], version: int) -> bool:
    return all(kept[-1].version == version for one in busy for kept in (one.texts, one.data_keys))


async def _ask_again(stack: Stack) -> None:
    """Ask as the command does, but at once: a process that starts on a busy machine may come when the first is over."""
    gateway = await WorkflowClient.connect(stack.settings.temporal_address, 180)
    await gateway.rotate_keys(
        TENANT, RotateRequest(request_id=uuid4().hex, services=RotationScope.ALL, service=None, tenant_key=True)
    )


def _began(stack: Stack, number: int) -> bool:
    with stack.database(Role.OPERATOR).tenant_tx(TENANT) as tx:
        newest = next(iter(tx.rotations.all(1)), None)
    return newest is not None and newest.number == number


def assert_every_answer_was_right(rotated: Rotated, busy: list[Busy]) -> None:
    problems = [problem for one in busy for problem in one.problems]
    assert problems == []
    newest = ROTATIONS + 1
    for one in busy:
        assert set(one.asked) == {
            *("encrypt", "decrypt", "data key", "open a data key"),
            *("Create", "Get", "Locate", "Encrypt", "Decrypt"),
        }
        for kept in (one.texts, one.data_keys):
            assert {text.version for text in kept} == set(range(1, newest + 1))
        assert one.still_open()
    assert rotated.document["l2_versions"] == {"newest": newest, "oldest": newest}
    assert states(rotated.document) == dict.fromkeys(range(1, newest), "deactivated") | {newest: "active"}


def assert_every_object_follows(stack: Stack, rotated: Rotated, busy: list[Busy]) -> None:
    newest = {(name, max(states(rotated.document, name))) for name in SERVICES}
    wait_until(lambda: lying_under(stack) == newest, lambda: f"objects lie under {lying_under(stack)}")
    assert all(one.objects for one in busy)


def assert_second_rotations_were_refused(stack: Stack, rotated: Rotated) -> None:
    assert rotated.second == ["operation_running"] * ROTATIONS
    wait_until(lambda: bool(stack.callback.about(TENANT, "keys-rotated")), lambda: "no notification")
    shown = stack.command("tenant", "show", TENANT)
    assert [states(shown, name) for name in SERVICES] == [states(rotated.document, name) for name in SERVICES]


def assert_no_copied_wrap_decrypts(stack: Stack, rotated: Rotated) -> None:
    """The operator has the rows, the platform's root key, and the identities of worker, crypto service and tenant."""
    tried = 0
    for thief in rotated.thieves:
        for context, inner in thief.inner():
            for attempt in (thief.keys.decrypt, lambda context, inner, t=thief: t.keys.rewrap([(context, inner)])):
                with pytest.raises(KeyUnavailable):
                    attempt(context, inner)
                tried += 1
            for role in (Role.WORKER, Role.CRYPTO):
                for operation in ("decrypt", "rewrap"):
                    with pytest.raises((VaultRefused, VaultRejected)):
                        stack.vault(role).write(f"transit/{operation}/{context.l2_key}", {"ciphertext": inner})
                    tried += 1
    assert tried == 6 * len(SERVICES) * sum(range(1, ROTATIONS + 1))
    assert {len(key) for key in Thief(stack, TENANT).opened()} == {32}, "the attack does not open what it should"


# ── versions that end ────────────────────────────────────────────────────────────────────────────────────────────────


def of_version(texts: list[Text], version: int) -> list[Text]:
    return [one for one in texts if one.version == version]


def answers_of(one: Busy, texts: list[Text], data_keys: list[Text]) -> set[str]:
    return {*one.answers(texts), *one.answers_to_data_keys(data_keys)}


def wait_refused(one: Busy, texts: list[Text], data_keys: list[Text]) -> None:
    retired = {KeyVersionRetired.code}
    wait_until(lambda: answers_of(one, texts, data_keys) == retired, lambda: "a text decrypts", AT_ONCE_SECONDS)


def retire_the_first_version(stack: Stack, busy: list[Busy]) -> None:
    """Its texts and data keys are refused; what was re-encrypted before decrypts."""
    ledger, billing = busy
    old = of_version(ledger.texts, 1)
    anew = ledger.rewrapped(old[::2])
    assert {one.version for one in anew} == {ROTATIONS + 1}
    retired = rotate(stack, "--service", "ledger", "--retire", "1", *YES)
    assert states(retired)[1] == "destroyed"
    wait_refused(ledger, old, of_version(ledger.data_keys, 1))
    assert ledger.answers(anew) == {"open": len(anew)}
    for version in range(2, ROTATIONS + 2):
        assert answers_of(ledger, of_version(ledger.texts, version), of_version(ledger.data_keys, version)) == {OPEN}
    assert answers_of(billing, of_version(billing.texts, 1), []) == {OPEN}, "the version of another service"
    assert ledger.objects_open()
    words = ("key", "rotate", TENANT, "--service", "ledger", "--retire", str(ROTATIONS + 1), *YES)
    assert refused(stack, *words) == "key_version_in_use"


def rotate_while_suspended_and_restore_an_object_of_a_retired_version(
    stack: Stack, rotated: Rotated, busy: list[Busy]
) -> None:
    """The administrator of the database restores a row past every trigger; KMIP states the reason for its refusal."""
    ledger, billing = busy
    object_id = rotated.objects[0]

    def get() -> Item:
        with ledger.service.open_kmip() as kmip:
            (answer,) = send(kmip, batch_item(Operation.GET, text(Tag.UNIQUE_IDENTIFIER, object_id)))
        return answer

    stack.command("tenant", "suspend", TENANT)
    document = rotate(stack, "--service", "billing")
    assert states(document, "billing")[ROTATIONS + 2] == "active"
    assert billing.objects_open()
    with rows_put_back(stack, TENANT, OBJECTS):
        failed = ResultReason.CRYPTOGRAPHIC_FAILURE
        wait_until(lambda: reason_of(get()) is failed, lambda: "the object decrypts", AT_ONCE_SECONDS)
        message = get().first(Tag.RESULT_MESSAGE)
        assert message is not None
        assert message.value == KeyVersionRetired.message
    stack.command("tenant", "resume", TENANT)
    wait_until(lambda: get().first(Tag.RESULT_REASON) is None, lambda: "the object is refused", AT_ONCE_SECONDS)
    assert ledger.objects_open()


def rotate_as_compromised(stack: Stack, rotated: Rotated, busy: list[Busy]) -> None:
    """Former versions are refused and destroyed; objects and new requests work."""
    document = rotate(stack, "--compromised", *YES)
    for one in busy:
        newest = max(states(document, one.service.name))
        wait_refused(one, one.texts, one.data_keys)
        with pytest.raises(ClientError) as no_way_out:
            one.rewrapped(one.texts[-1:])
        assert no_way_out.value.code == KeyVersionRetired.code
        assert one.objects_open()
        since = len(one.texts)
        with one.at_work():
            wait_until(lambda one=one, since=since: len(one.texts) > since, lambda: "nothing is encrypted any more")
        assert {text.version for text in one.texts[since:]} == {newest}

    def others() -> set[str]:
        now = stack.command("tenant", "show", TENANT)
        return {state for name in SERVICES for state in list(states(now, name).values())[:-1]}

    wait_until(lambda: others() == {"destroyed"}, lambda: f"former versions are {others()}")
    name, oldest = ids.l2_key(TENANT), document["l2_versions"]["oldest"]
    with pytest.raises(VaultRejected):
        stack.vault().write(f"transit/keys/{name}/config", {"min_decryption_version": oldest - 1})
    for thief in rotated.thieves:
        with pytest.raises(KeyUnavailable):
            thief.opened()
