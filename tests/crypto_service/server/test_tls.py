"""The service's certificates from a real key server, and the clients that its contexts admit."""

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from core.errors.platform import SettingsInvalid, VaultUnavailable
from crypto_service.server import tls
from crypto_service.server.tls import ServerCertificate, ServerTls, SharedTlsIdentity, new_identity, server_context
from openkcm.contract.csr import CsrRefused
from openkcm.errors import OpenKcmError
from tests.concurrency import wait_until_async
from tests.crypto_service import authority
from tests.crypto_service.authority import server_identity
from tests.vault.server import Server
from vault.pki.server_certificates import PkiServerCertificates

pytestmark = pytest.mark.integration

NAMES = ("localhost", "127.0.0.1")
ACME = "acme-corp-12345"


@pytest.fixture
def identity(vault: Server) -> ServerCertificate:
    return new_identity(PkiServerCertificates(vault.session("crypto")), NAMES)


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Do a handshake in memory; raise the error of either side."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    served = server.wrap_bio(to_server, to_client, server_side=True)
    asking = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    for _ in range(4):
        for side in (asking, served):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return served, asking


@pytest.fixture
def a_client(tmp_path: Path) -> Callable[..., ssl.SSLContext]:
    """Return a factory of client contexts, by default with the certificate of a service of ACME."""

    def make(leaf: authority.Leaf | None = None, *, version: Any = None, ciphers: str = "") -> ssl.SSLContext:
        client = ssl.create_default_context(cadata=authority.root().pem)
        leaf, file = leaf or authority.service_leaf(ACME, "orders"), tmp_path / "client.pem"
        file.write_text(leaf.key_pem + leaf.pem + authority.tenant_authority(ACME).pem, encoding="ascii")
        client.load_cert_chain(file)
        if ciphers:
            client.set_ciphers(ciphers)
        if version:
            client.minimum_version = client.maximum_version = version
        return client

    return make


Make = Callable[..., ssl.SSLContext]


def test_server_certificate_has_our_names_and_verifies(identity: ServerCertificate):
    assert identity.with_rsa is not None
    both = identity.with_ec, identity.with_rsa
    for certified, kind in zip(both, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey), strict=True):
        certificate = x509.load_pem_x509_certificate(certified.certificate_pem.encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [str(name.value) for name in names] == ["localhost", "127.0.0.1"]
        assert isinstance(certificate.public_key(), kind)
    assert identity.not_after - datetime.now(UTC) < timedelta(hours=25)
    server = server_context(identity)
    server.verify_mode = ssl.CERT_OPTIONAL  # only the server certificate is checked here
    _, asking = shake(server, ssl.create_default_context(cadata=identity.root_pem))
    assert asking.version() == "TLSv1.3"
    assert not [file for file in Path("/proc/self/fd").iterdir() if "memfd" in os.path.realpath(file)]
    assert all(b"PRIVATE KEY" in certified.key_pem for certified in both)
    assert "PRIVATE" not in repr(identity)


ECDSA, RSA = "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"


@pytest.mark.parametrize(
    ("version", "ciphers", "kind"),
    [
        (ssl.TLSVersion.TLSv1_3, "", ec.EllipticCurvePublicKey),
        (ssl.TLSVersion.TLSv1_2, "", ec.EllipticCurvePublicKey),
        (ssl.TLSVersion.TLSv1_2, f"{RSA}:{ECDSA}", ec.EllipticCurvePublicKey),  # the server's order decides
        (ssl.TLSVersion.TLSv1_2, ECDSA, ec.EllipticCurvePublicKey),
        (ssl.TLSVersion.TLSv1_2, RSA, rsa.RSAPublicKey),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-RSA-AES128-SHA256", rsa.RSAPublicKey),  # a client without AEAD
    ],
)
def test_client_without_ecdsa_gets_the_rsa_certificate(a_client: Make, version: Any, ciphers: str, kind: type):
    _, asking = shake(server_context(server_identity()), a_client(version=version, ciphers=ciphers))
    shown = asking.getpeercert(binary_form=True)
    assert shown is not None
    assert isinstance(x509.load_der_x509_certificate(shown).public_key(), kind)


def test_key_server_with_an_older_role_signs_only_the_certificate_with_an_ec_key():
    class Certificates:
        def sign(self, csr_pem: str, names: Sequence[str], lifetime: timedelta) -> tuple[str, str]:
            del names, lifetime
            key = x509.load_pem_x509_csr(csr_pem.encode()).public_key()
            if isinstance(key, rsa.RSAPublicKey):
                raise CsrRefused("a self-signed request with an EC key is required")
            return authority.server_leaf().pem, authority.root().pem

    made = new_identity(Certificates(), NAMES)
    assert made.with_rsa is None
    shared = SharedTlsIdentity()
    shared.put(replace(made, not_after=datetime.now(UTC) + timedelta(hours=23)))
    again = shared.get()
    assert again is not None
    assert (again.with_ec, again.with_rsa) == (made.with_ec, None)


@pytest.mark.parametrize(
    ("version", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1_2, ""),
        (ssl.TLSVersion.TLSv1_3, ""),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA256"),  # KMIP clients without AEAD
    ],
)
def test_client_with_a_chain_to_our_root_is_admitted_without_ticket(a_client: Make, version: Any, ciphers: str):
    served, asking = shake(server_context(server_identity()), a_client(version=version, ciphers=ciphers))
    assert served.getpeercert(binary_form=True)
    assert asking.session is None or not asking.session.has_ticket


