"""Real servers for the worker's tests: a bare Temporal server, and the fixtures of the activities' tests."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from config.settings import Settings
from devstack.servers.temporal import TemporalServer
from tests.activities.conftest import (
    key_server,
    operator,
    parts,
    request_tenant,
    settings,
    tenant,
    vault_admin,
)
from tests.ports import free_ports

# Fixtures that pytest finds here by their names.
__all__ = ["key_server", "operator", "parts", "request_tenant", "settings", "tenant", "vault_admin"]


@pytest.fixture
def bare_temporal(tmp_path: Path) -> Iterator[TemporalServer]:
    """A Temporal server without search attributes or schedules of OpenKCM."""
    server = TemporalServer(tmp_path / "temporal", *free_ports(3), search_attributes={})
    server.niceness = 0
    server.prepare()
    server.start()
    try:
        server.wait_ready(90)
        yield server
    finally:
        server.stop()


@pytest.fixture
async def temporal_client(bare_temporal: TemporalServer) -> Client:
    return await Client.connect(bare_temporal.address, data_converter=pydantic_data_converter)


def port_of(client: Client) -> int:
    return int(client.service_client.config.target_host.rpartition(":")[2])


def process_environment(settings: Settings) -> dict[str, str]:
    """Return the environment variables for these settings."""
    fields = settings.model_dump(exclude_none=True, exclude_unset=True)
    return dict(os.environ) | {
        f"OPENKCM_{name.upper()}": json.dumps(value) if isinstance(value, tuple) else str(value)
        for name, value in fields.items()
    }
