"""Applications of their own, the crypto service as a process, and the tenant acme with the service `clinic`."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from devstack.postgres import PostgresServer
from tests.crypto.core.world import World
from tests.crypto.running.conftest import service, world
from tests.crypto.running.process import Service
from tests.hooks.running.programs import MongoProgram, Program, client_folder

__all__ = ["service", "world"]


@pytest.fixture
def program(postgres: PostgresServer, world: World, service: Service, tmp_path: Path) -> Iterator[Program]:
    """What runs a program plain or under `openkcm run`, with a database of its own."""
    name = f"app_{uuid4().hex}"
    with psycopg.connect(postgres.admin_conninfo, dbname="postgres", autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    service.start("OPENKCM_CRYPTO_PROCESSES", "1")
    service.wait_ready()
    home = world.tenant()
    folder = client_folder(home, "clinic", service, tmp_path / "clinic")
    conninfo = psycopg.conninfo.make_conninfo(postgres.admin_conninfo, dbname=name)
    yield Program(conninfo, folder, tmp_path, home)
    with psycopg.connect(postgres.admin_conninfo, dbname="postgres", autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def mongo_program(mongo: str, world: World, service: Service, tmp_path: Path) -> MongoProgram:
    """The same for programs that have their data in MongoDB."""
    service.start("OPENKCM_CRYPTO_PROCESSES", "1")
    service.wait_ready()
    home = world.tenant()
    return MongoProgram(mongo, client_folder(home, "clinic", service, tmp_path / "clinic"), tmp_path, home)
