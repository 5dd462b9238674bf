"""The servers of a life: a database with a clock of its own, OpenBao, and a Temporal of its own."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from config.secrets import Role
from config.settings import Settings
from tests.activities.conftest import bao, settings
from tests.activities.provisioning import REGION
from tests.database.fixtures import Field
from tests.kms.opening import Opener
from tests.lives.clocks import DatedSession, PlayedClock
from tests.lives.skipping import ImpatientTemporal
from tests.ports import free_ports
from tests.stories.receivers import CallbackReceiver
from tests.vault import server as openbao
from tests.vault.server import Server
from worker import wiring
from worker.bootstrap import ensure_root_keys

# Fixtures that pytest finds here by their names.
__all__ = ["bao", "settings"]


@pytest.fixture
def key_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An OpenBao of its own: a life rotates the keys of canary and platform, whose names all tests share."""
    started = openbao.start(tmp_path_factory.mktemp("openbao"))
    yield started
    started.kill()


@pytest.fixture
def receiver() -> Iterator[CallbackReceiver]:
    with closing(CallbackReceiver()) as started:
        yield started


@pytest.fixture
def clock(field: Field) -> Iterator[PlayedClock]:
    with field.administrator() as administrator:
        yield PlayedClock(administrator)


@pytest.fixture
def parts(
    settings: Settings, receiver: CallbackReceiver, clock: PlayedClock, key_server: Server
) -> Iterator[wiring.WorkerDependencies]:
    """What the worker is made of, by the moved clock."""
    told_there = settings.model_copy(update={"callback_url": receiver.url, "smtp_host": None})
    built = wiring.build(told_there, clock.now, DatedSession(told_there, key_server.admin(), clock))
    built.keyring.open_platform_key()
    ensure_root_keys(built.root_keys, [REGION])
    with closing(built.database):
        yield built


@pytest.fixture
def opener(settings: Settings, clock: PlayedClock) -> Iterator[Opener]:
    with Opener(settings, wiring.open_database(settings, Role.CRYPTO, clock.now)) as opened:
        yield opened


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[ImpatientTemporal]:
    started = ImpatientTemporal(tmp_path / "temporal", *free_ports(3), time_skipping=True)
    started.niceness = 0
    started.prepare()
    started.start()
    started.wait_ready(60)
    yield started
    started.stop()
