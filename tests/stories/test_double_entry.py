"""The key server's own log and our streams, held against each other: an honest life is clean, and no lie passes."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from config.secrets import BOUNDARY_IDENTITY, Role
from tenancy import ids
from tenancy.double_entry import SLACK
from tenancy.errors import VaultRefused
from tests.stories.clients import Program
from tests.stories.connected import connect
from tests.stories.holders import Holders
from tests.stories.stack import ACME, Stack, wait_until
from tests.stories.thief import Thief
from vault.session import VaultSession, token_session
from vault.tokens import TenantTokens

NEIGHBOUR = "neighbour-corp-8"
LEAVER = "shortstay-corp-8"
DELIVERED_SECONDS = 3
"""Within which the crypto service's journal is in the streams."""
L2 = ids.l2_key(ACME)

Found = set[tuple[str, str, str, str]]


@dataclass(frozen=True)
class Books:
    """An installation of its own, which nobody else attacks, with its key server's log."""

    stack: Stack
    log: Path

    def reconcile(self, *words: str, log: Path | None = None) -> dict[str, Any]:
        """Reconcile until now, once everything that was done is on record."""
        until = datetime.now(UTC) + timedelta(seconds=1)
        time.sleep(DELIVERED_SECONDS)
        options = () if log is None else ("--vault-log", str(log))
        done = self.stack.run("audit", "reconcile", *words, *options, "--until", f"{until:%Y-%m-%dT%H:%M:%S}", "--json")
        document: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if document["clean"] else 1), done.stderr
        return document

    def found(self, log: Path | None = None) -> Found:
        """Return what is wrong with ACME and the platform: kind, the side that lacks it, what it is, its reference."""
        document = self.reconcile(ACME, log=log)
        ones = [*document["platform"], *(one for tenant in document["tenants"] for one in tenant["differences"])]
        return {
            (one["kind"], one["lacks"], one["what"], one["reference"]) for one in ones if one["severity"] != "notice"
        }

    def wait_until_judged(self) -> None:
        """Wait until the log is so old that what is missing beside a record made now is told."""
        begin = datetime.fromisoformat(json.loads(self.log.read_bytes().partition(b"\n")[0])["time"])
        time.sleep(max(0.0, (begin + SLACK - datetime.now(UTC)).total_seconds() + 1))

    @contextmanager
    def attack(self) -> Iterator[Found]:
        """Give what is wrong after the block and was not before it."""
        before, new = self.found(), set[tuple[str, str, str, str]]()
        yield new
        new |= self.found() - before


@contextmanager
def unchecked(books: Books) -> Iterator[None]:
    """Let the stream be as if no boundary had been checked lately: whoever is refused may else be an attack of ours."""
    renamed = "update okcm.audit_event set record = replace(record, %s, %s)"
    there, away = '"boundary.checked"', '"boundary.unheard_of"'
    with books.stack.owner() as owner:
        owner.execute("alter table okcm.audit_event disable trigger append_only")
        owner.execute(renamed, [there, away])
    try:
        yield
    finally:
        with books.stack.owner() as owner:
            owner.execute(renamed, [away, there])
            owner.execute("alter table okcm.audit_event enable trigger append_only")


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
    books.wait_until_judged()
    stack.command("rotate", ACME)
    stack.command("root-key", "change", ACME, "--provider", "platform")
    program.probe()
    stack.enable(LEAVER, "Shortstay Ltd")
    connect(stack, LEAVER, "microservice", "till", tmp_path / "till")
    stack.command("offboard", LEAVER, "--grace", "1s", "--confirm", LEAVER)
    wait_until(lambda: stack.command("tenant", "show", LEAVER)["state"] == "offboarded", lambda: f"{LEAVER} is there")
    assert stack.command("check-boundaries", "--all")["passed"]
    document = books.reconcile("--all")
    assert [one for tenant in document["tenants"] for one in tenant["differences"]] == []
    assert {one["severity"] for one in document["platform"]} == {"notice"}
    assert document["clean"]
    acme = next(one for one in document["tenants"] if one["tenant_id"] == ACME)
    assert acme["requests"] > 40
    assert acme["records"] > 20


def test_a_person_is_told_in_words(books: Books, program: Program) -> None:
    assert program.probe()
    time.sleep(DELIVERED_SECONDS)
    done = books.stack.run("audit", "reconcile", ACME)
    assert (done.returncode, "0 differences" in done.stdout) == (0, True), done.stdout + done.stderr


# ── lies ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_key_used_with_a_stolen_identity_is_told(books: Books, program: Program) -> None:
    program.probe()
    thief = Thief(books.stack, ACME)
    with books.attack() as new:
        assert thief.opened()
    assert {(kind, lacks) for kind, lacks, _, _ in new} == {("unrecorded-use", "audit stream")}
    assert {what for _, _, what, _ in new} >= {f"something was decrypted with {L2} (service-key orders 1)"}
    assert len(new) == len(thief.wraps)


