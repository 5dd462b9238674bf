"""What is left of all this in histories, files and logs: no customer's name, no secret; and the histories replay."""

import base64
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from tenancy import ids
from tests.stories.stack import Stack
from worker import wiring
from worker.codec import ENCODING

ORGANIZATIONS = ("ACME Corporation", "Secretive Holding")
SECRET_MARKS = (
    *(b"hvs.", b"hvb.", b"hvr.", b"whsec_", b"BEGIN PRIVATE KEY", b"BEGIN EC PRIVATE KEY"),
    *(name.encode() for name in ORGANIZATIONS),
)
TOKEN = re.compile(rb"\bs\.[A-Za-z0-9]{24}\b")
LOCAL_ACTIVITY_FIELDS = {
    *("seq", "attempt", "activity_id", "activity_type", "complete_time", "backoff"),
    *("original_schedule_time", "activation_index"),
}
PATCH_FIELDS = {"id", "deprecated"}
_SUMMARY = r"(tenant|service [a-z0-9-]+ of|compliance report of|examine the boundaries of) [a-z0-9-]+"
PLAIN_FIELDS = {
    *("tenant_id", "region", "promise_seconds", "memory", "event_id", "kind"),
    *("state", "seen_events", "provisions", "promises", "changes", "operations", "move"),
    *("service", "request_id"),
    *("grace_seconds", "reason", "now", "approval_id", "report_id"),
    *("services", "tenant_key", "compromised", "version", "anew"),
    *("tenant_key_days", "service_key_days", "four_eyes"),
}
"""What the marketplace and the operator's command, which hold no key, may write in the clear: ids and settings."""

Exported = list[tuple[str, WorkflowHistory]]


@pytest.fixture
async def histories(stack, acme) -> Exported:
    """Every history there is, among them one of a tenant whose name is easily recognised."""
    assert acme
    stack.enable("secretive-1", ORGANIZATIONS[1])
    stack.wait_announced("secretive-1")
    client = await stack.temporal()
    return [(history.workflow_id, history) async for history in client.list_workflows().map_histories()]


def payloads_in(message: Message) -> Iterator[Payload]:
    """Walk through a message to every payload in it, however deep."""
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


def secrets_of(stack: Stack) -> dict[str, bytes]:
    """Return every secret of the installation that is not public, by its file."""
    state = stack.settings.state_dir
    files = [file for file in (state / "secrets").iterdir() if file.suffix != ".pub"]
    files += [state / "postgres" / "superuser-password"]
    files += [state / "openbao" / "unseal.key", state / "openbao" / "setup-secret-id"]
    found = {file.name: file.read_bytes().strip() for file in files}
    assert len(found) > 10
    return found


def assert_tells_nothing(stack: Stack, raw: bytes) -> None:
    """Look for secrets and names as they are, in base64, and inside whatever base64 there is."""
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


async def test_histories_hold_no_customers_name_and_no_secret(stack, histories):
    assert {"tenant/acme-corp-12345", "tenant/acme-corp-12345/provision"} <= {workflow for workflow, _ in histories}
    for _, history in histories:
        assert_tells_nothing(stack, history.to_json().encode())
        assert_tells_nothing(stack, b"\n".join(event.SerializeToString() for event in history.events))


async def test_every_payload_is_encrypted_or_holds_ids_only(histories):
    payloads = payloads_of(histories)
    encrypted = [payload for payload in payloads if payload.metadata["encoding"] == ENCODING]
    assert len(encrypted) > len(histories)
    for payload in payloads:
        encoding = payload.metadata["encoding"]
        if encoding in {ENCODING, b"binary/null"}:
            continue
        assert encoding == b"json/plain"
        if "type" in payload.metadata:  # a search attribute: ids by design
            continue
        value = json.loads(payload.data)
        if isinstance(value, str):  # the summary that a start from outside carries
            assert re.fullmatch(_SUMMARY, value)
        else:
            # Only ids and numbers: what our callers outside start with, or what the SDK notes about a local activity
            # or about a workflow that changed since older histories were written.
            assert value.keys() <= PLAIN_FIELDS or value.keys() in (LOCAL_ACTIVITY_FIELDS, PATCH_FIELDS)


async def test_each_tenants_payloads_lie_under_its_own_key(histories):
    for workflow_id, history in histories:
        tenant_id = workflow_id.split("/")[1]
        under = {p.metadata["key"] for p in payloads_of([(workflow_id, history)]) if p.metadata["encoding"] == ENCODING}
        if workflow_id.startswith("tenant/"):
            assert under <= {f"payload-{tenant_id}".encode(), b"payloads-platform"}
        if workflow_id.endswith("/provision"):
            assert f"payload-{tenant_id}".encode() in under


async def readable(stack: Stack, histories: Exported) -> Exported:
    """Leave out those of tenants that have left: the key of their payloads is destroyed (test_leaving.py)."""
    vault, tenants = stack.vault(), {ids.payloads_of_tenant(workflow_id) for workflow_id, _ in histories} - {None}
    left = {tenant for tenant in tenants if vault.read(f"transit/keys/{ids.payload_key(tenant or '')}") is None}
    return [(workflow_id, one) for workflow_id, one in histories if ids.payloads_of_tenant(workflow_id) not in left]


async def test_even_decrypted_they_hold_no_customers_name_and_no_secret(stack, histories):
    parts = wiring.build(stack.settings)
    parts.keyring.open_platform_key()
    codec = parts.converter.payload_codec
    assert codec is not None
    decoded = await codec.decode(payloads_of(await readable(stack, histories)))
    parts.database.close()
    assert ENCODING not in {payload.metadata["encoding"] for payload in decoded}
    assert_tells_nothing(stack, b"\n".join(payload.data for payload in decoded))


async def test_they_replay_with_the_workflows_of_today(stack, histories):
    parts = wiring.build(stack.settings)
    parts.keyring.open_platform_key()
    replayer = Replayer(
        workflows=[*wiring.LIFECYCLE_WORKFLOWS, *wiring.PLATFORM_WORKFLOWS], data_converter=parts.converter
    )
    for _, history in await readable(stack, histories):
        await replayer.replay_workflow(history)
    parts.database.close()


def test_temporals_own_files_hold_no_customers_name_and_no_secret(stack, acme):
    assert acme
    files = [file for file in (stack.settings.state_dir / "temporal").rglob("*") if file.is_file()]
    assert files
    for file in files:
        assert [text for text in hidden_in(stack) if text in file.read_bytes()] == []


def test_no_log_holds_a_secret_or_a_customers_name(stack, acme):
    assert acme
    logs = {file.name: file.read_bytes() for file in (stack.settings.state_dir / "logs").glob("*.log")}
    assert {"worker.log", "marketplace.log", "crypto.log", "codec.log", "supervisor.log"} <= logs.keys()
    for name, content in logs.items():
        assert found_in(content, hidden_in(stack)) == [], name


@pytest.mark.parametrize("text", [b"ACME Corporation", b"s.AbCdEfGhIjKlMnOpQrStUvWx", b"hvs.CAESIJ"])
def test_the_search_finds_what_it_looks_for_in_every_form(text):
    hidden = [b"ACME Corporation", b"hvs."]
    for form in (text, base64.b64encode(b'{"name":"' + text + b'"}'), b'"' + base64.b64encode(text) + b'"'):
        assert found_in(b"before " + form + b" after", hidden)
    assert found_in(b"acme-corp-12345 and " + base64.b64encode(b"nothing at all, only words"), hidden) == []
