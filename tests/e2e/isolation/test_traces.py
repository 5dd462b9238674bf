"""Histories, files and logs contain no customer's name and no secret, and the histories replay."""

import asyncio
import base64
import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from core import names as ids
from core.errors.keys import KeyUnavailable
from tests.concurrency import wait_until
from tests.e2e.connected import command_until_done, connect
from tests.e2e.root_keys.holders import Holders
from tests.e2e.stack import Stack
from tests.e2e.tenants import new_tenant
from worker import wiring
from worker.bootstrap import RELEASE
from worker.payload_codec import ENCODING

SECRETIVE = "Secretive Holding"
SECRET_MARKS = (
    *(b"hvs.", b"hvb.", b"hvr.", b"whsec_", b"BEGIN PRIVATE KEY", b"BEGIN EC PRIVATE KEY"),
    b"ACME Corporation",
    SECRETIVE.encode(),
)
TOKEN = re.compile(rb"\bs\.[A-Za-z0-9]{24}\b")
LOCAL_ACTIVITY_FIELDS = {
    *("seq", "attempt", "activity_id", "activity_type", "complete_time", "backoff"),
    *("original_schedule_time", "activation_index"),
}
PATCH_FIELDS = {"id", "deprecated"}
_SUMMARY = r"(tenant|service [a-z0-9-]+ of|compliance report of|isolation assessment of) [a-z0-9-]+"
PLAIN_FIELDS = {
    *("tenant_id", "region", "provisioning_slo_seconds", "memory", "event_id", "kind"),
    *("state", "seen_events", "provisions", "promises", "changes", "operations", "move"),
    *("service", "request_id", "another_key"),
    *("grace_seconds", "reason", "now", "approval_id", "report_id"),
    *("services", "tenant_key", "compromised", "version", "repeat", "daily"),
    *("tenant_key_days", "service_key_days", "four_eyes", "revoked_keys_readable", "resources_recorded"),
}
"""The plaintext fields of the marketplace and the commands, which have no payload key: ids and settings only."""

Exported = list[tuple[str, WorkflowHistory]]


@dataclass(frozen=True)
class RecordedHistories:
    """A tenant with every kind of operation, an offboarded tenant, and the histories of both."""

    tenant: str
    left: str
    histories: Exported


@pytest.fixture(scope="module")
def recorded_histories(stack: Stack, holders: Holders, tmp_path_factory: pytest.TempPathFactory) -> RecordedHistories:
    folder = tmp_path_factory.mktemp("recorded_histories")
    tenant, left = (new_tenant(stack, name, SECRETIVE) for name in ("secretive", "departed"))
    for one in (tenant, left):
        connect(stack, one, "microservice", "ledger", folder / one)
    yes = ("--confirm", tenant)
    for words in (
        ("key", "rotate", tenant),
        ("key", "rotate", tenant, "--compromised", *yes),
        ("tenant", "lock", tenant, *yes),
        ("tenant", "unlock", tenant),
        ("tenant", "suspend", tenant),
        ("tenant", "resume", tenant),
        ("tenant", "policy", tenant, "--service-key-days", "90"),
        ("certificate", "rotate-ca", tenant, *yes),
        ("isolation", "check", tenant),
        (
            "report",
            "create",
            tenant,
            "--format",
            "json",
            "--out",
            str(folder / "report"),
            "--period",
            time.strftime("%Y-%m"),
        ),
        ("root-key", "change", tenant, *holders.hold("aws-kms").words(folder)),
        ("root-key", "change", tenant, "--provider", "platform"),
        ("service", "renew", tenant, "ledger"),
        ("service", "disconnect", tenant, "ledger", "--confirm", "ledger"),
        ("tenant", "offboard", tenant, "--grace", "2h", *yes),
        ("tenant", "restore", tenant),
        ("tenant", "offboard", left, "--now", "--confirm", left),
    ):
        command_until_done(stack, *words)
    stack.wait_for(left, "offboarded")

    async def exported() -> Exported:
        """Return the histories of both tenants and of the platform, but not those of other tests."""
        client, ours = await stack.temporal(), {None, tenant, left}
        every = client.list_workflows().map_histories()
        return [(one.workflow_id, one) async for one in every if ids.tenant_of_workflow(one.workflow_id) in ours]

    return RecordedHistories(tenant, left, asyncio.run(exported()))


