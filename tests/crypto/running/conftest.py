"""A database of its own for each test, migrated, with the tenants acme and beta and a service of each."""

from pathlib import Path

import pytest

from crypto.journal import journal_folder
from tests.database.builders import a_connected_service, a_provisioned_tenant
from tests.database.fixtures import Field, field, server, template

__all__ = ["field", "server", "template"]


@pytest.fixture
def tenants(field: Field) -> Field:
    for tenant, serial in (("acme", "1a2b"), ("beta", "2b3c")):
        a_provisioned_tenant(field.open("worker", max_size=1), tenant)
        a_connected_service(field, tenant, serial=serial)
    return field


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return journal_folder(tmp_path)
