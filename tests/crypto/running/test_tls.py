"""The service's certificate from a real key server, and what its contexts admit."""

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from crypto import tls
from crypto.tls import IdentityShelf, ServerIdentity, ServerTls, install, new_identity, server_context
from tenancy.errors import VaultUnavailable
from tests.crypto.https import authority
from tests.vault.server import Server
from vault.server_certificates import PkiServerCertificates

NAMES = ("localhost", "127.0.0.1")


@pytest.fixture
def identity(vault: Server) -> ServerIdentity:
    return new_identity(PkiServerCertificates(vault.session("crypto")), NAMES)


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Let both shake hands in memory; raises what either side raises."""
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


def a_client(root_pem: str, leaf: authority.Leaf | None = None, tmp: Any = None) -> ssl.SSLContext:
    client = ssl.create_default_context(cadata=root_pem)
    if leaf is not None:
        file = tmp / "client.pem"
        file.write_text(leaf.key_pem + leaf.pem + authority.tenant_authority("acme-corp-12345").pem, encoding="ascii")
        client.load_cert_chain(file)
    return client


def own_identity() -> ServerIdentity:
    leaf = authority.server_leaf()
    return ServerIdentity(leaf.pem, authority.root().pem, leaf.certificate.not_valid_after_utc, leaf.key_pem.encode())


def test_the_key_server_signs_our_names_and_any_tls_client_believes_it(identity: ServerIdentity):
    certificate = x509.load_pem_x509_certificate(identity.certificate_pem.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["localhost", "127.0.0.1"]
    assert identity.not_after - datetime.now(UTC) < timedelta(hours=25)
    server = server_context(identity)
    server.verify_mode = ssl.CERT_OPTIONAL  # only our own half is looked at here
    _, asking = shake(server, a_client(identity.root_pem))
    assert asking.version() == "TLSv1.3"


def test_the_private_key_is_shown_nowhere(identity: ServerIdentity):
    assert b"PRIVATE KEY" in identity.key_pem
    assert "PRIVATE" not in repr(identity)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_with_a_chain_to_our_root_is_let_in_without_a_ticket(version: ssl.TLSVersion, tmp_path: Any):
    client = a_client(authority.root().pem, authority.service_leaf("acme-corp-12345", "orders"), tmp_path)
    client.maximum_version = version
    served, asking = shake(server_context(own_identity()), client)
    assert served.getpeercert(binary_form=True)
    assert asking.session is None or not asking.session.has_ticket


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_are_refused(version: ssl.TLSVersion, tmp_path: Any):
    client = a_client(authority.root().pem, authority.service_leaf("acme-corp-12345", "orders"), tmp_path)
    client.set_ciphers("ALL:@SECLEVEL=0")
    client.minimum_version = version
    client.maximum_version = version
    with pytest.raises(ssl.SSLError):
        shake(server_context(own_identity()), client)


@pytest.mark.parametrize("cipher", ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA", "NULL-SHA256"])
def test_suites_without_forward_secrecy_or_with_sha1_are_refused(cipher: str, tmp_path: Any):
    client = a_client(authority.root().pem, authority.service_leaf("acme-corp-12345", "orders"), tmp_path)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(f"{cipher}:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        shake(server_context(own_identity()), client)


def test_a_kmip_client_that_offers_no_aead_is_served(tmp_path: Any):
    client = a_client(authority.root().pem, authority.service_leaf("acme-corp-12345", "orders"), tmp_path)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ECDHE-ECDSA-AES128-SHA256")
    served, _ = shake(server_context(own_identity()), client)
    assert served.cipher() is not None


def test_a_leaf_for_another_tenants_name_is_refused_by_the_authoritys_constraint(tmp_path: Any):
    leaf = authority.service_leaf("beta-corp-67890", "orders")
    forged = authority._leaf(
        authority.tenant_authority("acme-corp-12345"),
        "orders",
        list(leaf.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value),
        x509.ExtendedKeyUsageOID.CLIENT_AUTH,
    )
    with pytest.raises(ssl.SSLError, match="permitted subtree violation"):
        shake(server_context(own_identity()), a_client(authority.root().pem, forged, tmp_path))


def test_an_expired_leaf_and_a_server_leaf_are_refused(tmp_path: Any):
    expired = authority.service_leaf("acme-corp-12345", "orders", began=timedelta(hours=9), life=timedelta(hours=8))
    for leaf, why in ((expired, "expired"), (authority.server_leaf(), "purpose|constraint|unsuitable")):
        with pytest.raises(ssl.SSLError, match=why):
            shake(server_context(own_identity()), a_client(authority.root().pem, leaf, tmp_path))


def test_a_new_certificate_is_shown_by_the_next_handshake_and_an_open_connection_stays(tmp_path: Any):
    context = server_context(own_identity())
    client = a_client(authority.root().pem, authority.service_leaf("acme-corp-12345", "orders"), tmp_path)
    served, before = shake(context, client)
    install(context, own_identity())
    _, after = shake(context, client)
    assert before.getpeercert(binary_form=True) != after.getpeercert(binary_form=True)
    before.write(b"still here")
    assert served.read(100) == b"still here"


def test_a_key_is_loaded_from_memory_also_by_a_process_that_cannot_be_dumped_and_is_not_root():
    program = """