def payloads_in(message: Message) -> Iterator[Payload]:
    """Yield every payload in a message at any depth."""
    if isinstance(message, Payload):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        yield from _below(value)


def _below(value: Any) -> Iterator[Payload]:
    if isinstance(value, Message):
        yield from payloads_in(value)
    elif hasattr(value, "values"):
        for inner in value.values():
            yield from _below(inner)
    elif isinstance(value, Iterable):
        for inner in value:
            yield from _below(inner)


def payloads_of(histories: Exported) -> list[Payload]:
    return [payload for _, history in histories for event in history.events for payload in payloads_in(event)]


def _payload_keys(history: tuple[str, WorkflowHistory]) -> set[bytes]:
    """Return the names of the keys that encrypt the payloads of a history."""
    return {one.metadata["key"] for one in payloads_of([history]) if one.metadata["encoding"] == ENCODING}


def secrets_of(stack: Stack) -> dict[str, bytes]:
    """Return every secret of the installation by file name."""
    state = stack.settings.state_dir
    files = [file for file in (state / "secrets").iterdir() if file.suffix != ".pub"]
    files += [state / "postgres" / "superuser-password"]
    files += [state / "openbao" / "unseal.key", state / "openbao" / "setup-secret-id"]
    found = {file.name: file.read_bytes().strip() for file in files}
    assert len(found) > 10
    return found


def assert_no_secret(stack: Stack, raw: bytes) -> None:
    """Search for secrets and names in plaintext, in base64 and in decoded base64."""
    assert found_in(raw, hidden_in(stack)) == []


def hidden_in(stack: Stack) -> list[bytes]:
    return [*SECRET_MARKS, *secrets_of(stack).values()]


def found_in(raw: bytes, hidden: list[bytes]) -> list[bytes]:
    decoded = b"\0".join(_decoded(raw))
    forms = {form: text for text in hidden for form in (text, text.hex().encode(), base64.b64encode(text).rstrip(b"="))}
    found = [text for form, text in forms.items() if form in raw or form in decoded]
    return found + [match for place in (raw, decoded) for match in TOKEN.findall(place)]


def _decoded(raw: bytes) -> Iterator[bytes]:
    for word in re.findall(rb"[A-Za-z0-9+/]{8,}={0,2}", raw):
        yield base64.b64decode(word + b"=" * (-len(word) % 4)) if len(word.rstrip(b"=")) % 4 != 1 else b""


def test_histories_contain_no_customers_name_and_no_secret(stack, recorded_histories):
    assert {f"tenant/{recorded_histories.tenant}", f"tenant/{recorded_histories.left}/offboard"} <= {
        workflow for workflow, _ in recorded_histories.histories
    }
    for _, history in recorded_histories.histories:
        assert_no_secret(stack, history.to_json().encode())
        assert_no_secret(stack, b"\n".join(event.SerializeToString() for event in history.events))


def test_every_payload_is_encrypted_with_its_tenants_key_or_contains_ids_only(recorded_histories):
    payloads = payloads_of(recorded_histories.histories)
    encrypted = [payload for payload in payloads if payload.metadata["encoding"] == ENCODING]
    assert len(encrypted) > len(recorded_histories.histories)
    for payload in payloads:
        encoding = payload.metadata["encoding"]
        if encoding in {ENCODING, b"binary/null"}:
            continue
        assert encoding == b"json/plain"
        if "type" in payload.metadata:  # search attributes contain only ids
            continue
        value = json.loads(payload.data)
        if isinstance(value, str):  # the summary of a workflow that a client started
            assert re.fullmatch(_SUMMARY, value)
        elif isinstance(value, int):  # the release of a schedule
            assert value == RELEASE
        else:
            # Only ids and numbers: the arguments of clients, or the markers of the SDK for local activities and for
            # workflows that changed after older histories were written.
            assert value.keys() <= PLAIN_FIELDS or value.keys() in (LOCAL_ACTIVITY_FIELDS, PATCH_FIELDS)
    for workflow_id, history in recorded_histories.histories:
        key_names, tenant_id = _payload_keys((workflow_id, history)), ids.tenant_of_workflow(workflow_id)
        if tenant_id is not None:
            assert key_names <= {f"payload-{tenant_id}".encode(), b"payloads-platform"}
        if workflow_id.endswith("/provision"):
            assert f"payload-{tenant_id}".encode() in key_names


