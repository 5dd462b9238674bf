import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from crypto import client_calls
from crypto.client import (
    AccessRefused,
    AsyncClient,
    CertificateUnusable,
    CiphertextRefused,
    Client,
    ClientError,
    DataKey,
    Identity,
    KeyVersionRetired,
    LocalLimits,
    Options,
    RequestRefused,
    Retry,
    RootKeyFailed,
    ServiceFailed,
    Unavailable,
)
from tenancy import errors, root_key_errors, rotation_errors
from tenancy.lifecycle import State
from tests.crypto.https.authority import Leaf, service_leaf
from tests.crypto.https.stage import BODY_LIMIT, OTHER_TENANT, SERVICE, TENANT, Stage

_QUICK = Options(retry=Retry(attempts=3, first_seconds=0.001, longest_seconds=0.002))


@pytest.fixture
def client(stage: Stage) -> Iterator[Client]:
    with Client.from_folder(stage.folder, _QUICK) as one:
        yield one


@pytest.fixture
async def awaited(stage: Stage) -> AsyncIterator[AsyncClient]:
    async with AsyncClient.from_folder(stage.folder, _QUICK) as one:
        yield one


def test_the_blocking_face_does_every_operation(client: Client, stage: Stage):
    sealed = client.encrypt(b"card", "orders/1")
    assert client.decrypt(sealed, "orders/1") == b"card"
    stage.on_loop(lambda: stage.core.rotate(stage.caller))
    assert client.decrypt(client.rewrap(sealed, "orders/1"), "orders/1") == b"card"
    made = client.new_data_key("orders")
    assert client.open_data_key(made.wrapped, "orders") == made.plaintext
    assert len(client.open_data_key(client.new_wrapped_data_key("orders"), "orders")) == 32
    assert client.decrypt_local(client.encrypt_local(b"card", "a"), "a") == b"card"
    assert client.discover()["caller"]["service"] == SERVICE


async def test_the_awaited_face_does_every_operation(awaited: AsyncClient, stage: Stage):
    sealed = await awaited.encrypt(b"card", "orders/1")
    assert await awaited.decrypt(sealed, "orders/1") == b"card"
    stage.on_loop(lambda: stage.core.rotate(stage.caller))
    assert await awaited.decrypt(await awaited.rewrap(sealed, "orders/1"), "orders/1") == b"card"
    made = await awaited.new_data_key("orders")
    assert await awaited.open_data_key(made.wrapped, "orders") == made.plaintext
    assert len(await awaited.open_data_key(await awaited.new_wrapped_data_key("orders"), "orders")) == 32
    assert await awaited.decrypt_local(await awaited.encrypt_local(b"card", "a"), "a") == b"card"
    assert (await awaited.discover())["caller"]["service"] == SERVICE


def test_both_faces_have_the_same_methods():
    def public(face: type) -> set[str]:
        return {name for name in dir(face) if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)


async def test_batches_larger_than_the_service_takes_are_sent_in_several(awaited: AsyncClient, client: Client):
    items = [(f"{n}".encode(), f"r{n}") for n in range(1500)]
    sealed = await awaited.encrypt_many(items)
    pairs = [(str(text), resource) for text, (_, resource) in zip(sealed, items, strict=True)]
    opened = await asyncio.to_thread(client.decrypt_many, pairs)
    assert opened == [plaintext for plaintext, _ in items]
    assert all(isinstance(one, str) for one in await awaited.rewrap_many(pairs[:3]))
    assert all(isinstance(one, DataKey) for one in await awaited.new_data_keys(["a", "b"]))
    assert await awaited.encrypt_many([]) == []


def test_large_items_are_spread_over_batches():
    large = b"x" * 400_000
    batches = list(client_calls.encrypt_many([(large, "a"), (large, "b"), (b"", "c")]))
    assert [len(batch.items) for batch in batches] == [1, 2]


def test_an_item_too_large_for_the_service_does_not_refuse_the_others(client: Client):
    first, second, third = client.encrypt_many([(b"a", "a"), (b"x" * BODY_LIMIT, "b"), (b"c", "c")])
    assert isinstance(second, RequestRefused)
    assert second.code == "body_too_large"
    assert [client.decrypt(str(first), "a"), client.decrypt(str(third), "c")] == [b"a", b"c"]


