"""Databases and services are connected with one command, use their keys, and stop at once when disconnected."""

import ssl
import stat
import tomllib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from crypto_service.kmip.codec.enums import Operation, QueryFunction, ResultReason
from crypto_service.kmip.codec.fields import choice
from crypto_service.kmip.codec.tags import Tag
from openkcm.sdk.client import Client
from openkcm.sdk.errors import AccessRefused
from tests.cli.services.service_stand import a_request
from tests.concurrency import wait_until
from tests.crypto_service.kmip.messages import batch_item
from tests.e2e.clients import Program
from tests.e2e.connected import AT_ONCE_SECONDS, ONCE, Service, connect, is_closed, rejection_code
from tests.e2e.kmip_wire import reason_of, send

FILES = {
    "mongodb": {"mongodb.pem", "mongod.yaml", "csfle.json"},
    "postgresql": {"pg_tde.sql"},
    "microservice": set(),
}
OF_ALL = {"client.key", "client.pem", "ca.pem", "client.toml"}
QUERY = batch_item(Operation.QUERY, choice(Tag.QUERY_FUNCTION, QueryFunction.QUERY_OBJECTS))
PING = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"


NAMES = {"mongodb": "carts", "postgresql": "invoices", "microservice": "records"}


@pytest.fixture(scope="module")
def orders(stack, tenant, tmp_path_factory) -> Service:
    return connect(stack, tenant, "microservice", "orders", tmp_path_factory.mktemp("orders") / "kcm")


def answers_https(connection: ssl.SSLSocket) -> bool:
    connection.sendall(PING)
    return connection.recv(4096).startswith(b"HTTP/1.1 200")


def answers_kmip(connection: ssl.SSLSocket) -> bool:
    return reason_of(send(connection, QUERY)[0]) is None


def ask_https(service: Service) -> int:
    """Return the status of the response on a new connection."""
    with service.open_https() as connection:
        connection.sendall(PING)
        return int(connection.recv(4096).split()[1])


def ask_kmip(service: Service) -> ResultReason | None:
    """Return the reason of a rejected request on a new connection, None for a successful one."""
    with service.open_kmip() as connection:
        return reason_of(send(connection, QUERY)[0])


def assert_serves(service: Service, status: int, reason: ResultReason | None) -> None:
    """Wait until every process responds to new connections with the status and the reason."""
    wanted = [(status, reason)] * 4
    wait_until(
        lambda: [(ask_https(service), ask_kmip(service)) for _ in wanted] == wanted,
        lambda: f"no response with {status}, {reason!r}",
        AT_ONCE_SECONDS,
    )


def assert_ends_at_once(connection: ssl.SSLSocket) -> None:
    connection.settimeout(AT_ONCE_SECONDS)
    assert is_closed(connection)
    connection.close()


@pytest.mark.e2e
def test_services_of_each_kind_are_connected_by_one_command_and_encrypt_over_https_and_kmip(stack, tenant, tmp_path):
    with ThreadPoolExecutor(len(NAMES)) as pool:
        made = list(pool.map(lambda kind: connect(stack, tenant, kind, NAMES[kind], tmp_path / kind), NAMES))
    rows = stack.services(tenant)
    for kind, service in zip(NAMES, made, strict=True):
        assert service.answer["service_id"] == service.name
        assert {path.name for path in service.folder.iterdir()} == OF_ALL | FILES[kind]
        assert {Path(path).name for path in service.answer["files"]} == OF_ALL - {"client.key"} | FILES[kind]
        assert stat.S_IMODE(service.folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in service.folder.iterdir()} == {0o600}
        leaf, until = service.certificate, service.answer["certificate_not_after"]
        assert datetime.fromisoformat(until) == leaf.not_valid_after_utc
        assert timedelta(hours=71) < leaf.not_valid_after_utc - datetime.now(UTC) <= timedelta(hours=72)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        host = f"{tenant}.tenants.openkcm.internal"
        assert names.get_values_for_type(x509.DNSName) == [host]
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://{host}/service/{service.name}"]
        row = rows[service.name]
        assert (row["kind"], row["state"], row["certificate_not_after"]) == (kind, "connected", until)
        program = Program(service)
        program.prepare()
        assert program.works()
        program.hang_up()
    shown = {one["service_id"] for one in stack.command("tenant", "show", tenant)["services"]}
    assert set(NAMES.values()) <= shown


