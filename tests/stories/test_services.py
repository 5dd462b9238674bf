"""My databases and services are connected with one command, use their keys, and stop at once when disconnected."""

import json
import ssl
import stat
import tomllib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from crypto.client import AccessRefused, CiphertextRefused, Client, Options, Retry, Unavailable
from crypto.kmip import ttlv
from crypto.kmip.enums import Operation, QueryFunction, ResultReason
from crypto.kmip.fields import choice
from crypto.kmip.tags import Tag
from tenancy import ids
from tests.crypto.kmip.messages import batch_item, encoded, message
from tests.stories.connected import AT_ONCE_SECONDS, Service, connect, is_closed, locked
from tests.stories.stack import wait_until

FILES = {
    "mongodb": {"mongodb.pem", "mongod.yaml", "csfle.json"},
    "postgresql": {"pg_tde.sql"},
    "microservice": set(),
}
OF_ALL = {"client.key", "client.pem", "ca.pem", "client.toml"}
ONCE = Options(retry=Retry(attempts=1))
PING = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"


NAMES = {"mongodb": "carts", "postgresql": "invoices", "microservice": "orders"}


@pytest.fixture(scope="module")
def services(stack, acme, tmp_path_factory) -> dict[str, Service]:
    """A service of ACME's of each kind, connected at the same time."""
    folder = tmp_path_factory.mktemp("services")
    with ThreadPoolExecutor(len(NAMES)) as crowd:
        made = crowd.map(lambda kind: connect(stack, acme, kind, NAMES[kind], folder / kind), NAMES)
    return dict(zip(NAMES, made, strict=True))


@pytest.fixture
def orders(services) -> Service:
    """ACME's order service."""
    return services["microservice"]


def leaf_of(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "client.pem").read_bytes())


def a_request(file: Path) -> Path:
    """Write a certificate request, as the service's own tools make it, and its key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    file.with_suffix(".key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    file.write_bytes(request.public_bytes(serialization.Encoding.PEM))
    return file


def listed(stack, tenant_id: str) -> dict[str, dict]:
    return {service["service_id"]: service for service in stack.command("service", "list", tenant_id)["services"]}


def query() -> bytes:
    return encoded(message(batch_item(Operation.QUERY, choice(Tag.QUERY_FUNCTION, QueryFunction.QUERY_OBJECTS))))


def answers_https(connection: ssl.SSLSocket) -> bool:
    connection.sendall(PING)
    return connection.recv(4096).startswith(b"HTTP/1.1 200")


def answers_kmip(connection: ssl.SSLSocket) -> bool:
    connection.sendall(query())
    return ttlv.decode(connection.recv(4096)).tag == Tag.RESPONSE_MESSAGE


def ask_https(service: Service) -> int:
    """Return the status that a new connection is answered with."""
    with service.open_https() as connection:
        connection.sendall(PING)
        return int(connection.recv(4096).split()[1])


def ask_kmip(service: Service) -> ResultReason | None:
    """Return the reason for which a new connection's request is refused, None when it is not."""
    with service.open_kmip() as connection:
        connection.sendall(query())
        item = ttlv.decode(connection.recv(4096)).first(Tag.BATCH_ITEM)
    assert item is not None
    reason = item.first(Tag.RESULT_REASON)
    return None if reason is None else ResultReason(reason.value)


def assert_serves(service: Service, status: int, reason: ResultReason | None) -> None:
    """Every new connection is answered so, as soon as every process has heard of what was changed."""
    wanted = [(status, reason)] * 4
    wait_until(
        lambda: [(ask_https(service), ask_kmip(service)) for _ in wanted] == wanted,
        lambda: f"not answered with {status}, {reason!r}",
        AT_ONCE_SECONDS,
    )


def assert_ends_at_once(connection: ssl.SSLSocket) -> None:
    connection.settimeout(AT_ONCE_SECONDS)
    assert is_closed(connection)
    connection.close()


