"""docs/object-stores.md as written, with a real Ceph Object Gateway: objects are encrypted, and a lock stops access."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import get_session

from core.errors.services import ClientNotAuthorized
from tests.concurrency import wait_until
from tests.e2e.clients import Program, data_key
from tests.e2e.connected import AT_ONCE_SECONDS, Service
from tests.e2e.integrations.guides import blocks, words
from tests.e2e.integrations.radosgw import Gateway
from tests.e2e.stack import ACME, Stack
from tests.e2e.tenants import new_tenant

pytestmark = pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLS is deprecated:DeprecationWarning")

PAGE = "object-stores.md"
PLACE = "/etc/openkcm/object-store"
TEXT = b"a scan of ACME"
QUIET_SECONDS = 8.0


@pytest.fixture(scope="module")
def store(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """Connect the gateway as a service with the command of the guide."""
    tenant, folder = new_tenant(stack, "objects"), tmp_path_factory.mktemp("store") / "kcm"
    return Service(stack, tenant, "object-store", folder, connect(stack, tenant, folder))


def connect(stack: Stack, tenant_id: str, folder: Path) -> Any:
    """Write a new key and certificate into the folder."""
    [command] = blocks(PAGE, "sh", {PLACE: str(folder), ACME: tenant_id})
    return stack.command(*words(command))


@pytest.fixture(scope="module")
def gateway(store: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with the configuration and the key of the guide."""
    [configuration] = blocks(PAGE, "ini", replacements(store))
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), configuration)
    gateway.add_user("ada", "secret")
    exec(blocks(PAGE, "python", replacements(store))[0], {})  # noqa: S102 - code of the guide
    with gateway.running():
        yield gateway


def replacements(store: Service, url: str = "") -> dict[str, str]:
    """Return the folder and addresses of this installation for those of the example."""
    host, _, port = store.answer["kmip"].rpartition(":")
    changed = {
        PLACE: str(store.folder),
        "localhost:15696": store.answer["kmip"],
        '"localhost", 15696': f'"{host}", {port}',
    }
    return changed | ({"http://localhost:7480": url} if url else {})


def client(gateway: Gateway) -> Any:
    return get_session().create_client(
        "s3",
        "us-east-1",
        endpoint_url=gateway.url,
        aws_access_key_id="ada",
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}),
    )


def read(gateway: Gateway, key: str = "1") -> bytes | str:
    try:
        found: bytes = client(gateway).get_object(Bucket="scans", Key=key)["Body"].read()
    except ClientError as refused:
        return str(refused.response["Error"]["Code"])
    return found


def put(gateway: Gateway, key: str, name: str) -> str:
    try:
        client(gateway).put_object(Bucket="scans", Key=key, Body=TEXT, ServerSideEncryption="aws:kms", SSEKMSKeyId=name)
    except ClientError as refused:
        return str(refused.response["Error"]["Code"])
    return "stored"


def assert_reads_again(gateway: Gateway) -> None:
    """Retry at long intervals, because frequent requests make the gateway keep its closed KMIP connection."""
    for _ in range(8):
        time.sleep(QUIET_SECONDS)
        if read(gateway) == TEXT:
            return
    pytest.fail(f"{read(gateway)!r}\n{gateway.log[-2000:]}")


@contextmanager
def busy(gateway: Gateway) -> Iterator[list[float]]:
    """Read an object each half second during the block; the result gets the time of each failed read."""
    failed: list[float] = []
    done = threading.Event()

    def read_repeatedly() -> None:
        while not done.wait(0.5):
            if read(gateway) != TEXT:
                failed.append(time.monotonic())

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_repeatedly)
        yield failed
        done.set()
        reading.result()


def expire_old_certificates(stack: Stack, store: Service, seconds: int) -> None:
    """End every certificate of the service but its newest one after a few seconds, as recorded."""
    with stack.owner() as owner:
        owner.execute("set row_security = off")
        ended = owner.execute(
            "update okcm.service_certificate c set not_after = clock_timestamp() + %s * interval '1 second'"
            " where tenant_id = %s and service = %s and generation < (select max(n.generation)"
            " from okcm.service_certificate n where n.tenant_id = c.tenant_id and n.service = c.service)",
            [seconds, store.tenant_id, store.name],
        )
    assert ended.rowcount > 0


def test_a_busy_gateway_fails_only_while_its_tenant_is_locked(stack: Stack, store: Service, gateway: Gateway) -> None:
    """A busy gateway never replaces a connection that was closed, so both events must leave it open.

    A new connection with the old certificate is rejected after its end; the kept one was admitted before.
    """
    exec(blocks(PAGE, "python", replacements(store, gateway.url))[1], {})  # noqa: S102 - code of the guide
    with busy(gateway) as failed:
        time.sleep(3)
        assert failed == []
        stack.command("tenant", "lock", store.tenant_id, "--confirm", store.tenant_id)
        wait_until(lambda: bool(failed), lambda: "the gateway still reads", AT_ONCE_SECONDS)
        stack.command("tenant", "unlock", store.tenant_id)
        wait_until(lambda: time.monotonic() > failed[-1] + 2, lambda: gateway.log[-2000:], AT_ONCE_SECONDS)
        failed.clear()
        stack.command("service", "renew", store.tenant_id, store.name)
        expire_old_certificates(stack, store, 2)
        wait_until(lambda: is_rejected(store), lambda: "the old certificate has not ended", AT_ONCE_SECONDS)
        time.sleep(5)
        assert failed == [], gateway.log[-2000:]
    connect(stack, store.tenant_id, store.folder)  # the other story opens a connection


def is_rejected(store: Service) -> bool:
    """Return whether a new connection with the files of the service is rejected."""
    program = Program(store)
    answer = program.https(data_key("record/1"))
    program.hang_up()
    return answer == ClientNotAuthorized.code


def test_an_object_is_stored_as_ciphertext_and_read_until_the_tenant_is_locked_or_the_service_disconnected(
    stack: Stack, store: Service, gateway: Gateway
) -> None:
    check = blocks(PAGE, "python", replacements(store, gateway.url))[1]
    exec(check, {})  # noqa: S102 - code of the guide
    assert b"scans" in gateway.stored
    assert TEXT not in gateway.stored
    client(gateway).put_object(Bucket="scans", Key="plain", Body=b"a plain one of ACME")
    assert b"a plain one of ACME" in gateway.stored, "the search does not find a plain object"
    assert put(gateway, "2", "a-key-of-another-service") != "stored"
    assert read(gateway) == TEXT

    stack.command("tenant", "lock", store.tenant_id, "--confirm", store.tenant_id)
    wait_until(lambda: read(gateway) != TEXT, lambda: "the gateway still reads", AT_ONCE_SECONDS)
    assert put(gateway, "3", "records") != "stored"
    stack.command("tenant", "unlock", store.tenant_id)
    assert_reads_again(gateway)

    store.disconnect()
    wait_until(lambda: read(gateway) != TEXT, lambda: "the gateway still reads", AT_ONCE_SECONDS)
    connect(stack, store.tenant_id, store.folder)
    assert_reads_again(gateway)
