"""The addresses that the platform connects to for a customer, and the rejection of all others."""

import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from pydantic import SecretStr

from core.errors.keys import RootKeyRefused, RootKeyServerError, RootKeyUnreachable
from core.keys.root_keys import Credentials, OpenBaoKeyRef
from kms.egress_policy import EgressPolicy
from kms.providers import RootKeyProviders
from tests.contracts.root_keys import CONTEXT, INNER, TENANT
from tests.crypto_service import authority as certificates
from tests.kms.fault_proxy import FaultProxy, answering

TOKEN = Credentials(token=SecretStr("s.token"))
PRIVATE = ("10.0.0.0/8", "fd00::/8")


@pytest.mark.parametrize(
    ("address", "tls", "plain"),
    [
        ("93.184.216.34", True, False),
        ("2606:2800:220:1:248:1893:25c8:1946", True, False),
        ("127.0.0.1", False, False),
        ("::127.0.0.1", False, False),
        ("64:ff9b:1::a00:1", False, False),
        ("::1", False, False),
        ("0.0.0.0", False, False),  # noqa: S104 - no listener
        ("::", False, False),
        ("169.254.169.254", False, False),
        ("fe80::1%eth0", False, False),
        ("192.168.1.1", False, False),
        ("172.16.0.1", False, False),
        ("100.64.0.1", False, False),
        ("224.0.0.1", False, False),
        ("fec0::1", False, False),
        ("192.88.99.1", False, False),
        ("2002:c058:6301::", False, False),
        ("3fff::1", False, False),
        ("5f00::1", False, False),
        ("ff02::1", False, False),
        ("240.0.0.1", False, False),
        ("::ffff:127.0.0.1", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("::ffff:93.184.216.34", True, False),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("64:ff9b::7f00:1", False, False),
        ("2002:7f00:1::", False, False),
        ("2002:a9fe:a9fe::", False, False),
        ("fd00:ec2::254", True, True),
        ("10.1.2.3", True, True),
        ("::ffff:10.1.2.3", True, True),
    ],
)
def test_allowed_addresses(address: str, tls: bool, plain: bool) -> None:  # noqa: FBT001 - a table
    reach = EgressPolicy(networks=PRIVATE)
    assert (reach.allows(address, encrypted=True), reach.allows(address, encrypted=False)) == (tls, plain)


def open_root_key(address: str, *networks: str, ca_pem: str | None = None, timeout: float = 60) -> Any:
    place = OpenBaoKeyRef(address=address, key="root", ca_pem=ca_pem)
    return RootKeyProviders(EgressPolicy(networks=networks, timeout_seconds=timeout)).open(TENANT, place, TOKEN)


@pytest.mark.parametrize(
    ("address", "networks"),
    [
        ("http://vault.example.com", ()),
        ("https://127.0.0.1:8200", ()),
        ("https://169.254.169.254", ("10.0.0.0/8",)),
        ("https://[::1]:8200", ()),
        ("https://[::ffff:7f00:1]", ()),
        ("http://127.0.0.1", ("10.0.0.0/8",)),
    ],
    ids=str,
)
def test_forbidden_address_is_rejected_when_it_is_configured(address: str, networks: tuple[str, ...]) -> None:
    with pytest.raises(RootKeyRefused):
        open_root_key(address, *networks)


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with FaultProxy.running("http://127.0.0.1:9") as proxy:
        yield proxy


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Make the name server return these responses one after another; return the list of queried names."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, **_: object) -> list[Any]:
        asked.append(host)
        found = answers[min(len(asked), len(answers)) - 1]
        four, six = (socket.AF_INET, ()), (socket.AF_INET6, (0, 0))
        families = [(address, *(six if ":" in address else four)) for address in found]
        return [(family, socket.SOCK_STREAM, 6, "", (address, port, *more)) for address, family, more in families]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.integration
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_name_with_an_internal_address_is_not_connected_to(proxy, monkeypatch, address) -> None:
    resolving(monkeypatch, [address])
    root_key = open_root_key(f"https://vault.example.com:{proxy.port}")
    with pytest.raises(RootKeyUnreachable, match="not at an address that may be connected to"):
        root_key.wrap(CONTEXT, INNER)
    assert proxy.connections == 0


@pytest.mark.integration
def test_only_allowed_addresses_of_a_name_are_tried(proxy, monkeypatch) -> None:
    resolving(monkeypatch, ["169.254.169.254", "::1", "127.0.0.1"])
    root_key = open_root_key(f"http://vault.example.com:{proxy.port}", "127.0.0.1/32")
    with proxy.spoiling(answering(500)), pytest.raises(RootKeyServerError):
        root_key.wrap(CONTEXT, INNER)
    assert proxy.seen[0].headers["Host"] == f"vault.example.com:{proxy.port}"


@pytest.mark.integration
def test_name_is_resolved_once_and_the_verified_address_is_connected_to(proxy, monkeypatch) -> None:
    asked = resolving(monkeypatch, ["127.0.0.2"], ["127.0.0.1"])
    root_key = open_root_key(f"http://vault.example.com:{proxy.port}", "127.0.0.2/32")
    with pytest.raises(RootKeyUnreachable):
        root_key.wrap(CONTEXT, INNER)
    assert asked == ["vault.example.com"]
    with pytest.raises(RootKeyUnreachable, match="not at an address"):
        root_key.wrap(CONTEXT, INNER)
    assert proxy.connections == 0


def test_unknown_name_is_reported_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(RootKeyUnreachable, match="no address found for vault"):
        open_root_key("https://vault.invalid").wrap(CONTEXT, INNER)


def test_unresponsive_name_server_costs_no_more_than_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ended.wait(60) and [])
    with pytest.raises(RootKeyUnreachable, match="does not answer"):
        open_root_key("https://vault.example.com", timeout=0.2).wrap(CONTEXT, INNER)
    assert not ended.is_set()
    ended.set()


