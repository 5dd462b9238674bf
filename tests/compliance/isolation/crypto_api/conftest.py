"""One crypto service for all these tests, with both canary tenants and a customer's tenant with two objects."""

from collections.abc import Iterator

import pytest

from activities.isolation.crypto_api_suite import CryptoApiIsolationSuite
from compliance.isolation.crypto_api.session import ProbeSession
from core.names import CANARY_TENANT_ID, MIRROR_TENANT_ID
from core.tenants.lifecycle import State
from crypto_service.interfaces import ClientIdentity
from tests.activities.conftest import unused_port
from tests.compliance.isolation.crypto_api.controls import CUSTOMERS
from tests.compliance.isolation.crypto_api.endpoints import RunningCryptoService, attacks_on, close_sessions, connected
from tests.crypto_service.core.world import REGION, Home, World
from tests.database.fixtures import Server, clone
from tests.vault.server import Server as Vault

__all__ = ["unused_port"]  # a fixture that pytest finds here by its name


@pytest.fixture(scope="module")
def world(server: Server, template: str, vault: Vault) -> Iterator[World]:
    with clone(server, template) as field:
        world = World(field, vault)
        for tenant_id in (CANARY_TENANT_ID, MIRROR_TENANT_ID):
            world.tenant(tenant_id)
        yield world


@pytest.fixture(scope="module")
def running_service(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCryptoService]:
    running = RunningCryptoService(world, tmp_path_factory.mktemp("crypto-service"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def customer(world: World, running_service: RunningCryptoService) -> Home:
    home = world.tenant()
    with ProbeSession(running_service.address, connected(home, "orders")) as side:
        made = side.create_fixtures()
    caller = ClientIdentity(home.tenant_id, "orders", home.l2_key, REGION, "0", State.ACTIVE)
    CUSTOMERS.update(dict.fromkeys((made.key, made.spare), caller))
    return home


@pytest.fixture(scope="module")
def attacks(world: World, running_service: RunningCryptoService, customer: Home) -> Iterator[CryptoApiIsolationSuite]:  # noqa: ARG001 - the attacked tenant
    made = attacks_on(world, running_service)
    yield made
    close_sessions(made._suite._sides)
