"""The operation and the process of a request in the server's audit log."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest

from core.correlation import correlation_id
from core.errors.platform import VaultRefused
from core.keys.encryption_context import EncryptionContext, Purpose
from core.names import l2_key
from tests.vault.server import Server
from vault.auth.client import VaultSession
from vault.auth.tenant_tokens import InlineTenants
from vault.transit.tenant_keys import TransitTenantKeys


@contextmanager
def doing(what: str) -> Iterator[None]:
    token = correlation_id.set(what)
    try:
        yield
    finally:
        correlation_id.reset(token)


def log_of(server: Server, path: str) -> list[dict[str, Any]]:
    """Return the requests to a path in OpenBao's audit log."""
    lines = (server.folder / "logs" / "audit.log").read_text(encoding="utf-8").splitlines()
    return [entry["request"] for entry in map(json.loads, lines) if entry["request"]["path"] == path]


def shown(request: dict[str, Any], header: str) -> list[str]:
    return list((request.get("headers") or {}).get(header, []))


def test_request_contains_the_operation_and_the_process(server: Server, worker: VaultSession) -> None:
    path = f"transit/keys/{uuid4().hex}"
    with doing("tenant/acme-corp-12345/rotate/7"):
        worker.read(path)
    assert log_of(server, path)
    for request in log_of(server, path):
        assert shown(request, "x-correlation-id") == ["tenant/acme-corp-12345/rotate/7"]
        assert shown(request, "x-openkcm-process") == ["worker"]


def test_request_without_an_operation_contains_only_the_process(server: Server, worker: VaultSession) -> None:
    path = f"transit/keys/{uuid4().hex}"
    worker.read(path)
    assert log_of(server, path)
    for request in log_of(server, path):  # also a request that the session repeats
        assert shown(request, "x-correlation-id") == []
        assert shown(request, "x-openkcm-process") == ["worker"]


def test_denied_requests_and_their_logins_contain_them_too(server: Server) -> None:
    mine, path = uuid4().hex, "sys/auth"
    with doing(mine), pytest.raises(VaultRefused):
        server.session("crypto").read(path)
    logins = log_of(server, "auth/approle/login")
    assert [mine] in [shown(request, "x-correlation-id") for request in logins]
    assert [mine] in [shown(request, "x-correlation-id") for request in log_of(server, path)]


def test_requests_of_a_tenant_session_contain_them(
    server: Server, worker: VaultSession, crypto: VaultSession, tenant: str
) -> None:
    mine = uuid4().hex
    keys = TransitTenantKeys(crypto, InlineTenants(crypto, server.identity_pem, "crypto"))
    context = EncryptionContext(tenant, l2_key(tenant), "", Purpose.VERIFY, "1")
    worker.write(f"transit/keys/{l2_key(tenant)}", {"type": "aes256-gcm96", "derived": True})
    with doing(mine):
        keys.encrypt(context, b"plain")
    [asked, *_] = log_of(server, f"transit/encrypt/{l2_key(tenant)}")
    assert shown(asked, "x-correlation-id") == [mine]
    assert shown(asked, "x-openkcm-process") == ["crypto"]


@pytest.mark.parametrize("hostile", ["a\r\nX-Vault-Token: x", "ü" * 5, "x" * 5000])
def test_no_id_adds_a_header_or_fails_the_request(server: Server, worker: VaultSession, hostile: str) -> None:
    path = f"transit/keys/{uuid4().hex}"
    with doing(hostile):
        assert worker.read(path) is None
    [said] = shown(log_of(server, path)[0], "x-correlation-id")
    assert len(said) <= 128
    assert "\n" not in said
