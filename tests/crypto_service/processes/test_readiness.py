"""Readiness of a serving process with a real journal and a real key server."""

import asyncio
import os
import resource
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from crypto_service.audit.wal import WriteAheadLog
from crypto_service.processes.readiness import JOURNAL, LOGIN, TENANT_LOGIN, Readiness
from database.connection.database import Database
from database.schema.version import NEWEST
from tests.database.fixtures import Field
from tests.ports import free_port
from tests.vault.server import Server
from vault.auth import tenant_tokens
from vault.auth.client import VaultSession
from vault.auth.tenant_tokens import InlineTenants

pytestmark = pytest.mark.integration


class Checks:
    """Readiness of processes with a real journal, database and key server."""

    def __init__(self, vault: Server, field: Field) -> None:
        self.vault = vault
        self.database = field.open("crypto")

    def __call__(self, folder: Path, secret: str = "", identity: str = "", url: str = "") -> Readiness:
        secret = secret or (self.vault.folder / "crypto.secret").read_text(encoding="ascii")
        session = VaultSession(url or self.vault.url, "crypto", secret)
        tenants = InlineTenants(session, identity or self.vault.identity_pem, "crypto")
        return Readiness(WriteAheadLog(folder), self.database, session, tenants.session)


@pytest.fixture
def readiness(vault: Server, field: Field) -> Checks:
    return Checks(vault, field)


def another_identity() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(*form).decode()


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_process_with_journal_and_logins_is_ready(readiness: Checks, tmp_path: Path) -> None:
    checked = readiness(tmp_path)
    await checked.check()
    assert checked.faults == ()
    assert names_in(tmp_path) == []


async def test_process_without_a_folder_for_its_journal_is_not_ready_until_it_is_back(
    readiness: Checks, tmp_path: Path
) -> None:
    folder, away = tmp_path / "journal", tmp_path / "away"
    folder.mkdir()
    checked = readiness(folder)
    folder.rename(away)
    await checked.check()
    assert checked.faults == (JOURNAL,)
    away.rename(folder)
    await checked.check()
    assert checked.faults == ()


def test_journal_on_a_full_disk_is_not_writable(tmp_path: Path) -> None:
    journal = WriteAheadLog(tmp_path)
    assert journal.is_writable()
    child = os.fork()
    if not child:
        # A smaller file than a block, as on a disk without room; SIGXFSZ is ignored by Python.
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        os._exit(int(journal.is_writable()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_journal_at_its_limit_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / f"{time.time_ns():020d}-1-aaaaaaaa.journal").write_bytes(bytes(200))
    assert not WriteAheadLog(tmp_path, limit=200).is_writable()
    assert WriteAheadLog(tmp_path, limit=201).is_writable()


async def test_refused_logins_of_the_process_and_of_tenants_are_faults(readiness: Checks, tmp_path: Path) -> None:
    for checked, fault in (
        (readiness(tmp_path, secret="0" * 64), LOGIN),
        (readiness(tmp_path, identity=another_identity()), TENANT_LOGIN),
    ):
        await checked.check()
        assert checked.faults == (fault,)


@pytest.mark.parametrize("seconds", [-120, 120])
async def test_clock_that_is_wrong_by_two_minutes_is_a_fault(
    readiness: Checks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    monkeypatch.setattr(tenant_tokens, "time", SimpleNamespace(time=lambda: time.time() + seconds))
    checked = readiness(tmp_path)
    await checked.check()
    assert checked.faults == (TENANT_LOGIN,)


async def test_key_server_that_does_not_respond_is_no_fault_of_the_process(readiness: Checks, tmp_path: Path) -> None:
    checked = readiness(tmp_path, url=f"http://127.0.0.1:{free_port()}")
    await checked.check()
    assert checked.faults == ()


async def test_unsuitable_schema_is_a_fault_until_it_is_migrated(
    readiness: Checks, field: Field, tmp_path: Path
) -> None:
    checked = readiness(tmp_path)
    with field.administrator() as administrator:
        for change, fault in (
            (f"delete from okcm.schema_migration where version = {NEWEST}", ("schema_outdated",)),
            (f"insert into okcm.schema_migration values ({NEWEST}, 'x', '')", ()),
            (f"insert into okcm.schema_migration values (9002, 'y', '', now(), {NEWEST + 1})", ("release_outdated",)),
        ):
            administrator.execute(change)
            await until_faults(checked, fault)


async def until_faults(checked: Readiness, faults: tuple[str, ...]) -> None:
    deadline = time.monotonic() + 30
    while checked.faults != faults:
        assert time.monotonic() < deadline, checked.faults
        await asyncio.sleep(0.2)
        await checked.check()


async def test_database_that_rejects_the_login_is_a_fault(readiness: Checks, field: Field, tmp_path: Path) -> None:
    keys = field.server.context_keys
    readiness.database = Database(field.url, "crypto", "wrong", keys["crypto"], max_size=1)
    checked = readiness(tmp_path)
    await checked.check()
    readiness.database.close()
    assert checked.faults == ("database_login_refused",)


async def test_database_that_does_not_respond_is_no_fault_of_the_process(
    readiness: Checks, field: Field, tmp_path: Path
) -> None:
    checked = readiness(tmp_path)
    with field.server.offline(field.name):
        await checked.check()
    assert checked.faults == ()
