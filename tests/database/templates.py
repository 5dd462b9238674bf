"""Databases that a module fills once; each of its tests gets a clone."""

from collections.abc import Callable, Iterator

import pytest

from core.tenants.lifecycle import Transition
from tests.database.builders import a_connected_service, a_provisioned_tenant, a_root_key
from tests.database.fixtures import Field, Server, clone


def filled_template(fill: Callable[[Field], object]) -> Callable[..., object]:
    """Return the fixture `template` of a module: the migrated database with the rows that `fill` stores."""

    @pytest.fixture(scope="module", name="template")
    def filled(server: Server, template: str) -> Iterator[str]:
        with clone(server, template) as field:
            fill(field)
            field.close()  # a database with connections cannot be cloned
            yield field.name

    return filled


def two_tenants(*, active: bool = False, services: bool = True, root_keys: bool = False) -> Callable[[Field], None]:
    """Return a function that fills a database with acme and beta, each with the service orders if `services`."""

    def fill(field: Field) -> None:
        worker = field.open("worker")
        for tenant in ("acme", "beta"):
            a_provisioned_tenant(worker, tenant)
            if active:
                with worker.tenant_tx(tenant) as tx:
                    tx.tenants.move(Transition.ACTIVATE)
            if services:
                a_connected_service(field, tenant)
            if root_keys:
                a_root_key(field, tenant)

    return fill


def two_services(field: Field) -> None:
    """Fill a database with the active tenants acme and beta, each with the services orders and users."""
    two_tenants(active=True, services=False)(field)
    for tenant in ("acme", "beta"):
        for number, service in enumerate(("orders", "users")):
            a_connected_service(field, tenant, service, f"{number}a")
