"""`openkcmctl audit forward`: no record is lost, the order is kept, and a batch is repeated identically."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main
from compliance.audit.forwarding.batches import Batch, Form, StateFile
from compliance.audit.forwarding.forwarder import Forwarding
from compliance.audit.forwarding.sinks import open_receiver
from core.errors.compliance import DestinationRefused, ReceiverUnavailable
from database.connection.database import Database
from openkcm.errors import CallerError, FileRefused
from tests.cli.audit.forward_stand import HttpsReceiver, Identity, SyslogReceiver, make_identity
from tests.concurrency import wait_until
from tests.core.proving import TENANT, a_stream
from tests.database.builders import a_provisioned_tenant, an_audit_event
from tests.database.fixtures import Field

TOKEN = "hunter2-must-never-be-seen"

pytestmark = pytest.mark.usefixtures("standard_logs")


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return make_identity(tmp_path)


@pytest.fixture
def stand(secrets_folder: Path, worker: Database, tmp_path: Path) -> Path:
    """A tenant with 1,200 records, more than two batches, and the operator's secrets; returns the state file."""
    a_provisioned_tenant(worker, TENANT)
    append(worker, 1200)
    assert secrets_folder.is_dir()
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    return tmp_path / "state.json"


def append(worker: Database, count: int, begin: int = 0) -> None:
    with worker.tenant_tx(TENANT) as tx:
        tx.audit.append_all([an_audit_event(f"e{begin + n}", subject=f"key {n}") for n in range(count)])


def last_of(worker: Database) -> int:
    with worker.tenant_tx(TENANT) as tx:
        head = tx.audit.head()
    assert head is not None
    return head.seq


@pytest.fixture
def forward(
    stand: Path,
    identity: Identity,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., dict[str, Any]]:
    """Run the command in this process and return its document; its output must not contain the token."""
    # Its cached loggers would keep its settings in all later tests.
    monkeypatch.setattr("cli.audit.forward.configure_logs", lambda *_: None)

    def run(to: str, *words: str, status: int = 0) -> dict[str, Any]:
        where = ("--ca", str(identity.pem), "--state", str(stand))
        assert main(["audit", "forward", TENANT, "--to", to, *where, *words, "--json"]) == status
        printed = capfd.readouterr()
        assert TOKEN not in printed.out + printed.err + caplog.text
        document: dict[str, Any] = json.loads(printed.out)
        return document

    return run


class Follower:
    """The command with --follow as a process, which can be killed at any moment."""

    def __init__(self, to: str, identity: Identity, state: Path, *words: str) -> None:
        where = ("--ca", str(identity.pem), "--state", str(state), "--follow")
        self.running = subprocess.Popen(
            [sys.executable, "-m", "cli", "audit", "forward", TENANT, "--to", to, *where, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(os.environ),
        )

    def kill(self) -> None:
        """Kill the process if it still runs and close its pipe."""
        self.running.kill()
        with self.running:
            pass

    def end(self, signum: signal.Signals) -> str:
        self.running.send_signal(signum)
        return self.running.communicate(timeout=60)[0].decode()


@pytest.fixture
def following(stand: Path, identity: Identity) -> Iterator[Callable[..., Follower]]:
    with ExitStack() as stack:

        def start(to: str, *words: str) -> Follower:
            follower = Follower(to, identity, stand, *words)
            stack.callback(follower.kill)
            return follower

        yield start


def assert_complete(numbers: list[int], last: int) -> None:
    """Assert that every number is present and that each one is the next one or restarts at an earlier batch."""
    assert set(range(1, last + 1)) <= set(numbers)
    for before, after in itertools.pairwise(numbers):
        assert after <= before + 1
    assert numbers[0] == 1


def names(worker: Database) -> list[tuple[str, str]]:
    with worker.tenant_tx(TENANT) as tx:
        records = [json.loads(one.record) for one in tx.audit.records(after=1201, limit=10_000)]
    return [(one["name"], one["outcome"]) for one in records if one["name"].startswith("audit.")]


# ── what is sent ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_https_receives_each_record_once_in_batches_with_distinct_keys(
    forward: Any, identity: Identity, stand: Path
) -> None:
    receiver = HttpsReceiver(identity)
    with receiver.running():
        first = forward(receiver.url, "--token-file", str(stand.with_name("token")))
        again = forward(receiver.url)
    assert receiver.numbers() == list(range(1, again["acknowledged"] + 1))
    assert [key for key, _ in receiver.taken][:2] == [f"{TENANT}/1-500", f"{TENANT}/501-1000"]
    assert f"Bearer {TOKEN}" in receiver.tokens
    assert first["sent"] + again["sent"] == again["acknowledged"]
    assert {"seq", "chain_hash", "record"} == receiver.taken[0][1][0].keys()


