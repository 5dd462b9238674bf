"""A real Temporal server and a worker whose activities follow a script, for the `WORKFLOWS` of a module."""

import uuid
from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from core import names as ids
from devstack.servers.temporal import TemporalServer
from tests.workflows.entities import Entity
from tests.workflows.scripted import Script


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def client(temporal: TemporalServer) -> Client:
    return await Client.connect(temporal.address, data_converter=pydantic_data_converter)


@pytest.fixture
async def region(request: pytest.FixtureRequest, client: Client, script: Script) -> AsyncIterator[str]:
    """Run the workers of a region that only this test uses."""
    name = f"eu-{uuid.uuid4().hex}-1"
    async with script.worker(client, name, request.module.WORKFLOWS):
        yield name


@pytest.fixture
def queue(region: str) -> str:
    return ids.operation_queue(region)


@pytest.fixture
async def entity(client: Client, region: str) -> Entity:
    return await Entity.start(client, region)
