"""`python -m crypto_service` with real servers: start, killed processes, and stop."""

import json
import os
import signal
import socket
import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509

from core.tenants.policy import TenantPolicy
from crypto_service.kmip.codec.enums import BlockCipherMode, Operation
from crypto_service.kmip.codec.fields import choice, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from database.schema.version import NEWEST
from tests.concurrency import wait_until
from tests.contracts.authorities import p256
from tests.crypto_service.authority import key_pem, pem
from tests.crypto_service.core.world import Home, World
from tests.crypto_service.kmip.scene import creation
from tests.crypto_service.running.process import Client, KmipClient, Service, connect_service
from tests.database.schemas import outdate


def test_service_serves_reports_and_stops_after_shipping_its_audit(service: Service, world: World, tmp_path: Path):
    home = world.tenant()
    tls = connect_service(home, "orders", tmp_path)
    service.start()
    service.wait_ready()
    client = Client(service.https, tls)
    status, made = client.post("/v1/data-keys", {"resource": "orders/1"})
    assert status == 200
    assert client.post("/v1/data-keys/open", {"resource": "orders/1", "wrapped": made["wrapped"]})[0] == 200
    wait_until(
        lambda: 'openkcm_crypto_operations_total{operation="data-key",refused=""} 2.0' in service.page("/metrics")[1]
    )
    assert service.page("/elsewhere")[0] == 404
    assert client.post("/v1/data-keys", {"resource": "orders/2"})[0] == 200
    assert service.terminate() == 0
    with world.worker.tenant_tx(home.tenant_id) as tx:
        records = [json.loads(one.record) for one in tx.audit.records()]
    released = [record["subject"] for record in records if record["name"] == "crypto.key_released"]
    assert released == ["orders/1", "orders/1", "orders/2"]
    assert list(service.journals.glob("*.journal")) == []
    client.close()


def test_connection_ends_after_a_response_during_the_notice_before_a_stop(
    service: Service, world: World, tmp_path: Path
):
    client = Client(service.https, connect_service(world.tenant(), "orders", tmp_path))
    service.start("OPENKCM_SHUTDOWN_NOTICE_SECONDS", "300")
    service.wait_ready()

    def is_ended() -> bool:
        try:
            assert client.post("/v1/data-keys", {"resource": "orders/1"})[0] == 200
        except ConnectionError:
            return True
        return False

    assert not is_ended()
    assert not is_ended()
    service.request_stop()
    wait_until(is_ended, seconds=30)
    assert service.page("/readyz") == (404, "stopping\n")
    client.close()


def test_operations_of_both_servers_name_their_object_only_while_the_tenant_records_resources(
    service: Service, world: World, tmp_path: Path
):
    home, other = world.tenant(), world.tenant()
    tls, others = (connect_service(one, "orders", tmp_path) for one in (home, other))
    service.start()
    service.wait_ready()
    https, theirs, kmip = Client(service.https, tls), Client(service.https, others), KmipClient(service.kmip, tls)
    created = kmip.ask(*creation(mask=12))
    assert kmip.ask(Operation.ACTIVATE, text(Tag.UNIQUE_IDENTIFIER, created.object_id)).reason is None

    def use(resource: str) -> None:
        for client in (https, theirs):
            sealed = client.post("/v1/encrypt", {"resource": resource, "plaintext": "aGVsbG8="})[1]["ciphertext"]
            assert client.post("/v1/decrypt", {"resource": resource, "ciphertext": sealed})[0] == 200
        padded = structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.BLOCK_CIPHER_MODE, BlockCipherMode.GCM))
        key = text(Tag.UNIQUE_IDENTIFIER, created.object_id)
        assert kmip.ask(Operation.ENCRYPT, key, padded, octets(Tag.DATA, resource.encode())).reason is None

    def used(tenant_id: str) -> set[tuple[str, str]]:
        with world.worker.tenant_tx(tenant_id) as tx:
            records = [json.loads(one.record) for one in tx.audit.records()]
        return {(one["details"]["operation"], one["subject"]) for one in records if one["name"] == "crypto.used"}

    counted = {("encrypt", "orders"), ("decrypt", "orders")}
    use("customer/4710")
    wait_until(lambda: used(home.tenant_id) == counted)
    with world.worker.tenant_tx(home.tenant_id) as tx:
        tx.policy.set(TenantPolicy(resources_recorded=True))
    named = {("encrypt", "customer/4711"), ("decrypt", "customer/4711"), ("encrypt", created.object_id)}

    def is_named() -> bool:
        use("customer/4711")
        return named <= used(home.tenant_id)

    wait_until(is_named)
    assert "customer/4710" not in {subject for _, subject in used(home.tenant_id)}
    wait_until(lambda: used(other.tenant_id) == counted)
    for client in (https, theirs, kmip):
        client.close()


