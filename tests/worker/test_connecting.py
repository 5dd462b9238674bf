"""A worker waits for a Temporal that has started and is not ready yet; any other refusal ends it."""

from types import SimpleNamespace

import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from core.errors.platform import TemporalUnavailable
from worker import __main__ as worker
from worker import bootstrap


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (RPCStatusCode.NOT_FOUND, TemporalUnavailable),
        (RPCStatusCode.UNAVAILABLE, TemporalUnavailable),
        (RPCStatusCode.DEADLINE_EXCEEDED, TemporalUnavailable),
        (RPCStatusCode.PERMISSION_DENIED, RPCError),
    ],
)
async def test_missing_namespace_is_retried_and_a_denial_is_not(monkeypatch, status, error):
    async def connect(**_options: object) -> object:
        return object()

    async def refuse(_client: object) -> None:
        raise RPCError("Namespace default is not found.", status, b"")

    monkeypatch.setattr(Client, "connect", connect)
    monkeypatch.setattr(bootstrap, "declare_search_attributes", refuse)
    settings = SimpleNamespace(temporal_address="127.0.0.1:7233")
    with pytest.raises(error):
        await worker._connect(settings, SimpleNamespace(converter=None), None)
