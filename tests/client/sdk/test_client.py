import asyncio
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace

from core.errors import keys as root_key_errors
from core.errors import keys as rotation_errors
from core.errors import platform as errors
from core.errors.keys import KeyNotUsable
from core.errors.requests import TooManyRequests
from core.errors.services import CiphertextRefused as ServerCiphertextRefused
from core.errors.services import ClientNotAuthorized
from core.errors.tenants import TenantNotOperational
from core.tenants.lifecycle import State
from core.tracing.spans import Span
from openkcm.errors import OpenKcmError
from openkcm.sdk import protocol as client_calls
from openkcm.sdk.client import AsyncClient, Client, Options
from openkcm.sdk.errors import (
    AccessRefused,
    CertificateUnusable,
    CiphertextRefused,
    ClientError,
    KeyVersionRetired,
    RequestRefused,
    RootKeyFailed,
    ServiceFailed,
    Unavailable,
)
from openkcm.sdk.identity import Identity
from openkcm.sdk.protocol import DataKey, NoResponse, PendingCall, Retry, Send, Wait, perform
from tests.crypto_service.authority import Leaf, service_leaf
from tests.crypto_service.https.stage import BODY_LIMIT, SERVICE, TENANT, Stage
from tests.tracing.collector import tracer_into

pytestmark = pytest.mark.integration

_QUICK = Options(retry=Retry(attempts=3, first_seconds=0.001, longest_seconds=0.002))


@pytest.fixture
def client(stage: Stage) -> Iterator[Client]:
    with Client.from_folder(stage.folder, _QUICK) as one:
        yield one


@pytest.fixture
async def awaited(stage: Stage) -> AsyncIterator[AsyncClient]:
    async with AsyncClient.from_folder(stage.folder, _QUICK) as one:
        yield one


def test_both_clients_have_the_same_methods():
    def public(face: type) -> set[str]:
        return {name for name in dir(face) if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)


async def test_either_client_continues_the_trace_of_the_application(tmp_path: Path):
    spans: list[Span] = []
    parent = trace.SpanContext(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0xF067AA0BA902B7, is_remote=False)
    with Stage(tmp_path, tracer=tracer_into(spans)) as stage:
        async with AsyncClient.from_folder(stage.folder, _QUICK) as awaited:
            with Client.from_folder(stage.folder, _QUICK) as client:
                with trace.use_span(trace.NonRecordingSpan(parent)):
                    await asyncio.to_thread(client.encrypt, b"card", "orders/1")
                    await awaited.encrypt(b"card", "orders/1")
                client.encrypt(b"card", "orders/1")
    expected = (f"{parent.trace_id:032x}", f"{parent.span_id:016x}")
    assert [(one.context.trace_id, one.parent_id) for one in spans[:2]] == [expected] * 2
    assert spans[2].parent_id == ""


@pytest.mark.parametrize("face", ["client", "awaited"])
async def test_either_client_supports_every_operation(client: Client, awaited: AsyncClient, stage: Stage, face: str):
    async def ask(name: str, *given: Any) -> Any:
        if face == "client":
            return await asyncio.to_thread(getattr(client, name), *given)
        return await getattr(awaited, name)(*given)

    stage.on_loop(lambda: stage.core.failing.append(errors.VaultUnavailable()))  # the client retries
    sealed = await ask("encrypt", b"card", "orders/1")
    assert await ask("decrypt", sealed, "orders/1") == b"card"
    stage.on_loop(lambda: stage.core.rotate(stage.caller))
    assert await ask("decrypt", await ask("rewrap", sealed, "orders/1"), "orders/1") == b"card"
    made = await ask("new_data_key", "orders")
    assert await ask("open_data_key", made.wrapped, "orders") == made.plaintext
    assert len(await ask("open_data_key", await ask("new_wrapped_data_key", "orders"), "orders")) == 32
    assert await ask("decrypt_local", await ask("encrypt_local", b"card", "a"), "a") == b"card"
    assert (await ask("discover"))["caller"]["service"] == SERVICE
    stage.on_loop(lambda: stage.core.move(TENANT, State.LOCKED))
    with pytest.raises(AccessRefused) as raised:
        await ask("encrypt", b"", "a")
    assert raised.value.code == "tenant_not_operational"


