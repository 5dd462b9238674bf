"""The servers of a life: a database with a clock of its own, OpenBao, and a Temporal of its own."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from activities.journal import Clock
from config.settings import Settings
from tests.activities.conftest import REGION, field, key_server, server, settings, template
from tests.activities.rotating import bao, opener
from tests.database.fixtures import Field
from tests.devstack.sharing import free_ports
from tests.lives.clocks import DatedSession, PlayedClock
from tests.lives.life import ImpatientTemporal
from tests.stories.receivers import CallbackReceiver
from tests.vault.server import Server
from vault.pki import PkiAuthorities
from vault.session import VaultCalls
from worker import wiring
from worker.bootstrap import ensure_root_keys

# Fixtures that pytest finds here by their names.
__all__ = ["bao", "field", "key_server", "opener", "server", "settings", "template"]


@pytest.fixture
def receiver() -> Iterator[CallbackReceiver]:
    with closing(CallbackReceiver()) as started:
        yield started


@pytest.fixture
def clock(field: Field) -> Iterator[PlayedClock]:
    with field.administrator() as administrator, pytest.MonkeyPatch.context() as patch:
        yield PlayedClock(administrator, patch)


@pytest.fixture
def parts(
    settings: Settings,
    receiver: CallbackReceiver,
    clock: PlayedClock,
    key_server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[wiring.Parts]:
    """What the worker is made of, by the moved clock."""

    def authorities(vault: VaultCalls, now: Clock) -> PkiAuthorities:
        return PkiAuthorities(DatedSession(vault, key_server.admin(), clock), now)

    monkeypatch.setattr(wiring, "PkiAuthorities", authorities)
    told_there = settings.model_copy(update={"callback_url": receiver.url, "smtp_host": None})
    built = wiring.build(told_there, clock.now)
    built.keyring.open_platform_key()
    ensure_root_keys(built.root_keys, [REGION])
    with closing(built.database):
        yield built


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[ImpatientTemporal]:
    started = ImpatientTemporal(tmp_path / "temporal", *free_ports(3), time_skipping=True)
    started.prepare()
    started.start()
    started.wait_ready(60)
    yield started
    started.stop()