def test_an_external_certificate_request_is_certified_without_its_key(stack, tenant, orders, tmp_path):
    def connect_with_request(kind: str) -> Service:
        folder = tmp_path / kind
        folder.mkdir()
        key, form = ec.generate_private_key(ec.SECP256R1()), serialization.PrivateFormat.PKCS8
        request = a_request(folder, key)
        words = ("service", "connect", tenant, "--kind", kind, "--name", f"own-{kind}", "--csr", str(request))
        answer = stack.command(*words)
        *_, root = x509.load_pem_x509_certificates(answer["chain"].encode())
        (folder / "ca.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
        (folder / "client.pem").write_text(answer["certificate"] + answer["chain"])
        pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        (folder / "client.key").write_bytes(pem)
        return Service(stack, tenant, f"own-{kind}", folder, answer)

    with ThreadPoolExecutor(len(NAMES)) as pool:
        for service in pool.map(connect_with_request, NAMES):
            assert service.answer["files"] == []
            assert (ask_https(service), ask_kmip(service)) == (200, None)

    # A certificate for an external request is not written to a folder with another key.
    words = ("connect", tenant, "--kind", "microservice", "--name", "orders", "--out", str(orders.folder))
    assert rejection_code(stack, "service", *words, "--csr", str(a_request(tmp_path))) == "folder_refused"


def test_a_released_key_is_in_the_list_and_in_the_audit_stream(stack, tenant, orders):
    def released() -> list[dict]:
        return [record for record in stack.events(tenant, before) if record["subject"] == "orders/seen"]

    def last_seen() -> datetime:
        return datetime.fromisoformat(stack.services(tenant)["orders"]["last_seen_at"] or "1970-01-01T00:00:00+00:00")

    before, began = stack.last_record(tenant), datetime.now(UTC)
    with Client.from_folder(orders.folder) as kcm:
        kcm.new_data_key("orders/seen")
    wait_until(lambda: bool(released()), lambda: "the release is not in the audit stream")
    [release] = released()
    assert (release["name"], release["outcome"], release["actor"]) == ("crypto.key_released", "success", "orders")
    wait_until(lambda: last_seen() >= began - timedelta(seconds=1), lambda: f"last seen at {last_seen()}")


def test_disconnect_closes_the_open_connections_of_that_service_only(stack, tenant, orders, tmp_path):
    leaving = connect(stack, tenant, "mongodb", "leaving", tmp_path / "kcm")
    https, kmip = leaving.open_https(), leaving.open_kmip()
    staying = orders.open_kmip()
    assert answers_https(https)
    assert answers_kmip(kmip)
    assert answers_kmip(staying)

    leaving.disconnect()

    for connection in (https, kmip):
        assert_ends_at_once(connection)
    assert answers_kmip(staying)
    staying.close()
    assert_serves(leaving, 403, ResultReason.PERMISSION_DENIED)


@pytest.mark.e2e
def test_services_of_a_locked_tenant_stop_on_open_and_new_connections_until_the_unlock(stack, tenant, orders):
    with Client.from_folder(orders.folder) as kcm:
        sealed = kcm.encrypt(b"a secret", "orders/7")
    https, kmip = orders.open_https(), orders.open_kmip()
    assert answers_https(https)
    assert answers_kmip(kmip)
    stack.command("tenant", "lock", tenant, "--confirm", tenant)
    try:
        assert_ends_at_once(https)
        # A KMIP connection is kept: some clients never open a second one.
        wait_until(
            lambda: reason_of(send(kmip, QUERY)[0]) is ResultReason.PERMISSION_DENIED,
            lambda: "the connection is not refused",
            AT_ONCE_SECONDS,
        )
        assert_serves(orders, 403, ResultReason.PERMISSION_DENIED)
        with Client.from_folder(orders.folder, ONCE) as kcm, pytest.raises(AccessRefused) as denied:
            kcm.decrypt(sealed, "orders/7")
        assert denied.value.code == "tenant_not_operational"
        # Certificates are renewed during a lock, so that they do not expire; the renewed one does not decrypt either.
        before = orders.certificate
        stack.command("service", "renew", tenant, "orders")
        with Client.from_folder(orders.folder, ONCE) as kcm:
            assert kcm.renew_certificate()
            assert orders.certificate.serial_number != before.serial_number
            with pytest.raises(AccessRefused):
                kcm.decrypt(sealed, "orders/7")
    finally:
        stack.command("tenant", "unlock", tenant)
    assert_serves(orders, 200, None)
    assert answers_kmip(kmip)
    kmip.close()
    with Client.from_folder(orders.folder) as kcm:
        assert kcm.decrypt(sealed, "orders/7") == b"a secret"


def test_a_renewed_certificate_is_fetched_and_both_certificates_are_valid(stack, tenant, orders):
    before, key = orders.certificate, (orders.folder / "client.key").read_bytes()
    old = orders.tls()
    with Client.from_folder(orders.folder) as kcm:
        assert not kcm.renew_certificate()
        stack.command("service", "renew", tenant, "orders")

        assert kcm.renew_certificate()
        renewed = orders.certificate
        assert renewed.serial_number != before.serial_number
        assert renewed.public_key() == before.public_key()
        assert (orders.folder / "client.key").read_bytes() == key
        assert stat.S_IMODE((orders.folder / "client.pem").stat().st_mode) == 0o600
        assert kcm.discover()["caller"]["service"] == "orders"
    with orders.open(orders.answer["https"], old) as connection:
        assert answers_https(connection)
    row = stack.services(tenant)["orders"]
    assert row["certificate_not_after"] == renewed.not_valid_after_utc.isoformat()


def test_a_disconnected_service_is_rejected_on_a_resumed_tls_session(stack, tenant, tmp_path):
    leaving = connect(stack, tenant, "mongodb", "resuming", tmp_path / "kcm")
    tls = leaving.tls()
    tls.maximum_version = ssl.TLSVersion.TLSv1_2  # the server issues no session tickets in TLS 1.3

    def resume(session: ssl.SSLSession | None) -> tuple[bool, bool]:
        """Return whether a new connection resumed the session, and whether it was served."""
        with leaving.open(leaving.answer["https"], tls, session) as connection:
            connection.sendall(PING)
            return bool(connection.session_reused), connection.recv(4096).startswith(b"HTTP/1.1 200")

    with leaving.open(leaving.answer["https"], tls) as first:
        assert answers_https(first)
        session = first.session
        # Each process resumes only its own sessions, and the choice of the process is random.
        wait_until(lambda: resume(session) == (True, True), lambda: "no session is resumed")
        leaving.disconnect()
        assert_serves(leaving, 403, ResultReason.PERMISSION_DENIED)
        assert not any(served for _, served in (resume(session) for _ in range(10)))


def test_addresses_are_the_same_in_file_status_and_discovery(stack, orders):
    file = tomllib.loads((orders.folder / "client.toml").read_text())
    addresses = stack.command("status")["addresses"]
    with Client.from_folder(orders.folder) as kcm:
        discovered = kcm.discover()["endpoints"]
    found = [(file["https"], file["kmip"]), (addresses["crypto_https"], addresses["crypto_kmip"])]
    assert found == [(discovered["https"], discovered["kmip"])] * 2
