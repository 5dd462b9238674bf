import itertools
from collections.abc import Callable

import pytest

from tests.vault.server import Server
from vault.auth.client import TokenSession, VaultSession
from vault.auth.tenant_tokens import TenantTokens

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server(vault: Server) -> Server:
    return vault


@pytest.fixture(scope="session")
def worker(server: Server) -> VaultSession:
    return server.session("worker")


@pytest.fixture(scope="session")
def codec(server: Server) -> VaultSession:
    return server.session("codec")


@pytest.fixture(scope="session")
def crypto(server: Server) -> VaultSession:
    return server.session("crypto")


@pytest.fixture(scope="session")
def offboarding(server: Server) -> VaultSession:
    return server.session("offboarding")


@pytest.fixture(scope="session")
def admin(server: Server) -> TokenSession:
    return server.admin()


@pytest.fixture(scope="session")
def tokens(server: Server, worker: VaultSession) -> TenantTokens:
    return TenantTokens(worker, server.identity_pem, "worker")


@pytest.fixture
def new_tenant() -> Callable[[], str]:
    """Return a tenant id that no other test uses."""
    return lambda: f"tenant-{next(_numbers)}-vault"


@pytest.fixture
def tenant(new_tenant: Callable[[], str]) -> str:
    """Return a tenant id that no other test uses and that the server does not know."""
    return new_tenant()