def test_syslog_over_tls_receives_messages_of_rfc_5424(forward: Any, identity: Identity) -> None:
    receiver = SyslogReceiver(identity)
    with receiver.running():
        done = forward(receiver.url, "--format", "ocsf")
    assert [one["metadata"]["sequence"] for one in receiver.records()] == list(range(1, done["acknowledged"] + 1))
    header, _, text = receiver.messages[0].partition(b"\xef\xbb\xbf")
    priority, _time, _host, app, _pid, name, _data = header.decode().strip().split(" ", 6)
    assert (priority, app) == ("<110>1", "openkcm")
    assert name == json.loads(text)["metadata"]["event_code"]


def test_syslog_without_tls_is_sent_over_loopback(forward: Any) -> None:
    receiver = SyslogReceiver(None)
    with receiver.running():
        done = forward(receiver.url)
    assert receiver.numbers() == list(range(1, done["acknowledged"] + 1))


def test_begin_and_end_of_forwarding_are_recorded(forward: Any, identity: Identity, worker: Database) -> None:
    receiver = HttpsReceiver(identity)
    with receiver.running():
        forward(receiver.url)
    assert names(worker) == [("audit.forwarding_started", "success"), ("audit.forwarding_stopped", "success")]


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_batch_without_a_response_is_sent_again_with_the_same_key(forward: Any, identity: Identity) -> None:
    receiver = HttpsReceiver(identity, lost=1, statuses=[200, 503, 429])
    with receiver.running():
        done = forward(receiver.url)
    assert [key for key, _ in receiver.taken][:2] == [f"{TENANT}/1-500"] * 2
    assert_complete(receiver.numbers(), done["acknowledged"])


def test_a_rejected_batch_ends_the_command_and_skips_no_record(forward: Any, identity: Identity) -> None:
    receiver = HttpsReceiver(identity, statuses=[200, 400, 401, 404, 302])
    with receiver.running():
        for _ in range(4):
            assert forward(receiver.url, status=1)["error"]["code"] == "forwarding_refused"
        done = forward(receiver.url)
    assert_complete(receiver.numbers(), done["acknowledged"])
    assert len(receiver.numbers()) == done["acknowledged"]


def test_a_batch_is_not_acknowledged_when_the_syslog_server_dies_in_its_middle(
    forward: Any, identity: Identity
) -> None:
    receiver = SyslogReceiver(identity, dies_after=700)
    with receiver.running():
        done = forward(receiver.url)
    assert_complete(receiver.numbers(), done["acknowledged"])
    assert len(receiver.numbers()) == done["acknowledged"] + 200  # the half of the second batch that it had


def test_no_record_is_lost_when_sender_and_receiver_are_killed_and_restarted(
    following: Any, identity: Identity, worker: Database, field: Field, stand: Path
) -> None:
    receiver = HttpsReceiver(identity)
    with receiver.running():
        killed = following(receiver.url)
        wait_until(lambda: len(receiver.taken) >= 1)
        killed.end(signal.SIGKILL)
    append(worker, 900, 5000)
    follower = following(receiver.url)  # no receiver listens yet
    wait_until(lambda: names(worker).count(("audit.forwarding_started", "success")) == 2)
    with receiver.running():
        wait_until(lambda: last_of(worker) - 5 <= max(receiver.numbers()))
    with field.server.offline(field.name):
        time.sleep(1)  # the length of the outage is not asserted
    append(worker, 700, 7000)
    with receiver.running():
        wait_until(lambda: last_of(worker) in receiver.numbers())
        follower.end(signal.SIGTERM)
        reached = json.loads(stand.read_text())["seq"]
    assert_complete(receiver.numbers(), reached)
    records = {one["seq"]: one for _, batch in receiver.taken for one in batch}
    with worker.tenant_tx(TENANT) as tx:
        stored = tx.audit.records(limit=10_000)
    assert all(records[one.seq]["record"] == one.record for one in stored if one.seq <= reached)
    assert names(worker)[-1] == ("audit.forwarding_stopped", "success")


