"""Real servers for the worker: Temporal without any of our declarations, and what the activities' tests use."""

import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from config.settings import Settings
from tests.activities.conftest import (
    key_server,
    parts,
    request_tenant,
    settings,
    tenant,
    vault_admin,
)

# Fixtures that pytest finds here by their names.
__all__ = ["key_server", "parts", "request_tenant", "settings", "tenant", "vault_admin"]


@pytest.fixture
async def temporal_client() -> AsyncIterator[Client]:
    """Connect to a Temporal server that knows nothing of OpenKCM."""
    async with await WorkflowEnvironment.start_local(
        data_converter=pydantic_data_converter,
        dev_server_existing_path=str(Path(sys.executable).with_name("temporal")),
    ) as environment:
        yield environment.client


def port_of(client: Client) -> int:
    return int(client.service_client.config.target_host.rpartition(":")[2])


def process_environment(settings: Settings) -> dict[str, str]:
    """Return the environment by which a process gets these settings."""
    fields = settings.model_dump(exclude_none=True, exclude_unset=True)
    return dict(os.environ) | {
        f"OPENKCM_{name.upper()}": json.dumps(value) if isinstance(value, tuple) else str(value)
        for name, value in fields.items()
    }
