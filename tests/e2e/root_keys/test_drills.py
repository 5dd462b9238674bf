"""A customer stops an application in three ways; the test measures its last successful read and write.

The application uses psycopg under `openkcm run`, with a database outside the platform. At the end of each drill the
same process reads and writes again.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.connected import Service, connect
from tests.e2e.root_keys.applications import Application, running
from tests.e2e.root_keys.holders import Holders
from tests.e2e.stack import Stack

REFUSED_WITHIN_SECONDS = 30.0
"""A generous deadline; the objective is five seconds, and the benchmark `kill_switch` measures it."""
KEY_SECONDS = 120.0
"""The cache time of keys without a response; it exceeds the deadline, so that no drill passes by expiry."""
QUIET_SECONDS = 3.0


@pytest.fixture(scope="module")
def ward(stack: Stack, tenant: str, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """Return the service that the application runs as."""
    return connect(stack, tenant, "microservice", "ward", tmp_path_factory.mktemp("ward") / "kcm")


@pytest.fixture(scope="module")
def application(ward: Service, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """Yield one process for all drills."""
    with running(ward.folder, database, tmp_path_factory.mktemp("app"), key_seconds=KEY_SECONDS) as started:
        yield started


def drill(application: Application, stop: Callable[[], object], undo: Callable[[], object], says: str) -> None:
    """Stop the application, assert the reason and the deadline, undo it, and wait until the application works again."""
    application.wait_served(time.monotonic())
    began = time.monotonic()
    stop()
    try:
        done = time.monotonic()
        stopped = application.wait_stopped(began, QUIET_SECONDS)
        assert max(stopped.last_read, stopped.last_write) - done < REFUSED_WITHIN_SECONDS
        assert "column_key_unavailable" in stopped.said
        assert says in stopped.said
        assert {note[:8] for note in application.stored()} == {"okcm:c1:"}, "a value is stored in plaintext"
    finally:
        undone = time.monotonic()
        undo()
    application.wait_served(undone)


def test_locking_the_tenant_stops_the_application(stack: Stack, ward: Service, application: Application) -> None:
    tenant = ward.tenant_id
    drill(
        application,
        lambda: stack.command("tenant", "lock", tenant, "--confirm", tenant),
        lambda: stack.command("tenant", "unlock", tenant),
        "locked",
    )


def test_disconnecting_the_service_stops_the_application(stack: Stack, ward: Service, application: Application) -> None:
    drill(
        application,
        ward.disconnect,
        lambda: connect(stack, ward.tenant_id, "microservice", ward.name, ward.folder),
        "client certificate not authorized",
    )


def test_disabling_the_customers_root_key_stops_the_application(
    stack: Stack, ward: Service, application: Application, holders: Holders, tmp_path: Path
) -> None:
    holder = holders.hold("openbao")
    stack.command("root-key", "change", ward.tenant_id, *holder.words(tmp_path))
    try:
        drill(application, holder.take_away, holder.give_back, "")
    finally:
        stack.command("root-key", "change", ward.tenant_id, "--provider", "platform")