def test_keys_changed_behind_our_back_are_told(books: Books) -> None:
    stolen = books.stack.vault(Role.WORKER)
    with books.attack() as new:
        stolen.write(f"transit/keys/{L2}/rotate")
        stolen.write(f"transit/keys/{ids.ca_key(ACME)}/rotate")
        stolen.write(f"transit/sign/{ids.ca_key(ACME)}/sha2-256", {"input": "AAAA"})
    assert {kind for kind, _, _, _ in new} == {"unrecorded-change"}
    told = " ".join(what for _, _, what, _ in new)
    assert f"{L2} was rotated, version" in told
    assert f"{ids.ca_key(ACME)} was rotated, version" in told
    assert f"something was signed with {ids.ca_key(ACME)}" in told


def test_a_neighbours_token_on_our_key_is_told_though_it_was_refused(books: Books) -> None:
    tokens = TenantTokens(books.stack.vault(Role.WORKER), books.stack.secret(BOUNDARY_IDENTITY))
    with unchecked(books), books.attack() as new, pytest.raises(VaultRefused):
        tokens.session(NEIGHBOUR).write(f"transit/datakey/wrapped/{L2}", {"context": ""})
    assert [(kind, what) for kind, _, what, _ in new] == [
        ("foreign-token", f"tenant:{NEIGHBOUR} tried transit/datakey/wrapped/{L2} and was refused")
    ]


def test_whoever_gives_himself_rights_and_looks_at_a_key_is_told(books: Books) -> None:
    """With the launcher's own identity, the most there is: nobody has a root token."""
    settings = books.stack.settings
    secret_id = (settings.state_dir / "openbao" / "setup-secret-id").read_text()
    setup = VaultSession(settings.vault_url, "setup", secret_id)
    with books.attack() as new:
        policy = 'path "transit/keys/*" { capabilities = ["read"] }'
        setup.write("sys/policies/acl/openkcm-spy", {"policy": policy})
        setup.write(
            "auth/approle/role/openkcm-spy",
            {"role_id": "spy", "bind_secret_id": False, "secret_id_bound_cidrs": [], "token_policies": ["openkcm-spy"],
             "token_bound_cidrs": ["127.0.0.1/32"]},
        )  # fmt: skip
        answer = token_session(settings.vault_url, "").request("POST", "auth/approle/login", {"role_id": "spy"})
        assert token_session(settings.vault_url, answer["auth"]["client_token"]).read(f"transit/keys/{L2}")
    assert {(kind, what) for kind, _, what, _ in new} == {
        ("administration", "sys/policies/acl/openkcm-spy was administered by setup, for whom it is not"),
        ("administration", "auth/approle/role/openkcm-spy was administered by setup, for whom it is not"),
        ("unknown-identity", f"{L2} was read by approle openkcm-spy, for whom it is not"),
    }


def test_a_record_that_a_superuser_took_out_of_the_stream_is_told(books: Books, program: Program) -> None:
    program.probe()
    with books.attack() as new, books.stack.owner() as owner:
        owner.execute("alter table okcm.audit_event disable trigger append_only")
        (record,) = owner.execute(
            "delete from okcm.audit_event where tenant_id = %s and seq = (select min(seq) from okcm.audit_event"
            " where tenant_id = %s and record like '%%key.service_key_opened%%') returning record",
            [ACME, ACME],
        ).fetchall()
        owner.execute("alter table okcm.audit_event enable trigger append_only")
    version = json.loads(record[0])["details"]["version"]
    ((kind, lacks, what, _),) = new
    assert (kind, lacks) == ("unrecorded-use", "audit stream")
    assert what == f"something was decrypted with {L2} (service-key orders {version})"


def test_a_log_with_lines_cut_out_is_told_by_what_is_missing(books: Books, tmp_path: Path) -> None:
    lines = books.log.read_bytes().splitlines(keepends=True)
    before = books.found()
    *_, retirement = (
        entry["request"]["id"]
        for entry in map(json.loads, lines)
        if entry["type"] == "response"
        and entry["request"].get("path") == f"transit/keys/{L2}/config"
        and not entry.get("error")
    )
    retired = [number for number, line in enumerate(lines) if retirement.encode() in line]
    assert len(retired) == 2
    copy = tmp_path / "audit.log"
    copy.write_bytes(b"".join(lines[: retired[1]] + lines[retired[1] + 1 :]))
    new = books.found(copy) - before
    assert {kind for kind, _, _, _ in new} == {"request-without-response", "missing-change"}
    copy.write_bytes(b"".join(line for number, line in enumerate(lines) if number not in retired))
    ((kind, lacks, what, _),) = books.found(copy) - before
    assert (kind, lacks) == ("missing-change", "key server")
    assert "key.tenant_key_versions_retired" in what
