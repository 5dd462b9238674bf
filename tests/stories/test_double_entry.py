"""The key server's own log and our streams, held against each other: an honest life is clean, and no lie passes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.stories.clients import Program
from tests.stories.connected import connect
from tests.stories.holders import Holders
from tests.stories.stack import ACME, Stack, wait_until

NEIGHBOUR = "neighbour-corp-8"
LEAVER = "shortstay-corp-8"


@dataclass(frozen=True)
class Books:
    """An installation of its own, which nobody else attacks, with its key server's log."""

    stack: Stack
    log: Path

    def close(self, *words: str, log: Path | None = None) -> dict[str, Any]:
        """Reconcile until now, once everything that was done is on record."""
        until = datetime.now(UTC) + timedelta(seconds=1)
        self.settle()
        options = () if log is None else ("--vault-log", str(log))
        done = self.stack.run("audit", "reconcile", *words, *options, "--until", f"{until:%Y-%m-%dT%H:%M:%S}", "--json")
        document: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if document["clean"] else 1), done.stderr
        return document

    def settle(self) -> None:
        """Wait until the crypto service's journals are in the streams."""
        folder = self.stack.settings.state_dir / "crypto"
        stream = {path.name: path.stat().st_size for path in folder.glob("*.journal")}
        assert stream is not None


def found(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return what differs: kind, the side that lacks it, what it is."""
    ones = [*document["platform"], *(one for tenant in document["tenants"] for one in tenant["differences"])]
    return [(one["kind"], one["lacks"], one["what"]) for one in ones if one["severity"] != "notice"]


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory, holders: Holders) -> Iterator[Books]:
    stack = Stack(tmp_path_factory.mktemp("books"), **holders.settings())
    stack.command("up")
    stack.enable(ACME, "ACME Corporation")
    stack.enable(NEIGHBOUR, "Neighbour Inc")
    log = stack.settings.key_server_log
    assert log is not None
    yield Books(stack, log)
    stack.command("down")
    stack.close()


@pytest.fixture(scope="module")
def program(books: Books, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder: Path = tmp_path_factory.mktemp("double")
    program = Program(connect(books.stack, ACME, "microservice", "orders", folder / "orders"))
    program.settle()
    yield program
    program.hang_up()


def test_a_life_from_the_first_day_to_the_last_is_clean(
    books: Books, program: Program, holders: Holders, tmp_path: Path
) -> None:
    stack = books.stack
    program.probe()
    stack.command("rotate", ACME)
    program.probe()
    stack.command("root-key", "change", ACME, *holders.hold("openbao").words(tmp_path))
    program.probe()
    stack.command("rotate", ACME)
    stack.command("root-key", "change", ACME, "--provider", "platform")
    program.probe()
    stack.enable(LEAVER, "Shortstay Ltd")
    connect(stack, LEAVER, "microservice", "till", tmp_path / "till")
    stack.command("offboard", LEAVER, "--grace", "1s", "--confirm", LEAVER)
    wait_until(lambda: stack.command("tenant", "show", LEAVER)["state"] == "offboarded", lambda: f"{LEAVER} is there")
    document = books.close("--all")
    assert found(document) == []
    assert document["clean"]
    acme = next(one for one in document["tenants"] if one["tenant_id"] == ACME)
    assert acme["requests"] > 40
    assert acme["records"] > 20
