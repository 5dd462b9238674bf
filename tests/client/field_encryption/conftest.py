"""A database for each test, the encryption in this process with keys in memory, and one MongoDB for all tests."""

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from devstack.servers.postgres import PostgresServer
from tests.client.field_encryption.stand import Stand
from tests.e2e.integrations.mongo import mongo_server


@pytest.fixture(scope="session")
def mongo(tmp_path_factory) -> Iterator[str]:
    with mongo_server(tmp_path_factory.mktemp("mongo")) as address:
        yield address


@pytest.fixture
def conninfo(postgres: PostgresServer) -> Iterator[str]:
    """An empty database for one test."""
    name = f"hook_{uuid4().hex}"
    with psycopg.connect(postgres.admin_conninfo, dbname="postgres", autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        yield psycopg.conninfo.make_conninfo(postgres.admin_conninfo, dbname=name)
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def stand(conninfo: str) -> Iterator[Stand]:
    stand = Stand(conninfo=conninfo)
    with stand.hooked():
        yield stand