def authority(name: str, folder: Path) -> tuple[str, ssl.SSLContext]:
    """Return the certificate of a new CA, and the TLS context of a server with a name or address."""
    issuer = certificates._authority("an authority", None, None)
    general = x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
    leaf = certificates._leaf(issuer, name, [general], ExtendedKeyUsageOID.SERVER_AUTH)
    file = folder / f"{name}.pem"
    file.write_text(leaf.key_pem + leaf.pem, encoding="ascii")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return issuer.pem, context


@pytest.mark.integration
class TestTls:
    def test_certificate_must_contain_the_host_name_and_not_the_address(self, tmp_path, monkeypatch) -> None:
        resolving(monkeypatch, ["127.0.0.1"])
        for name, is_right in (("vault.example.com", True), ("127.0.0.1", False), ("other.example.com", False)):
            ca_pem, context = authority(name, tmp_path)
            with FaultProxy.running("http://127.0.0.1:9", context) as proxy, proxy.spoiling(answering(500)):
                root_key = open_root_key(f"https://vault.example.com:{proxy.port}", "127.0.0.0/8", ca_pem=ca_pem)
                with pytest.raises(RootKeyUnreachable) as failed:
                    root_key.wrap(CONTEXT, INNER)
            assert (type(failed.value) is RootKeyServerError) is is_right
            assert ("not trusted" in failed.value.message) is not is_right
            assert bool(proxy.seen) is is_right

    @pytest.mark.parametrize("ca_pem", [None, "other"])
    def test_untrusted_authority_is_reported(self, tmp_path: Path, ca_pem: str | None) -> None:
        _, context = authority("127.0.0.1", tmp_path)
        trusted = authority("127.0.0.1", tmp_path)[0] if ca_pem else None
        with FaultProxy.running("http://127.0.0.1:9", context) as proxy:
            (problem,) = open_root_key(f"https://127.0.0.1:{proxy.port}", "127.0.0.0/8", ca_pem=trusted).validate()
        assert type(problem) is RootKeyUnreachable
        assert "not trusted" in problem.message
        assert proxy.seen == []

    def test_server_without_tls_and_invalid_ca_certificate_are_reported(self, proxy: FaultProxy) -> None:
        (problem,) = open_root_key(f"https://127.0.0.1:{proxy.port}", "127.0.0.0/8").validate()
        assert "does not speak TLS" in problem.message
        sequence = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
        (problem,) = open_root_key("https://127.0.0.1:1", "127.0.0.0/8", ca_pem=sequence).validate()
        assert "not trusted" in problem.message
