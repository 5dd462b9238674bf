"""Files stay complete, private and consistent when the writer is killed or the disk is full."""

import json
import os
import random
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from openkcm.contract.services import AgentProblem, ServiceKind
from openkcm.credentials.store import CredentialStore
from openkcm.errors import FolderRefused
from tests.client.agent.conftest import Field, assert_whole, field, stage
from tests.client.agent.control import SERVICE, TENANT
from tests.client.agent.full import no_room
from tests.concurrency import wait_until

__all__ = ["field", "stage"]  # fixtures that pytest finds here by their names
pytestmark = pytest.mark.integration  # processes
ROOT = Path(__file__).parents[3]


def write(folder: Path, rounds: int, number: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "tests.client.agent.writer", str(folder), str(rounds), str(number)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE)


def key_of(folder: Path) -> bytes | None:
    file = folder / "client.key"
    return file.read_bytes() if file.exists() else None


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.full)])
def test_writer_killed_before_any_file_operation_leaves_a_usable_pair(tmp_path: Path, step: int) -> None:
    folder, key = tmp_path / "kcm", None
    for number in count(1, step):
        running = write(folder, 2, number)
        out, _ = running.communicate(timeout=60)
        if folder.exists():
            assert_whole(folder)
        key = key or key_of(folder)
        assert key_of(folder) == key, "the key was replaced"
        if running.returncode == 0:
            assert out == b"done\n"
            break
        assert running.returncode == -signal.SIGKILL
    assert number > 20, "there were too few operations to be killed before"


@pytest.mark.parametrize("kills", [2, pytest.param(25, marks=pytest.mark.full)])
def test_concurrent_readers_always_see_a_matching_pair(tmp_path: Path, kills: int) -> None:
    folder = tmp_path / "kcm"
    write(folder, 1, 0).communicate(timeout=60)
    key, read = key_of(folder), 0
    for _ in range(kills):
        before = (folder / "client.pem").read_bytes()
        running = write(folder, 100_000, 0)
        wait_until(lambda before=before: (folder / "client.pem").read_bytes() != before)
        end = time.monotonic() + random.uniform(0.1, 0.5)  # noqa: S311 - any moment
        while time.monotonic() < end:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_cert_chain(folder / "client.pem", folder / "client.key")
            context.load_cert_chain(folder / "mongodb.pem")
            json.loads((folder / "csfle.json").read_text())
            read += 1
        running.kill()
        running.communicate(timeout=60)
        assert_whole(folder)
        assert key_of(folder) == key
    assert read > kills


def is_rejected_on_a_full_disk(write: Callable[[], object]) -> bool:
    """Return whether a full disk raises FolderRefused; pytest's own writes must not fail."""
    with no_room():
        try:
            write()
        except FolderRefused:
            return True
    return False


def test_full_disk_leaves_no_changed_or_partial_file(tmp_path: Path) -> None:
    folder = CredentialStore(tmp_path / "kcm", TENANT, SERVICE)
    assert is_rejected_on_a_full_disk(folder.request)
    assert list(folder.path.iterdir()) == []
    folder.write({"ca.pem": "first"})
    assert is_rejected_on_a_full_disk(lambda: folder.write({"ca.pem": "second" * 1000}))
    assert [(file.name, file.read_text()) for file in folder.path.iterdir()] == [("ca.pem", "first")]
    folder.request()


def test_agent_on_a_full_disk_continues_reports_and_recovers(field: Field) -> None:
    agent = field.enrolled(kind=ServiceKind.MONGODB)
    first = field.leaf
    renewed = field.renew()
    agent.turn()
    with capture_logs(), no_room():  # pytest would write captured logs to a file
        for _ in range(6):
            agent.turn()
            field.time.passes(31)
    assert agent.health.worst is AgentProblem.FOLDER_UNUSABLE
    assert field.leaf == first
    assert_whole(field.folder)
    assert field.stage.heartbeats.reported[-1][1].problem == "folder_unusable"
    field.go_on(agent, lambda: field.leaf == renewed, turns=30)
    assert_whole(field.folder)
    agent.turn()
    assert agent.health.worst is None


def test_read_only_folder_is_reported(field: Field) -> None:
    if os.geteuid() == 0:
        return  # root can write to any folder; the test with a full disk covers this case
    agent = field.enrolled()
    field.renew()
    field.folder.chmod(0o500)
    field.take_turns(agent, 6)
    field.folder.chmod(0o700)
    assert agent.health.worst is AgentProblem.FOLDER_UNUSABLE