def test_an_item_that_is_refused_has_its_error_in_its_place(client: Client):
    sealed = client.encrypt(b"card", "a")
    first, second, third = client.decrypt_many([(sealed, "a"), (sealed, "b"), (sealed, "")])
    assert first == b"card"
    assert isinstance(second, CiphertextRefused)
    assert isinstance(third, RequestRefused)
    assert third.code == "invalid_request"


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (errors.CiphertextRefused(), CiphertextRefused),
        (errors.TenantClosed("locked"), AccessRefused),
        (errors.CallerRefused(), AccessRefused),
        (root_key_errors.RootKeyDisabled(), RootKeyFailed),
        (errors.KeyNotUsable("destroyed"), RequestRefused),
        (rotation_errors.KeyVersionRetired(), KeyVersionRetired),
        (RuntimeError("hunter2"), ServiceFailed),
    ],
)
def test_what_another_try_cannot_mend_is_raised_at_once(
    client: Client, stage: Stage, failure: Exception, expected: type[ClientError]
):
    stage.on_loop(lambda: stage.core.failing.append(failure))
    with pytest.raises(expected) as raised:
        client.encrypt(b"card", "a")
    assert type(raised.value) is expected
    assert not raised.value.retryable
    assert stage.on_loop(lambda: len(stage.core.asked)) == 1
    if isinstance(failure, errors.OpenKcmError):
        assert (raised.value.code, raised.value.hint) == (failure.code, failure.hint)
    else:
        assert len(raised.value.reference) == 32
        assert raised.value.reference in str(raised.value)


@pytest.mark.parametrize("failure", [errors.VaultUnavailable, errors.TooManyRequests, root_key_errors.RootKeyThrottled])
def test_what_another_try_can_mend_is_tried_again(client: Client, stage: Stage, failure: Callable[[], Exception]):
    stage.on_loop(lambda: stage.core.failing.extend([failure(), failure()]))
    assert client.encrypt(b"card", "a")
    assert stage.on_loop(lambda: len(stage.core.asked)) == 3


def test_a_connection_that_is_lost_is_replaced(client: Client, stage: Stage):
    client.encrypt(b"card", "a")
    stage.on_loop(lambda: [one.abort() for one in tuple(stage.connections._open)])
    assert client.encrypt(b"card", "a")
    assert stage.on_loop(lambda: stage.connections.opened) == 2


def test_a_connection_that_is_lost_before_the_answer_is_tried_again(client: Client, stage: Stage):
    gate = stage.on_loop(lambda: _install_gate(stage))
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(client.encrypt, b"card", "a")
        while not stage.on_loop(lambda: stage.core.asked):
            pass
        stage.on_loop(lambda: [one.abort() for one in tuple(stage.connections._open)])
        stage.on_loop(gate.set)
        assert client.decrypt(asked.result(), "a") == b"card"


def _install_gate(stage: Stage) -> asyncio.Event:
    stage.core.gate = asyncio.Event()
    return stage.core.gate


def test_trying_again_ends(client: Client, stage: Stage):
    stage.on_loop(lambda: stage.core.failing.extend(errors.VaultUnavailable() for _ in range(9)))
    with pytest.raises(Unavailable) as raised:
        client.encrypt(b"card", "a")
    assert (raised.value.code, raised.value.retryable) == ("vault_unavailable", True)
    assert stage.on_loop(lambda: len(stage.core.asked)) == 3


async def test_the_awaited_face_tries_again_too(awaited: AsyncClient, stage: Stage):
    stage.on_loop(lambda: stage.core.failing.append(errors.VaultUnavailable()))
    assert await awaited.encrypt(b"card", "a")


def test_a_wait_the_service_asks_for_is_kept_up_to_a_bound():
    retry = Retry(first_seconds=0.1, longest_seconds=5.0)
    assert 1.0 <= retry.pause(1, 1.0) <= 1.2
    assert 5.0 <= retry.pause(1, 3600.0) <= 5.2
    assert all(0.05 <= retry.pause(1, None) <= 0.1 for _ in range(50))
    assert retry.pause(30, None) <= 5.0


