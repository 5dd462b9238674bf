"""A tenant CA is rotated under a running crypto service while its client sends requests; its CRLs are served."""

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from database.certificates import RevocationListRow
from openkcm.sdk.client import Client
from openkcm.sdk.errors import ClientError
from tests.client.sdk.test_real_service import home, key, refusal, serving
from tests.contracts.authorities import p256
from tests.crypto_service.core.world import HOUR, Home, World
from tests.crypto_service.running.process import Service
from vault.pki.certificates import RevocationList

__all__ = ["home", "key", "serving"]  # fixtures that pytest finds here by their names

CRL = "/.well-known/openkcm/crl"


@contextmanager
def continuous_requests(client: Client) -> Iterator[list[ClientError]]:
    """Encrypt and decrypt continuously with the client; yield the list of errors."""
    failures: list[ClientError] = []
    done, rounds = threading.Event(), [0]

    def ask() -> None:
        while not done.is_set():
            try:
                assert client.decrypt(client.encrypt(b"card", "orders/1"), "orders/1") == b"card"
                rounds[0] += 1
            except ClientError as failed:
                failures.append(failed)

    thread = threading.Thread(target=ask)
    thread.start()

    def wait_for_progress() -> None:
        until = rounds[0] + 50
        while rounds[0] < until and not failures:
            time.sleep(0.005)

    wait_for_progress()
    try:
        yield failures
        wait_for_progress()
    finally:
        done.set()
        thread.join(20)
    assert rounds[0] > 50


def fetch(serving: Service, folder: Path, path: str = CRL) -> httpx2.Response:
    """Send a request as an ordinary HTTP client, on a separate connection."""
    tls = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    tls.load_cert_chain(folder / "client.pem", folder / "client.key")
    with httpx2.Client(verify=tls, trust_env=False) as http:
        return http.get(f"https://localhost:{serving.https}{path}")


def publish(home: Home, number: int, *revoked: str) -> bytes:
    now = datetime.now(UTC).replace(microsecond=0)
    crl = RevocationList(number, now, now + HOUR, [(serial, now) for serial in revoked])
    der = home.world.authorities.revoke(home.authority, home.tenant_id, crl)
    with home.world.worker.tenant_tx(home.tenant_id) as tx:
        assert tx.certificates.publish(RevocationListRow(home.authority.serial, number, der, now, now + HOUR))
    return der


def test_ca_rotation_causes_no_client_error_and_ends_with_the_former_ca_rejected(
    serving: Service, home: Home, key: ec.EllipticCurvePrivateKey, tmp_path: Path
) -> None:
    folder = home.folder(tmp_path / "orders", "orders", key, serving.https)
    home.connect("users")
    home.folder(tmp_path / "left-behind", "users", p256(), serving.https)
    with Client.from_folder(folder) as client, Client.from_folder(tmp_path / "left-behind") as not_renewed:
        with continuous_requests(client) as failures:
            sealed = not_renewed.encrypt(b"card", "users/1")
            rolled = home.roll()
            rolled.issue("orders", 3, key, 2 * HOUR)
            assert client.renew_certificate()
            assert not_renewed.decrypt(sealed, "users/1") == b"card"  # the overlap
            rolled.end(home.authority)
        assert failures == []
        leaf, issuer = x509.load_pem_x509_certificates((folder / "client.pem").read_bytes())
        leaf.verify_directly_issued_by(issuer)
        assert issuer == x509.load_pem_x509_certificate(rolled.authority.certificate_pem.encode())
        assert refusal(not_renewed, sealed, "users/1") == "client_not_authorized"
    answer = fetch(serving, tmp_path / "left-behind")
    assert (answer.status_code, answer.json()["code"]) == (403, "client_not_authorized")


def test_crls_of_both_cas_are_served_only_to_their_tenant(
    serving: Service, world: World, home: Home, key: ec.EllipticCurvePrivateKey, tmp_path: Path
) -> None:
    folder = home.folder(tmp_path / "orders", "orders", key, serving.https)
    publish(world.tenant(), 1)
    missing = fetch(serving, folder)
    assert (missing.status_code, missing.json()["code"]) == (404, "object_not_found")
    first = publish(home, 1)
    answer = fetch(serving, folder)
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, "application/pkix-crl", first)
    assert fetch(serving, folder, f"{CRL}/former").status_code == 404
    second = publish(home.roll(), 2, "0a1b")
    assert fetch(serving, folder).content == second
    assert fetch(serving, folder, f"{CRL}/former").content == first
