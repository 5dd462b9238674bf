"""The probe of the key server, against a real server that is active, suspended, sealed and stopped."""

from collections.abc import Iterator

import pytest

from tests.concurrency import wait_until
from tests.pausing import paused
from tests.vault.server import Server
from vault.auth.client import token_session
from vault.health import OK, KeyServerProbe

pytestmark = pytest.mark.integration
UNAVAILABLE = "vault_unavailable"


@pytest.fixture
def probe(vault: Server) -> Iterator[KeyServerProbe]:
    made = KeyServerProbe(token_session(vault.url, ""))
    made.start()
    yield made
    made.stop()


def test_probe_follows_a_server_that_is_suspended_and_resumed(vault: Server, probe: KeyServerProbe) -> None:
    wait_until(lambda: probe.state == OK, lambda: "the probe measures nothing")
    with paused(vault.process.pid):
        wait_until(lambda: probe.state == UNAVAILABLE, lambda: "a suspended server counts as healthy", seconds=10)
    wait_until(lambda: probe.state == OK, lambda: "the probe does not recover")


def test_nothing_measured_and_an_old_result_are_not_healthy(vault: Server) -> None:
    now = 0.0
    probe = KeyServerProbe(token_session(vault.url, ""), lambda: now)
    assert probe.state == UNAVAILABLE
    probe.probe()
    assert probe.state == OK
    now = 60.0
    assert probe.state == UNAVAILABLE


def test_refused_connection_is_no_health() -> None:
    probe = KeyServerProbe(token_session("http://127.0.0.1:9", ""))
    probe.probe()
    assert probe.state == UNAVAILABLE