@pytest.mark.parametrize("kind", NAMES)
def test_one_command_gives_a_service_its_key_certificate_and_configuration(services, kind):
    service = services[kind]
    assert service.answer["service_id"] == NAMES[kind]
    assert {path.name for path in service.folder.iterdir()} == OF_ALL | FILES[kind]
    assert {Path(path).name for path in service.answer["files"]} == OF_ALL - {"client.key"} | FILES[kind]
    assert stat.S_IMODE(service.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in service.folder.iterdir()} == {0o600}
    until = datetime.fromisoformat(service.answer["certificate_not_after"])
    assert until == leaf_of(service.folder).not_valid_after_utc
    assert timedelta(hours=71) < until - datetime.now(UTC) <= timedelta(hours=72)
    assert (ask_https(service), ask_kmip(service)) == (200, None)


def test_list_and_show_tell_what_is_connected(stack, acme, services):
    rows = listed(stack, acme)
    for kind, service in services.items():
        row = rows[service.name]
        assert (row["kind"], row["state"]) == (kind, "connected")
        assert row["certificate_not_after"] == service.answer["certificate_not_after"]
    assert set(rows) == {one["service_id"] for one in stack.command("tenant", "show", acme)["services"]}


def test_the_certificate_names_tenant_and_service_and_nothing_of_the_request(orders):
    leaf = leaf_of(orders.folder)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["acme-corp-12345.tenants.openkcm.internal"]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://acme-corp-12345.tenants.openkcm.internal/service/orders"
    ]