async def test_oversized_batch_is_sent_in_several_requests(awaited: AsyncClient, client: Client):
    items = [(f"{n}".encode(), f"r{n}") for n in range(1500)]
    sealed = await awaited.encrypt_many(items)
    pairs = [(str(text), resource) for text, (_, resource) in zip(sealed, items, strict=True)]
    opened = await asyncio.to_thread(client.decrypt_many, pairs)
    assert opened == [plaintext for plaintext, _ in items]
    assert all(isinstance(one, str) for one in await awaited.rewrap_many(pairs[:3]))
    assert all(isinstance(one, DataKey) for one in await awaited.new_data_keys(["a", "b"]))
    assert await awaited.encrypt_many([]) == []


def test_large_items_are_distributed_over_batches():
    large = b"x" * 400_000
    batches = list(client_calls.encrypt_many([(large, "a"), (large, "b"), (b"", "c")]))
    assert [len(batch.items) for batch in batches] == [1, 2]


def test_oversized_item_does_not_reject_the_others(client: Client):
    first, second, third = client.encrypt_many([(b"a", "a"), (b"x" * BODY_LIMIT, "b"), (b"c", "c")])
    assert isinstance(second, RequestRefused)
    assert second.code == "body_too_large"
    assert [client.decrypt(str(first), "a"), client.decrypt(str(third), "c")] == [b"a", b"c"]


def test_rejected_item_is_replaced_by_its_error(client: Client):
    sealed = client.encrypt(b"card", "a")
    first, second, third = client.decrypt_many([(sealed, "a"), (sealed, "b"), (sealed, "")])
    assert first == b"card"
    assert isinstance(second, CiphertextRefused)
    assert isinstance(third, RequestRefused)
    assert third.code == "invalid_request"


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (ServerCiphertextRefused(), CiphertextRefused),
        (TenantNotOperational("locked"), AccessRefused),
        (ClientNotAuthorized(), AccessRefused),
        (root_key_errors.RootKeyDisabled(), RootKeyFailed),
        (KeyNotUsable("destroyed"), RequestRefused),
        (rotation_errors.KeyVersionRetired(), KeyVersionRetired),
        (RuntimeError("hunter2"), ServiceFailed),
    ],
)
def test_failure_that_is_not_retryable_is_raised_immediately(
    client: Client, stage: Stage, failure: Exception, expected: type[ClientError]
):
    stage.on_loop(lambda: stage.core.failing.append(failure))
    with pytest.raises(expected) as raised:
        client.encrypt(b"card", "a")
    assert type(raised.value) is expected
    assert not raised.value.retryable
    assert stage.on_loop(lambda: len(stage.core.asked)) == 1
    if isinstance(failure, OpenKcmError):
        assert (raised.value.code, raised.value.hint) == (failure.code, failure.hint)
    else:
        assert len(raised.value.reference) == 32
        assert raised.value.reference in str(raised.value)


@pytest.mark.parametrize("failure", [errors.VaultUnavailable, TooManyRequests, root_key_errors.RootKeyThrottled])
def test_a_retryable_failure_is_retried_as_often_as_the_options_allow(
    client: Client, stage: Stage, failure: type[OpenKcmError]
):
    stage.on_loop(lambda: stage.core.failing.extend(failure() for _ in range(5)))
    with pytest.raises(Unavailable) as raised:
        client.encrypt(b"card", "a")
    assert (raised.value.code, raised.value.retryable) == (failure.code, True)
    assert stage.on_loop(lambda: len(stage.core.asked)) == 3
    assert client.encrypt(b"card", "a")
    assert stage.on_loop(lambda: len(stage.core.asked)) == 6


def test_connection_is_reused_and_replaced_after_a_loss(client: Client, stage: Stage):
    for _ in range(5):
        client.encrypt(b"card", "a")
    assert stage.on_loop(lambda: stage.connections.opened) == 1
    stage.on_loop(lambda: [one.abort() for one in tuple(stage.connections._open)])
    assert client.encrypt(b"card", "a")
    assert stage.on_loop(lambda: stage.connections.opened) == 2