async def test_decrypted_histories_contain_no_name_and_no_secret_and_replay(stack, recorded_histories):
    parts = wiring.build(stack.settings)
    parts.keyring.open_platform_key()
    codec = parts.converter.payload_codec
    assert codec is not None
    # The payload key of an offboarded tenant is destroyed: here, or by a test whose tenant a platform workflow had.
    kept = {b"payloads-platform", f"payload-{recorded_histories.tenant}".encode()}
    readable = [one for one in recorded_histories.histories if _payload_keys(one) <= kept]
    assert f"tenant/{recorded_histories.tenant}" in {name for name, _ in readable}
    decoded = await codec.decode(payloads_of(readable))
    assert ENCODING not in {payload.metadata["encoding"] for payload in decoded}
    assert_no_secret(stack, b"\n".join(payload.data for payload in decoded))
    workflows = [*wiring.TENANT_WORKFLOWS, *wiring.OPERATION_WORKFLOWS, *wiring.PLATFORM_WORKFLOWS]
    replayer = Replayer(workflows=workflows, data_converter=parts.converter)
    for _, history in readable:
        await replayer.replay_workflow(history)
    parts.database.close()


def test_payloads_of_an_offboarded_tenant_do_not_decrypt_and_none_of_its_workflows_runs(stack, recorded_histories):
    parts = wiring.build(stack.settings)
    codec = parts.converter.payload_codec
    assert codec is not None
    sealed = [
        payload
        for payload in payloads_of(
            [one for one in recorded_histories.histories if one[0].startswith(f"tenant/{recorded_histories.left}")]
        )
        if payload.metadata.get("key") == ids.payload_key(recorded_histories.left).encode()
    ]
    assert len(sealed) > 10
    for payload in sealed:
        with pytest.raises(KeyUnavailable):
            asyncio.run(codec.decode([payload]))
    parts.database.close()
    running = f"TenantId = '{recorded_histories.left}' and ExecutionStatus = 'Running'"
    wait_until(lambda: stack.workflows(running) == [], lambda: "a workflow of an offboarded tenant runs")


@pytest.mark.usefixtures("recorded_histories")
def test_files_and_logs_contain_no_customers_name_and_no_secret(stack):
    hidden, state = hidden_in(stack), stack.settings.state_dir
    files = [file for file in (state / "temporal").rglob("*") if file.is_file()]
    assert files
    for file in files:
        assert [text for text in hidden if text in file.read_bytes()] == []
    logs = {file.name: file.read_bytes() for file in (state / "logs").glob("*.log")}
    assert {"worker.log", "marketplace.log", "crypto.log", "codec.log", "supervisor.log"} <= logs.keys()
    for name, content in logs.items():
        assert found_in(content, hidden) == [], name


@pytest.mark.parametrize("text", [b"ACME Corporation", b"s.AbCdEfGhIjKlMnOpQrStUvWx", b"hvs.CAESIJ"])
def test_the_search_finds_a_text_in_every_encoding(text):
    hidden = [b"ACME Corporation", b"hvs."]
    for form in (text, base64.b64encode(b'{"name":"' + text + b'"}'), b'"' + base64.b64encode(text) + b'"'):
        assert found_in(b"before " + form + b" after", hidden)
    assert found_in(b"acme-corp-12345 and " + base64.b64encode(b"nothing at all, only words"), hidden) == []