def test_a_request_made_elsewhere_is_certified_and_its_key_never_seen(stack, acme, tmp_path):
    def certified(kind: str) -> Service:
        folder = tmp_path / kind
        folder.mkdir()
        request = a_request(folder / "request.pem")
        words = ("service", "connect", acme, "--kind", kind, "--name", f"own-{kind}", "--csr", str(request))
        answer = stack.command(*words)
        *_, root = x509.load_pem_x509_certificates(answer["chain"].encode())
        (folder / "ca.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
        (folder / "client.pem").write_text(answer["certificate"] + answer["chain"])
        request.with_suffix(".key").rename(folder / "client.key")
        return Service(stack, acme, f"own-{kind}", folder, answer)

    with ThreadPoolExecutor(len(NAMES)) as crowd:
        for service in crowd.map(certified, NAMES):
            assert service.answer["files"] == []
            assert (ask_https(service), ask_kmip(service)) == (200, None)


def test_a_request_answered_into_a_folder_leaves_certificates_and_no_key(stack, acme, tmp_path):
    words = ("service", "connect", acme, "--kind", "postgresql", "--name", "ledger", "--out", str(tmp_path / "kcm"))
    stack.command(*words, "--csr", str(a_request(tmp_path / "request.pem")))
    assert {path.name for path in (tmp_path / "kcm").iterdir()} == {"client.pem", "ca.pem"}


def test_a_record_is_encrypted_and_opens_again_only_in_its_place(stack, orders, tmp_path):
    other = connect(stack, orders.tenant_id, "microservice", "billing", tmp_path / "kcm")
    with Client.from_folder(orders.folder) as kcm, Client.from_folder(other.folder) as billing:
        sealed = kcm.encrypt(b"4111 1111 1111 1111", "orders/1234/card")
        assert b"4111" not in sealed.encode()
        assert kcm.decrypt(sealed, "orders/1234/card") == b"4111 1111 1111 1111"
        for thief, place in ((kcm, "orders/9999/card"), (billing, "orders/1234/card")):
            with pytest.raises(CiphertextRefused):
                thief.decrypt(sealed, place)


def test_using_it_is_seen_in_the_list_and_in_the_audit_stream(stack, acme, orders):
    def told() -> list[dict]:
        with stack.database().tenant_tx(acme) as tx:
            return [json.loads(stored.record) for stored in tx.audit.records(after=before)]

    with stack.database().tenant_tx(acme) as tx:
        before = tx.audit.head().seq
    began = datetime.now(UTC)
    with Client.from_folder(orders.folder) as kcm:
        kcm.new_data_key("orders/seen")
    wait_until(lambda: any(record["subject"] == "orders/seen" for record in told()), lambda: f"not there: {told()}")
    [release] = [record for record in told() if record["subject"] == "orders/seen"]
    assert (release["name"], release["outcome"], release["actor"]) == ("crypto.key_released", "success", "orders")
    assert datetime.fromisoformat(listed(stack, acme)["orders"]["last_seen_at"]) >= began - timedelta(seconds=1)


def test_connecting_again_keeps_the_key_and_what_it_encrypted(stack, acme, tmp_path):
    first = connect(stack, acme, "microservice", "returning", tmp_path / "kcm")
    with Client.from_folder(first.folder) as kcm:
        sealed = kcm.encrypt(b"before", "notes/1")
    key, serial = (first.folder / "client.key").read_bytes(), leaf_of(first.folder).serial_number

    again = connect(stack, acme, "microservice", "returning", first.folder)
    assert (again.folder / "client.key").read_bytes() == key
    assert leaf_of(again.folder).serial_number != serial

    again.disconnect()
    assert listed(stack, acme)["returning"]["state"] == "disconnected"
    with Client.from_folder(again.folder, ONCE) as kcm, pytest.raises((AccessRefused, Unavailable)):
        kcm.decrypt(sealed, "notes/1")
    back = connect(stack, acme, "microservice", "returning", tmp_path / "elsewhere")
    with Client.from_folder(back.folder) as kcm:
        assert kcm.decrypt(sealed, "notes/1") == b"before"


def test_disconnecting_ends_live_connections_at_once_and_nobody_elses(stack, acme, orders, tmp_path):
    leaving = connect(stack, acme, "mongodb", "leaving", tmp_path / "kcm")
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


def test_a_locked_tenants_services_stop_on_live_and_new_connections_until_it_is_unlocked(stack, acme, orders):
    with Client.from_folder(orders.folder) as kcm:
        sealed = kcm.encrypt(b"a secret", "orders/7")
    https, kmip = orders.open_https(), orders.open_kmip()
    assert answers_https(https)
    assert answers_kmip(kmip)
    with locked(stack, acme):
        for connection in (https, kmip):
            assert_ends_at_once(connection)
        assert_serves(orders, 403, ResultReason.PERMISSION_DENIED)
        with Client.from_folder(orders.folder, ONCE) as kcm, pytest.raises(AccessRefused) as refused:
            kcm.decrypt(sealed, "orders/7")
        assert refused.value.code == "tenant_closed"
        # A lock lets no certificate lapse: the next one is made and can be fetched, and opens nothing yet.
        before = leaf_of(orders.folder)
        stack.command("service", "renew", acme, "orders")
        with Client.from_folder(orders.folder, ONCE) as kcm:
            assert kcm.renew_certificate()
            assert leaf_of(orders.folder).serial_number != before.serial_number
            with pytest.raises(AccessRefused):
                kcm.decrypt(sealed, "orders/7")
    assert_serves(orders, 200, None)
    with Client.from_folder(orders.folder) as kcm:
        assert kcm.decrypt(sealed, "orders/7") == b"a secret"


def test_a_renewed_certificate_is_fetched_and_both_are_good(stack, acme, orders):
    before, key = leaf_of(orders.folder), (orders.folder / "client.key").read_bytes()
    old = orders.tls()
    with Client.from_folder(orders.folder) as kcm:
        assert not kcm.renew_certificate()
        stack.command("service", "renew", acme, "orders")

        assert kcm.renew_certificate()
        renewed = leaf_of(orders.folder)
        assert renewed.serial_number != before.serial_number
        assert renewed.public_key() == before.public_key()
        assert (orders.folder / "client.key").read_bytes() == key
        assert stat.S_IMODE((orders.folder / "client.pem").stat().st_mode) == 0o600
        assert kcm.discover()["caller"]["service"] == "orders"
    with orders.open(orders.answer["https"], old) as connection:
        assert answers_https(connection)
    row = listed(stack, acme)["orders"]
    assert row["certificate_not_after"] == renewed.not_valid_after_utc.isoformat()


def test_resuming_a_session_brings_nobody_back(stack, acme, tmp_path):
    leaving = connect(stack, acme, "mongodb", "resuming", tmp_path / "kcm")
    tls = leaving.tls()
    tls.maximum_version = ssl.TLSVersion.TLSv1_2  # there are no tickets of TLS 1.3

    def resumed(session: ssl.SSLSession | None) -> tuple[bool, bool]:
        """Return whether a new connection resumed the session, and whether it was served."""
        with leaving.open(leaving.answer["https"], tls, session) as connection:
            connection.sendall(PING)
            return bool(connection.session_reused), connection.recv(4096).startswith(b"HTTP/1.1 200")

    with leaving.open(leaving.answer["https"], tls) as first:
        assert answers_https(first)
        session = first.session
        # Each process resumes its own sessions only, and which one answers is chance.
        wait_until(lambda: resumed(session) == (True, True), lambda: "no session is resumed")
        leaving.disconnect()
        assert_serves(leaving, 403, ResultReason.PERMISSION_DENIED)
        assert not any(served for _, served in (resumed(session) for _ in range(10)))


def test_the_workflow_of_a_service_is_found_by_tenant_and_region(stack, acme, orders):
    assert orders.name == "orders"
    found = [run for run, _ in stack.workflows(f'TenantId = "{acme}" and WorkflowType = "ConnectService"')]
    assert ids.service_workflow(acme, "orders") in found


def refused(stack, *words: str) -> dict[str, str]:
    done = stack.run("service", *words, "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    error: dict[str, str] = json.loads(done.stdout)["error"]
    assert error["hint"]
    return error


def test_what_cannot_be_done_is_refused_with_a_code_and_what_to_do(stack, acme, orders, tmp_path):
    out, nonsense = ("--out", str(tmp_path / "kcm")), tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    one = ("--kind", "microservice", "--name")
    before = set(listed(stack, acme))
    wanted = {
        ("connect", "nobody-here", *one, "x", *out): "tenant_unknown",
        ("connect", acme, *one, "../orders", *out): "invalid_name",
        ("connect", acme, "--kind", "mongodb", "--name", "orders", *out): "service_conflict",
        ("connect", acme, *one, "x", "--csr", str(nonsense)): "csr_refused",
        ("connect", acme, *one, "x", "--csr", str(tmp_path / "nowhere.pem")): "folder_refused",
        ("connect", acme, *one, "another", "--out", str(orders.folder)): "folder_refused",
        ("disconnect", acme, "nobody"): "service_unknown",
    }
    with ThreadPoolExecutor(3) as crowd:
        found = crowd.map(lambda words: refused(stack, *words)["code"], wanted)
    assert dict(zip(wanted, found, strict=True)) == wanted
    assert not (tmp_path / "kcm").exists()
    assert set(listed(stack, acme)) == before


def test_a_key_that_lies_in_the_folder_already_is_not_replaced(stack, acme, orders, tmp_path):
    folder = tmp_path / "kcm"
    folder.mkdir(mode=0o700)
    (folder / "client.key").write_text("somebody's key")
    (folder / "client.key").chmod(0o600)
    words = ("connect", acme, "--kind", "microservice", "--name", "keyed", "--out", str(folder))
    assert refused(stack, *words)["code"] == "folder_refused"
    assert (folder / "client.key").read_text() == "somebody's key"
    request = a_request(tmp_path / "request.pem")
    words = ("connect", acme, "--kind", "microservice", "--name", "orders", "--out", str(orders.folder))
    assert refused(stack, *words, "--csr", str(request))["code"] == "folder_refused"


def test_wrong_usage_is_told_apart_from_what_is_refused(stack, acme, tmp_path):
    words = ("connect", acme, "--kind", "oracle", "--name", "x", "--out", str(tmp_path / "kcm"))
    assert stack.run("service", *words, "--json").returncode == 2
    assert not (tmp_path / "kcm").exists()


def test_every_place_that_says_where_to_call_says_the_same(stack, orders):
    told = tomllib.loads((orders.folder / "client.toml").read_text())
    addresses = stack.command("status")["addresses"]
    with Client.from_folder(orders.folder) as kcm:
        discovered = kcm.discover()["endpoints"]
    said = [(told["https"], told["kmip"]), (addresses["crypto_https"], addresses["crypto_kmip"])]
    assert said == [(discovered["https"], discovered["kmip"])] * 2
