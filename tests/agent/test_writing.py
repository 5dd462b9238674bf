"""Killed at any moment of a write, or out of space in it: what is there is whole, private, and fits together."""

import json
import os
import random
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.folder import ServiceFolder
from tenancy.agent_errors import FolderRefused
from tenancy.agents import AgentProblem
from tenancy.services import ServiceKind
from tests.agent.conftest import Field, assert_whole
from tests.agent.control import SERVICE, TENANT
from tests.agent.full import no_room

ROOT = Path(__file__).parents[2]
_RANDOM_KILLS = 25


def write(folder: Path, rounds: int, number: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "tests.agent.writer", str(folder), str(rounds), str(number)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE)


def key_of(folder: Path) -> bytes | None:
    file = folder / "client.key"
    return file.read_bytes() if file.exists() else None


def test_killed_before_each_of_its_effects_it_leaves_a_usable_pair_and_goes_on(tmp_path: Path):
    folder, key, number = tmp_path / "kcm", None, 0
    while True:
        number += 1
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


def test_killed_at_any_moment_readers_meanwhile_always_have_a_pair_that_belongs_together(tmp_path: Path):
    folder = tmp_path / "kcm"
    write(folder, 1, 0).communicate(timeout=60)
    key, read = key_of(folder), 0
    for _ in range(_RANDOM_KILLS):
        running = write(folder, 100_000, 0)
        end = time.monotonic() + 1.0 + random.uniform(0, 0.4)  # noqa: S311 - any moment
        while time.monotonic() < end:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_cert_chain(folder / "client.pem", folder / "client.key")
            context.load_cert_chain(folder / "mongodb.pem")
            json.loads((folder / "csfle.json").read_text())
            read += 1
        running.kill()
        running.communicate(timeout=10)
        assert_whole(folder)
        assert key_of(folder) == key
    assert read > 1000


def refused_without_room(folder: ServiceFolder, files: dict[str, str]) -> None:
    refusals = []
    with no_room():
        try:
            folder.write(files)
        except FolderRefused as refused:
            refusals.append(refused)
    assert len(refusals) == 1


def test_without_room_every_file_stays_as_it_was_and_nothing_is_left(tmp_path: Path):
    folder = ServiceFolder(tmp_path / "kcm", TENANT, SERVICE)
    folder.write({"ca.pem": "first"})
    refused_without_room(folder, {"ca.pem": "second" * 1000})
    assert [(file.name, file.read_text()) for file in folder.path.iterdir()] == [("ca.pem", "first")]


def test_a_key_that_there_is_no_room_for_is_not_half_there(tmp_path: Path):
    folder = ServiceFolder(tmp_path / "kcm", TENANT, SERVICE)
    refusals = []
    with no_room():
        try:
            folder.request()
        except FolderRefused as refused:
            refusals.append(refused)
    assert len(refusals) == 1
    assert list(folder.path.iterdir()) == []
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
    for _ in range(30):
        field.time.passes(agent.turn())
        if field.leaf == renewed:
            break
    assert field.leaf == renewed
    assert_whole(field.folder)
    agent.turn()
    assert agent.health.worst is None


@pytest.mark.parametrize("mode", [0o500])
def test_a_folder_that_became_read_only_is_told_of(field: Field, mode: int):
    if os.geteuid() == 0:
        return  # for root there is no such folder; the run without room above is its case
    agent = field.enrolled()
    field.renew()
    field.folder.chmod(mode)
    for _ in range(6):
        field.time.passes(agent.turn())
    field.folder.chmod(0o700)
    assert agent.health.worst is AgentProblem.FOLDER_UNUSABLE
