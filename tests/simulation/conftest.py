"""The servers of a tenant's lifetime: a database with a moved clock, OpenBao, and a dedicated Temporal."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from config.secrets import Role
from config.settings import Settings
from tests.activities.conftest import bao, settings
from tests.activities.provisioning import REGION
from tests.database.fixtures import Field
from tests.e2e.receivers import CallbackReceiver
from tests.kms.opening import Opener
from tests.ports import free_ports
from tests.simulation.clocks import DatedSession, MovedClock
from tests.simulation.skipping import TimeSkippingTemporal
from tests.vault import server as openbao
from tests.vault.server import Server
from worker import wiring
from worker.bootstrap import ensure_root_keys

# Fixtures that pytest finds by their names.
__all__ = ["bao", "settings"]


@pytest.fixture
def key_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A dedicated OpenBao, because the test rotates the keys of canary and platform, whose names all tests share."""
    started = openbao.start(tmp_path_factory.mktemp("openbao"))
    yield started
    started.kill()


@pytest.fixture
def receiver() -> Iterator[CallbackReceiver]:
    with closing(CallbackReceiver()) as started:
        yield started


@pytest.fixture
def clock(field: Field) -> Iterator[MovedClock]:
    with field.administrator() as administrator:
        yield MovedClock(administrator)


@pytest.fixture
def parts(
    settings: Settings, receiver: CallbackReceiver, clock: MovedClock, key_server: Server
) -> Iterator[wiring.WorkerDependencies]:
    """The dependencies of the worker, with the moved clock."""
    changed = settings.model_copy(update={"callback_url": receiver.url, "smtp_host": None})
    built = wiring.build(changed, clock.now, DatedSession(changed, key_server.admin(), clock))
    built.keyring.open_platform_key()
    ensure_root_keys(built.root_keys, [REGION])
    with closing(built.database):
        yield built


@pytest.fixture
def opener(settings: Settings) -> Iterator[Opener]:
    with Opener(settings, wiring.open_database(settings, Role.CRYPTO)) as one:
        yield one


@pytest.fixture
def skipping_temporal(tmp_path: Path) -> Iterator[TimeSkippingTemporal]:
    started = TimeSkippingTemporal(tmp_path / "temporal", *free_ports(3), time_skipping=True)
    started.niceness = 0
    started.prepare()
    started.start()
    started.wait_ready(60)
    yield started
    started.stop()
