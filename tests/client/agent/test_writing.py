"""Killed at any moment of a write, or out of space in it: what is there is whole, private, and fits together."""

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
from tests.client.agent.conftest import Field, assert_whole
from tests.client.agent.control import SERVICE, TENANT
from tests.client.agent.full import no_room
from tests.concurrency import wait_until

pytestmark = pytest.mark.integration  # processes
ROOT = Path(__file__).parents[3]


def write(folder: Path, rounds: int, number: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "tests.client.agent.writer", str(folder), str(rounds), str(number)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE)


def key_of(folder: Path) -> bytes | None:
    file = folder / "client.key"
    return file.read_bytes() if file.exists() else None


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.full)])
def test_killed_before_each_of_its_effects_it_leaves_a_usable_pair_and_goes_on(tmp_path: Path, step: int):
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
    assert number > 20, "there was nothing to be killed in"


@pytest.mark.parametrize("kills", [2, pytest.param(25, marks=pytest.mark.full)])
def test_killed_at_any_moment_readers_meanwhile_always_have_a_pair_that_belongs_together(tmp_path: Path, kills: int):
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


def refused_without_room(write: Callable[[], object]) -> bool:
    """Return whether a full disk is refused; what pytest itself writes meanwhile must not fail."""
    with no_room():
        try:
            write()
        except FolderRefused:
            return True
    return False


def test_without_room_no_file_changes_and_nothing_is_half_there(tmp_path: Path):
    folder = CredentialStore(tmp_path / "kcm", TENANT, SERVICE)
    assert refused_without_room(folder.request)
    assert list(folder.path.iterdir()) == []
    folder.write({"ca.pem": "first"})
    assert refused_without_room(lambda: folder.write({"ca.pem": "second" * 1000}))
    assert [(file.name, file.read_text()) for file in folder.path.iterdir()] == [("ca.pem", "first")]
    folder.request()


def test_an_agent_without_room_goes_on_with_what_it_has_says_so_and_recovers(field: Field):
    agent = field.enrolled(kind=ServiceKind.MONGODB)
    first = field.leaf
    renewed = field.renew()
    agent.turn()
    with capture_logs(), no_room():  # what pytest catches goes into a file, too
        for _ in range(6):
            agent.turn()
            field.time.passes(31)
    assert agent.health.worst is AgentProblem.FOLDER_UNUSABLE
    assert field.leaf == first
    assert_whole(field.folder)
    assert field.stage.heartbeats.told[-1][1].problem == "folder_unusable"
    field.go_on(agent, lambda: field.leaf == renewed, turns=30)
    assert_whole(field.folder)
    agent.turn()
    assert agent.health.worst is None


def test_a_folder_that_became_read_only_is_reported(field: Field):
    if os.geteuid() == 0:
        return  # root writes to any folder; the run without room above is its case
    agent = field.enrolled()
    field.renew()
    field.folder.chmod(0o500)
    field.take_turns(agent, 6)
    field.folder.chmod(0o700)
    assert agent.health.worst is AgentProblem.FOLDER_UNUSABLE