def test_an_altered_stream_is_not_forwarded(forward: Any, identity: Identity, field: Field, worker: Database) -> None:
    receiver = HttpsReceiver(identity)
    with receiver.running():
        forward(receiver.url)
        sent = len(receiver.numbers())
        append(worker, 10, 9000)
        with field.administrator() as administrator:
            administrator.execute("alter table okcm.audit_event disable trigger append_only")
            administrator.execute(
                "update okcm.audit_event set record = replace(record, 'key 3', 'key 4') where seq > 1202"
            )
        assert forward(receiver.url, status=1)["error"]["code"] == "audit_chain_invalid"
    assert len(receiver.numbers()) == sent


def test_a_delayed_stream_is_recorded_once_until_it_has_caught_up(stand: Path, field: Field, worker: Database) -> None:
    stop, failures = threading.Event(), iter([True] * 4 + [False] + [True] * 4 + [False])

    class Failing:
        def deliver(self, batch: Batch) -> None:
            if next(failures, None) in {True, None}:
                if batch.records[0].seq > 501:
                    stop.set()
                raise ReceiverUnavailable

        def close(self) -> None:
            pass

    file = StateFile(stand)
    state = file.read(TENANT, "https://siem.example/", Form.OPENKCM)
    operator = field.open("operator")
    forwarding = Forwarding(operator, Failing(), file, state, "here", stop, lambda _: None, behind_seconds=1.0)
    forwarding.run(follow=True)
    assert [name for name, outcome in names(worker) if outcome == "failure"] == ["audit.forwarding_delayed"] * 2
    assert forwarding.state.seq == 1000


# ── rejected input ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_destinations_without_tls_or_with_a_secret_in_the_address_are_rejected() -> None:
    for to in (
        "http://127.0.0.1/x",
        "syslog+tcp://203.0.113.9:514",
        "syslog+tcp://localhost:514",
        "syslog://127.0.0.1",
        "https://pat:hunter2@siem.example/",
        "https://siem.example/?token=hunter2",
        "https://",
        "https://siem.example:99999/",
        "nonsense",
    ):
        with pytest.raises(DestinationRefused) as refused:
            open_receiver(to, None, None)
        assert "hunter2" not in refused.value.message


def test_a_malformed_token_is_rejected_and_never_quoted(tmp_path: Path) -> None:
    for content in ("", "two words", f"{TOKEN}\r\nX-Injected: yes", "ü"):
        (tmp_path / "token").write_text(content)
        with pytest.raises((FileRefused, CallerError)) as refused:
            open_receiver("https://siem.example/", tmp_path / "token", None)
        assert TOKEN not in str(refused.value)


@pytest.mark.integration
def test_a_receiver_with_an_untrusted_certificate_receives_nothing(identity: Identity, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make_identity(tmp_path / "other")
    for receiver in (HttpsReceiver(other), SyslogReceiver(other)):
        with receiver.running(), pytest.raises(ReceiverUnavailable):
            open_receiver(receiver.url, None, identity.pem).deliver(Batch(TENANT, Form.OPENKCM, a_stream(2), "here"))
        assert receiver.numbers() == []


def test_a_state_file_is_rejected_for_another_stream_or_a_second_process(
    forward: Any, following: Any, identity: Identity, stand: Path
) -> None:
    receiver, other = HttpsReceiver(identity), HttpsReceiver(identity)
    with receiver.running(), other.running():
        forward(receiver.url)
        assert forward(other.url, status=1)["error"]["code"] == "forwarding_state_refused"
        stand.write_text("{")
        assert forward(receiver.url, status=1)["error"]["code"] == "forwarding_state_refused"
        stand.unlink()
        following(receiver.url)
        wait_until(stand.exists)
        assert forward(receiver.url, status=1)["error"]["code"] == "forwarding_busy"