def test_connection_loss_before_the_response_is_retried(client: Client, stage: Stage):
    gate = stage.on_loop(stage.core.hold)
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(client.encrypt, b"card", "a")
        while not stage.on_loop(lambda: stage.core.asked):
            time.sleep(0.005)
        stage.on_loop(lambda: [one.abort() for one in tuple(stage.connections._open)])
        stage.on_loop(gate.set)
        assert client.decrypt(asked.result(), "a") == b"card"


def test_requested_wait_is_honoured_up_to_a_limit():
    retry = Retry(first_seconds=0.1, longest_seconds=5.0)
    assert 1.0 <= retry.pause(1, 1.0) <= 1.2
    assert 5.0 <= retry.pause(1, 3600.0) <= 5.2
    assert all(0.05 <= retry.pause(1, None) <= 0.1 for _ in range(50))
    assert all(2.5 <= retry.pause(attempt, None) <= 5.0 for attempt in (30, 1025, 10**6))


def test_default_retries_outlast_a_change_of_the_load_balancer():
    procedure = perform(PendingCall("GET", "/v1/service", None, dict), Retry())
    step, waited = next(procedure), 0.0
    with suppress(Unavailable):
        while True:
            waited += step.seconds if isinstance(step, Wait) else 0.0
            step = procedure.send(NoResponse("ConnectError") if isinstance(step, Send) else None)
    assert 1.5 <= waited <= 3.1


def test_unreachable_service_or_another_ca_raises_unavailable(stage: Stage):
    elsewhere, another_ca = (stage.connect_folder(name, TENANT, stage.leaf) for name in ("elsewhere", "another_ca"))
    (elsewhere / "client.toml").write_text('https = "https://localhost:1"\n')
    (another_ca / "ca.pem").write_text(stage.leaf.pem)
    for folder in (elsewhere, another_ca):
        with Client.from_folder(folder, _QUICK) as lost, pytest.raises(Unavailable) as raised:
            lost.encrypt(b"card", "a")
        assert raised.value.code == "connection_failed"
    assert stage.on_loop(lambda: stage.core.asked) == []


def test_threads_share_one_client(client: Client):
    def round_trip(number: int) -> bytes:
        text = f"{number}".encode()
        local = client.decrypt_local(client.encrypt_local(text, "a"), "a")
        return client.decrypt(client.encrypt(local, "a"), "a")

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(round_trip, range(40))) == [f"{n}".encode() for n in range(40)]
    client.close()
    assert client._local._unwrapped == {}  # the data keys that were cached


def _aged(stage: Stage) -> tuple[Leaf, Path]:
    """Return a recorded certificate that is past two thirds of its life, and the folder of its client."""
    old = service_leaf(TENANT, SERVICE, began=timedelta(hours=50))
    stage.on_loop(lambda: stage.core.admit(old, TENANT, SERVICE))
    return old, stage.connect_folder("aged", TENANT, old)


def _renewed(stage: Stage, old: Leaf) -> Leaf:
    new = service_leaf(TENANT, SERVICE, key=old.key)
    stage.on_loop(lambda: stage.core.admit(new, TENANT, SERVICE))
    return new


def test_renewed_certificate_is_fetched_automatically_and_used_for_new_connections(stage: Stage):
    old, folder = _aged(stage)
    new = _renewed(stage, old)
    with Client.from_folder(folder, _QUICK) as client:
        client.encrypt(b"card", "a")
        assert (folder / "client.pem").read_text().startswith(new.pem)
        assert (folder / "client.pem").stat().st_mode & 0o777 == 0o600
        stage.on_loop(lambda: stage.core.revoke(old.serial))
        assert client.encrypt(b"card", "a")
        assert stage.on_loop(lambda: len(stage.certificates.asked)) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["ca.pem", "client.key", "client.pem", "client.toml"]


async def test_async_client_renews_its_certificate(stage: Stage):
    old, folder = _aged(stage)
    _renewed(stage, old)
    async with AsyncClient.from_folder(folder, _QUICK) as client:
        assert await client.renew_certificate()
        stage.on_loop(lambda: stage.core.revoke(old.serial))
        assert await client.encrypt(b"card", "a")
        assert not await client.renew_certificate()