def test_connections_are_kept(client: Client, stage: Stage):
    for _ in range(5):
        client.encrypt(b"card", "a")
    assert stage.on_loop(lambda: stage.connections.opened) == 1


def test_a_service_that_is_not_there_is_unavailable(stage: Stage):
    folder = stage.connect_folder("elsewhere", TENANT, stage.leaf)
    (folder / "client.toml").write_text('https = "https://localhost:1"\n')
    with Client.from_folder(folder, _QUICK) as lost, pytest.raises(Unavailable) as raised:
        lost.encrypt(b"card", "a")
    assert raised.value.code == "connection_failed"


def test_a_server_of_another_authority_is_not_spoken_to(stage: Stage):
    folder = stage.connect_folder("wary", TENANT, stage.leaf)
    (folder / "ca.pem").write_text(stage.leaf.pem)
    with Client.from_folder(folder, _QUICK) as wary, pytest.raises(Unavailable):
        wary.encrypt(b"card", "a")
    assert stage.on_loop(lambda: stage.core.asked) == []


def test_another_tenants_client_opens_nothing(client: Client, stage: Stage):
    sealed, message = client.encrypt(b"card", "a"), client.encrypt_local(b"card", "a")
    _, folder = stage.service(OTHER_TENANT, SERVICE)
    with Client.from_folder(folder, _QUICK) as thief:
        with pytest.raises(CiphertextRefused):
            thief.decrypt(sealed, "a")
        with pytest.raises(CiphertextRefused):
            thief.decrypt_local(message, "a")


def test_threads_share_one_client(client: Client):
    def round_trip(number: int) -> bytes:
        text = f"{number}".encode()
        local = client.decrypt_local(client.encrypt_local(text, "a"), "a")
        return client.decrypt(client.encrypt(local, "a"), "a")

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(round_trip, range(40))) == [f"{n}".encode() for n in range(40)]


def _aged(stage: Stage) -> Leaf:
    """A certificate that is past two thirds of its life, on record, with its files."""
    old = service_leaf(TENANT, SERVICE, began=timedelta(hours=50))
    stage.on_loop(lambda: stage.core.admit(old, TENANT, SERVICE))
    return old


def test_a_renewed_certificate_is_fetched_by_itself_and_used_for_new_connections(stage: Stage):
    old = _aged(stage)
    folder = stage.connect_folder("aged", TENANT, old)
    new = service_leaf(TENANT, SERVICE, key=old.key)
    stage.on_loop(lambda: stage.core.admit(new, TENANT, SERVICE))
    with Client.from_folder(folder, _QUICK) as client:
        client.encrypt(b"card", "a")
        assert (folder / "client.pem").read_text().startswith(new.pem)
        assert (folder / "client.pem").stat().st_mode & 0o777 == 0o600
        stage.on_loop(lambda: stage.core.revoke(old.serial))
        assert client.encrypt(b"card", "a")
        assert stage.on_loop(lambda: len(stage.certificates.asked)) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["ca.pem", "client.key", "client.pem", "client.toml"]


async def test_the_awaited_face_renews_too(stage: Stage):
    old = _aged(stage)
    folder = stage.connect_folder("aged", TENANT, old)
    new = service_leaf(TENANT, SERVICE, key=old.key)
    stage.on_loop(lambda: stage.core.admit(new, TENANT, SERVICE))
    async with AsyncClient.from_folder(folder, _QUICK) as client:
        assert await client.renew_certificate()
        stage.on_loop(lambda: stage.core.revoke(old.serial))
        assert await client.encrypt(b"card", "a")
        assert not await client.renew_certificate()


def test_while_there_is_no_renewed_certificate_work_goes_on_and_it_is_not_asked_for_each_time(stage: Stage):
    folder = stage.connect_folder("aged", TENANT, _aged(stage))
    with Client.from_folder(folder, _QUICK) as client:
        for _ in range(5):
            client.encrypt(b"card", "a")
    assert stage.on_loop(lambda: len(stage.certificates.asked)) == 1