def test_service_waits_for_its_schema_and_is_not_ready_with_another(service: Service, world: World, tmp_path: Path):
    tls = connect_service(world.tenant(), "orders", tmp_path)
    migrate_again = outdate(world.field)
    service.start()
    wait_until(lambda: service.page("/readyz") == (503, "schema_outdated\n"))
    assert service.page("/healthz")[0] == 200
    migrate_again()
    service.wait_ready()
    client = Client(service.https, tls)
    assert client.post("/v1/data-keys", {"resource": "orders/1"})[0] == 200
    later = f"insert into okcm.schema_migration values (9002, 'later', '', now(), {NEWEST + 1})"
    with world.field.administrator() as administrator:
        administrator.execute(later.encode())
    wait_until(lambda: service.page("/readyz") == (503, "release_outdated\n"))
    # What is in memory is still served, until it expires.
    assert client.post("/v1/encrypt", {"resource": "r", "plaintext": "aGVsbG8="})[0] == 200
    client.close()


def test_client_without_its_chain_works_from_provisioning_until_its_ca_is_retired(
    service: Service, world: World, tmp_path: Path
):
    """Several KMIP products send only their leaf; each process finds the CA of a tenant that is new or rotated."""
    service.start()
    service.wait_ready()

    def leaf_only(home: Home, generation: int) -> Client:
        key, file = p256(), tmp_path / f"leaf-{generation}.pem"
        file.write_text(key_pem(key) + home.issue("orders", generation, key), encoding="ascii")
        _, root = x509.load_pem_x509_certificates(home.authority.chain_pem.encode())
        tls = ssl.create_default_context(cadata=pem(root))
        tls.load_cert_chain(file)
        return Client(service.https, tls)

    def answers(client: Client) -> set[int]:
        """Return the status of several connections, which the processes share."""
        found = set()
        for _ in range(8):
            found.add(client.post("/v1/encrypt", {"resource": "r", "plaintext": "aGVsbG8="})[0])
            client.close()
        return found

    home = world.tenant()
    home.connect("orders")
    old = leaf_only(home, 2)
    time.sleep(1)
    assert answers(old) == {200}
    rolled = home.roll()
    new = leaf_only(rolled, 3)
    time.sleep(1)
    assert answers(new) == answers(old) == {200}
    rolled.end(home.authority)
    time.sleep(1)
    assert (answers(new), answers(old)) == ({200}, {403})
    os.kill(service.children[0], signal.SIGKILL)
    wait_until(lambda: "openkcm_crypto_restarts_total 1.0" in service.page("/metrics")[1])
    wait_until(lambda: "openkcm_crypto_ready 2.0" in service.page("/metrics")[1])
    assert (answers(new), answers(old)) == ({200}, {403})


def test_killed_process_is_restarted_while_the_others_serve(service: Service, world: World, tmp_path: Path):
    tls = connect_service(world.tenant(), "orders", tmp_path)
    service.start()
    service.wait_ready()
    wait_until(lambda: "openkcm_crypto_ready 2.0" in service.page("/metrics")[1])
    victim = service.children[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: "openkcm_crypto_ready 2.0" in service.page("/metrics")[1] and victim not in service.children)
    for _ in range(4):
        client = Client(service.https, tls)
        assert client.post("/v1/encrypt", {"resource": "r", "plaintext": "aGVsbG8="})[0] == 200
        client.close()
    assert "openkcm_crypto_restarts_total 1.0" in service.page("/metrics")[1]


def test_service_waits_for_an_unavailable_database(service: Service, world: World):
    with world.field.server.offline(world.field.name):
        service.start()
        wait_until(lambda: service.page("/readyz")[0] == 503)
        assert service.alive
    service.wait_ready()


def test_service_does_not_start_without_a_secret(service: Service, tmp_path: Path):
    (tmp_path / "secrets" / "vault-crypto").unlink()
    service.start()
    wait_until(lambda: not service.alive)
    assert "the secret vault-crypto cannot be read" in service.log()


def test_used_port_is_named_with_its_setting(service: Service):
    with socket.create_server(("127.0.0.2", service.metrics)):
        service.start()
        wait_until(lambda: not service.alive)
    assert f"port {service.metrics} of 127.0.0.2 cannot be used: address already in use" in service.log()
    assert "crypto_metrics_port" in service.log()
    with socket.create_server(("127.0.0.1", service.kmip)):
        service.start()
        wait_until(lambda: "crypto_kmip_port" in service.log())
        assert "Traceback" not in service.log()
    service.wait_ready()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_children_end_with_their_parent(service: Service, number: signal.Signals):
    service.start()
    service.wait_ready()
    children = service.children
    os.kill(os.getpgid(children[0]), number if number is signal.SIGINT else signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