@pytest.mark.parametrize("content", ["", "the certificate and key until now"])
def test_renewal_replaces_the_file_of_certificate_and_key(stage: Stage, content: str):
    old, folder = _aged(stage)
    new = _renewed(stage, old)
    (folder / "mongodb.pem").write_text(content)
    with Client.from_folder(folder, _QUICK) as client:
        client.encrypt(b"card", "a")
    pair = folder / "mongodb.pem"
    assert pair.read_text() == (folder / "client.pem").read_text() + (folder / "client.key").read_text()
    assert pair.read_text().startswith(new.pem)
    assert pair.stat().st_mode & 0o777 == 0o600
    ssl.create_default_context().load_cert_chain(pair)
    assert not list(folder.glob(".*"))


def test_missing_renewal_neither_stops_requests_nor_is_checked_for_each_one(stage: Stage):
    _, folder = _aged(stage)
    with Client.from_folder(folder, _QUICK) as client:
        for _ in range(5):
            client.encrypt(b"card", "a")
    assert stage.on_loop(lambda: len(stage.certificates.asked)) == 1


def test_failed_renewal_does_not_stop_requests(stage: Stage, caplog: pytest.LogCaptureFixture):
    old, folder = _aged(stage)
    for_another_key = service_leaf(TENANT, SERVICE)
    stage.on_loop(lambda: stage.core.newest.update({(TENANT, SERVICE): for_another_key}))
    with Client.from_folder(folder, _QUICK) as client:
        assert client.encrypt(b"card", "a")
        assert "certificate_unusable" in caplog.text
        with pytest.raises(CertificateUnusable):
            client.renew_certificate()
    assert (folder / "client.pem").read_text().startswith(old.pem)


def test_certificate_renewed_by_another_process_is_loaded_from_disk(stage: Stage):
    old, folder = _aged(stage)
    with Client.from_folder(folder, _QUICK) as first, Client.from_folder(folder, _QUICK) as second:
        _renewed(stage, old)
        assert first.renew_certificate()
        assert second.renew_certificate()
        assert stage.on_loop(lambda: len(stage.certificates.asked)) == 1


def test_certificate_that_another_process_writes_during_the_load_is_loaded_next(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    old, folder = _aged(stage)
    new, load, file = _renewed(stage, old), ssl.SSLContext.load_cert_chain, folder / "client.pem"

    def load_and_replace(context: ssl.SSLContext, *arguments: Path) -> None:
        load(context, *arguments)
        file.write_text(file.read_text().replace(old.pem, new.pem))

    with monkeypatch.context() as patched:
        patched.setattr(ssl.SSLContext, "load_cert_chain", load_and_replace)
        identity = Identity.from_folder(folder)
    assert identity.reload()
    assert identity.not_after == new.certificate.not_valid_after_utc


def test_folder_with_a_missing_or_wrong_file_is_rejected(stage: Stage):
    wrong: dict[str, list[str | None]] = {name: [None, "nonsense"] for name in ("client.pem", "client.key", "ca.pem")}
    wrong["client.key"].append(service_leaf(TENANT, SERVICE).key_pem)
    wrong["client.toml"] = [None, "nonsense", 'https = "http://localhost:1"\n', 'https = "https://localhost:x"\n']
    for name, contents in wrong.items():
        path = stage.folder / name
        right = path.read_text()
        for content in contents:
            path.unlink() if content is None else path.write_text(content)
            with pytest.raises(CertificateUnusable):
                Client.from_folder(stage.folder)
            path.write_text(right)


def test_a_folder_may_be_moved(stage: Stage):
    moved = stage.folder.rename(stage.root / "moved")
    with Client.from_folder(moved) as client:
        assert client.encrypt(b"card", "a")


def test_only_one_of_many_callers_claims_the_renewal(stage: Stage):
    identity = Identity.from_folder(_aged(stage)[1])
    start = threading.Barrier(8)

    def claim(_: int) -> bool:
        start.wait()
        return identity.claim_renewal()

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(claim, range(8))) == 1


def test_the_client_needs_nothing_of_the_server():
    """httpx2 and cryptography are enough: all other packages of the server are made unimportable."""
    hidden = ["uvloop", "httptools", "orjson", "pydantic", "structlog", "psycopg", "hvac", "temporalio", "fastapi"]
    root = str(Path(__file__).parents[3] / "client" / "src")
    blocked = f"sys.modules.update(dict.fromkeys({hidden}))"
    code = f"import sys; sys.path.insert(0, {root!r}); {blocked}; import openkcm.sdk.client"
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
