"""A database for each test, without the hook in this process but where a test asks for it."""

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from devstack.postgres import PostgresServer
from tests.hooks.backfill.stage import Stage
from tests.hooks.stand import Stand


@pytest.fixture
def stage(postgres: PostgresServer) -> Iterator[Stage]:
    name = f"backfill_{uuid4().hex}"
    with psycopg.connect(postgres.admin_conninfo, dbname="postgres", autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    yield Stage(Stand(psycopg.conninfo.make_conninfo(postgres.admin_conninfo, dbname=name)))
    with psycopg.connect(postgres.admin_conninfo, dbname="postgres", autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
