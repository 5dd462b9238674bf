"""First part of the floor: the OpenBao requests and SQL statements for one new tenant, and nothing else.

One keep-alive connection to OpenBao, one to PostgreSQL for each of the two roles, one call after another.
"""

import time

from config.settings import Settings
from tests.benchmarks.harness.marketplace_client import Marketplace
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.harness.statement_log import StatementLog
from tests.benchmarks.provisioning.baseline_postgres import BareDatabase, Recording
from tests.benchmarks.provisioning.baseline_vault import BareVault

_PATIENCE_SECONDS = 60


def record(stack: Stack, marketplace: Marketplace) -> Recording:
    """Let the product provision one tenant and return the messages that it sent to PostgreSQL."""
    log = StatementLog(stack)
    with log.logging():
        # The first tenant waits for the canary tenant and for connections of the pools; the second one is typical.
        for tenant_id in ("floor-before", "floor-recorded"):
            start = log.offset()
            marketplace.enable(tenant_id)
            marketplace.ready_seconds(tenant_id, _PATIENCE_SECONDS)
        recording = Recording.of(tenant_id, log.between(start, log.offset()), log.roles())
    log.close()
    return recording


class BareScript:
    def __init__(self, settings: Settings, recording: Recording) -> None:
        self._vault = BareVault(settings)
        self._database = BareDatabase(settings, recording)

    def provision(self, tenant_id: str) -> float:
        """Send the product's requests from the acceptance of the event to `active`; return the duration in seconds."""
        self._vault.refresh()
        messages = self._database.messages_for(tenant_id)
        began = time.perf_counter()
        self._database.replay(messages)
        token = self._vault.create_keys(tenant_id)
        self._vault.create_authority(tenant_id)
        self._vault.attack(tenant_id, token)
        return time.perf_counter() - began

    def close(self) -> None:
        self._vault.close()
        self._database.close()