def test_a_failure_to_renew_does_not_stop_the_work(stage: Stage, caplog: pytest.LogCaptureFixture):
    old = _aged(stage)
    folder = stage.connect_folder("aged", TENANT, old)
    stranger = service_leaf(TENANT, SERVICE)
    stage.on_loop(lambda: stage.core.newest.update({(TENANT, SERVICE): stranger}))
    with Client.from_folder(folder, _QUICK) as client:
        assert client.encrypt(b"card", "a")
        assert "certificate_unusable" in caplog.text
        with pytest.raises(CertificateUnusable):
            client.renew_certificate()
    assert (folder / "client.pem").read_text().startswith(old.pem)


def test_a_certificate_renewed_by_another_process_is_taken_from_disk(stage: Stage):
    old = _aged(stage)
    folder = stage.connect_folder("shared", TENANT, old)
    new = service_leaf(TENANT, SERVICE, key=old.key)
    with Client.from_folder(folder, _QUICK) as first, Client.from_folder(folder, _QUICK) as second:
        stage.on_loop(lambda: stage.core.admit(new, TENANT, SERVICE))
        assert first.renew_certificate()
        assert second.renew_certificate()
        assert stage.on_loop(lambda: len(stage.certificates.asked)) == 1


@pytest.mark.parametrize("name", ["client.pem", "client.key", "ca.pem", "client.toml"])
@pytest.mark.parametrize("content", [None, "nonsense"])
def test_a_folder_that_is_not_whole_is_refused(stage: Stage, name: str, content: str | None):
    path = stage.folder / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(CertificateUnusable):
        Client.from_folder(stage.folder)


def test_a_certificate_of_another_key_is_refused(stage: Stage):
    (stage.folder / "client.key").write_text(service_leaf(TENANT, SERVICE).key_pem)
    with pytest.raises(CertificateUnusable):
        Client.from_folder(stage.folder)


def test_a_folder_may_be_moved(stage: Stage):
    moved = stage.folder.rename(stage.root / "moved")
    with Client.from_folder(moved) as client:
        assert client.encrypt(b"card", "a")


def test_only_https_is_spoken(stage: Stage):
    (stage.folder / "client.toml").write_text('https = "http://localhost:1"\n')
    with pytest.raises(CertificateUnusable):
        Client.from_folder(stage.folder)


def test_one_of_many_callers_is_told_to_renew(stage: Stage):
    identity = Identity.from_folder(stage.connect_folder("aged", TENANT, _aged(stage)))
    start = threading.Barrier(8)

    def claim(_: int) -> bool:
        start.wait()
        return identity.claim_renewal()

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(claim, range(8))) == 1


def test_the_client_needs_nothing_of_the_server():
    """httpx and cryptography are enough: every other package of the service is made unimportable."""
    hidden = ["uvloop", "httptools", "orjson", "pydantic", "structlog", "psycopg", "hvac", "temporalio", "fastapi"]
    root = str(Path(__file__).parents[3])
    code = (
        f"import sys; sys.path.insert(0, {root!r}); sys.modules.update(dict.fromkeys({hidden})); import crypto.client"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True)


def test_closing_drops_the_cached_data_keys(stage: Stage):
    client = Client.from_folder(stage.folder, Options(local=LocalLimits()))
    message = client.encrypt_local(b"card", "a")
    client.close()
    with Client.from_folder(stage.folder) as other:
        assert other.decrypt_local(message, "a") == b"card"
    assert client._local._opened == {}


async def test_a_locked_tenant_gets_nothing_from_either_face(client: Client, awaited: AsyncClient, stage: Stage):
    stage.on_loop(lambda: stage.core.move(TENANT, State.LOCKED))
    attempts: list[Callable[[], Awaitable[Any]]] = [
        lambda: asyncio.to_thread(client.encrypt, b"", "a"),
        lambda: awaited.encrypt(b"", "a"),
    ]
    for attempt in attempts:
        with pytest.raises(AccessRefused) as raised:
            await attempt()
        assert raised.value.code == "tenant_closed"