import codecs, os
from crypto.hygiene import harden
from crypto.tls import server_context
from tests.crypto.running.test_tls import own_identity
identity = own_identity()
server_context(identity)  # now everything is loaded that nobody else may read
codecs.lookup("ascii")
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
assert harden()["not_dumpable"]
server_context(identity)
print("loaded")
"""
    said = subprocess.run([sys.executable, "-c", program], check=True, timeout=60, capture_output=True, text=True)
    assert said.stdout.endswith("loaded\n")


async def test_a_key_server_that_is_down_is_waited_for():
    class Certificates:
        def __init__(self) -> None:
            self.asked = 0

        def sign(self, csr_pem: str, names: Sequence[str], lifetime: timedelta) -> tuple[str, str]:
            assert "BEGIN CERTIFICATE REQUEST" in csr_pem
            assert (tuple(names), lifetime) == (NAMES, tls.LIFETIME)
            self.asked += 1
            if self.asked < 3:
                raise VaultUnavailable
            return authority.server_leaf().pem, authority.root().pem

    certificates, shelf = Certificates(), IdentityShelf()
    made = await ServerTls(certificates, NAMES, shelf).obtain()
    assert made.root_pem == authority.root().pem
    assert certificates.asked == 3


def test_a_child_that_is_started_again_finds_the_certificate_and_one_that_is_nearly_over_not():
    shelf = IdentityShelf()
    assert shelf.get() is None
    day = replace(own_identity(), not_after=datetime.now(UTC) + timedelta(hours=23))
    pid = os.fork()
    if pid == 0:
        shelf.put(day)
        os._exit(0)
    os.waitpid(pid, 0)
    assert shelf.get() == day
    shelf.put(replace(day, not_after=datetime.now(UTC) + timedelta(hours=7)))
    assert shelf.get() is None


def test_a_certificate_that_is_half_written_is_none():
    shelf = IdentityShelf()
    shelf.put(replace(own_identity(), not_after=datetime.now(UTC) + timedelta(hours=23)))
    shelf._memory[100] ^= 1
    assert shelf.get() is None


async def test_the_certificate_is_renewed_before_it_ends_in_the_contexts_that_are_in_use(tmp_path: Any):
    class Certificates:
        def sign(self, *_: Any) -> tuple[str, str]:
            return authority.server_leaf().pem, authority.root().pem

    class Ours(ServerTls):
        async def obtain(self) -> ServerIdentity:
            return own_identity()

    ours = Ours(Certificates(), NAMES, IdentityShelf())
    nearly_over = ServerIdentity(
        own_identity().certificate_pem, authority.root().pem, datetime.now(UTC) + timedelta(hours=7, minutes=59), b""
    )
    first = own_identity()
    context = ours.context(first)
    client = a_client(authority.root().pem, authority.service_leaf("acme-corp-12345", "orders"), tmp_path)
    _, before = shake(context, client)
    keeping = asyncio.create_task(ours.keep(nearly_over))
    await asyncio.sleep(0.2)
    keeping.cancel()
    _, after = shake(context, client)
    assert before.getpeercert(binary_form=True) != after.getpeercert(binary_form=True)


def test_the_memory_file_is_gone_after_loading():
    server_context(own_identity())
    assert not [file for file in Path("/proc/self/fd").iterdir() if "memfd" in os.path.realpath(file)]