@pytest.mark.parametrize(
    ("version", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1, "ALL"),
        (ssl.TLSVersion.TLSv1_1, "ALL"),
        *((ssl.TLSVersion.TLSv1_2, name) for name in ("AES128-SHA", "AES256-GCM-SHA384", "NULL-SHA256")),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA"),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_and_weak_suites_are_rejected(a_client: Make, version: Any, ciphers: str):
    client = a_client(version=version, ciphers=f"{ciphers}:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        shake(server_context(server_identity()), client)


def test_expired_foreign_or_server_leaf_is_rejected(a_client: Make):
    names = authority.service_names("beta-corp-67890", "orders")
    client_use = x509.ExtendedKeyUsageOID.CLIENT_AUTH
    for leaf, why in (
        (authority._leaf(authority.tenant_authority(ACME), "orders", names, client_use), "permitted subtree violation"),
        (authority.service_leaf(ACME, "orders", began=timedelta(hours=9), life=timedelta(hours=8)), "expired"),
        (authority.server_leaf(), "purpose|constraint|unsuitable"),
    ):
        with pytest.raises(ssl.SSLError, match=why):
            shake(server_context(server_identity()), a_client(leaf))


def test_key_loads_from_memory_in_a_hardened_unprivileged_process():
    program = """
import codecs, os
from crypto_service.server.hardening import harden
from crypto_service.server.tls import server_context
from tests.crypto_service.authority import server_identity
identity = server_identity()
server_context(identity)  # loads all modules that another user cannot read
codecs.lookup("ascii")
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
assert harden()["not_dumpable"]
server_context(identity)
print("loaded")
"""
    said = subprocess.run([sys.executable, "-c", program], check=True, timeout=60, capture_output=True, text=True)
    assert said.stdout.endswith("loaded\n")


@pytest.mark.parametrize("failure", [VaultUnavailable(), SettingsInvalid("no certificate for this name", "set it up")])
async def test_obtain_waits_for_a_key_server_that_does_not_sign(failure: OpenKcmError):
    class Certificates:
        def __init__(self) -> None:
            self.asked = 0

        def sign(self, csr_pem: str, names: Sequence[str], lifetime: timedelta) -> tuple[str, str]:
            assert "BEGIN CERTIFICATE REQUEST" in csr_pem
            assert (tuple(names), lifetime) == (NAMES, tls.LIFETIME)
            self.asked += 1
            if self.asked < 3:
                raise failure
            return authority.server_leaf().pem, authority.root().pem

    certificates, shared = Certificates(), SharedTlsIdentity()
    made = await ServerTls(certificates, NAMES, shared, Path()).obtain()
    assert made.root_pem == authority.root().pem
    assert certificates.asked == 4  # twice without success, then once for each key


def test_restarted_child_gets_the_certificate_unless_it_expires_soon():
    shared = SharedTlsIdentity()
    assert shared.get() is None
    day = replace(server_identity(), not_after=datetime.now(UTC) + timedelta(hours=23))
    pid = os.fork()
    if pid == 0:
        shared.put(day)
        os._exit(0)
    os.waitpid(pid, 0)
    assert shared.get() == day
    shared._memory[100] ^= 1  # a partial write
    assert shared.get() is None
    shared.put(replace(day, not_after=datetime.now(UTC) + timedelta(hours=7)))
    assert shared.get() is None


async def test_certificate_is_renewed_in_contexts_in_use_and_connections_continue(a_client: Make, tmp_path: Path):
    class Ours(ServerTls):
        async def obtain(self) -> ServerCertificate:
            return server_identity()

    def shown(connection: ssl.SSLObject) -> bytes | None:
        return connection.getpeercert(binary_form=True)

    ours = Ours(cast("Any", None), NAMES, SharedTlsIdentity(), tmp_path)
    context, client = ours.context(server_identity()), a_client()
    served, before = shake(context, client)
    soon = datetime.now(UTC) + timedelta(hours=7, minutes=59)
    keeping = asyncio.create_task(ours.keep(replace(server_identity(), not_after=soon)))
    await wait_until_async(lambda: shown(shake(context, client)[1]) != shown(before))
    keeping.cancel()
    before.write(b"still here")
    assert served.read(100) == b"still here"
