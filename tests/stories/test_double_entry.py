"""The key server's own log and the audit streams are reconciled: honest use has no difference, every attack has one."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from compliance.reconciliation.model import SLACK
from compliance.reconciliation.vault_log import _UNDER_WAY
from config.secrets import BOUNDARY_IDENTITY, Role
from core import names as ids
from core.errors.platform import VaultRefused
from tests.concurrency import wait_until
from tests.stories.clients import Program, start_program
from tests.stories.connected import connect
from tests.stories.holders import Holders
from tests.stories.stack import ACME, Stack
from tests.stories.thief import Thief
from vault.auth.client import VaultSession, token_session
from vault.auth.tenant_tokens import TenantTokens

NEIGHBOUR = "neighbour-corp-8"
LEAVER = "shortstay-corp-8"
L2 = ids.l2_key(ACME)

Differences = Counter[tuple[str, str, str]]
"""Kind, the side that lacks it, and what it is."""


@dataclass
class Books:
    """A separate installation, which no other test attacks, with its key server's log."""

    stack: Stack
    log: Path
    program: Program
    known: Differences = field(default_factory=Differences)

    def reconcile(self, until: datetime, *words: str) -> dict[str, Any]:
        words = (*words, "--until", f"{until:%Y-%m-%dT%H:%M:%S}", "--json")
        done = self.stack.run("audit", "reconcile", *words)
        document: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if document["clean"] else 1), done.stderr
        return document

    def expect(self, right: Callable[[Differences], bool], log: Path | None = None) -> Differences:
        """Wait until the differences of ACME and the platform that are not known yet are `right`; return them.

        Until the crypto service's journal is in the streams, honest uses are among the differences.
        """
        until, found = datetime.now(UTC) + timedelta(seconds=1), Differences()

        def is_right() -> bool:
            document = self.reconcile(until, ACME, *(() if log is None else ("--vault-log", str(log))))
            ones = [*document["platform"], *(one for tenant in document["tenants"] for one in tenant["differences"])]
            every = Differences((one["kind"], one["lacks"], one["what"]) for one in ones if one["severity"] != "notice")
            found.clear()
            found.update(every - self.known)
            return right(found)

        wait_until(is_right, lambda: f"the differences are {found}")
        if log is None:
            self.known += found
        return found


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory, holders: Holders) -> Iterator[Books]:
    stack = Stack(tmp_path_factory.mktemp("books"), **holders.settings())
    stack.command("up")
    try:
        stack.enable(ACME, "ACME Corporation")
        stack.enable(NEIGHBOUR, "Neighbour Inc")
        folder = tmp_path_factory.mktemp("double")
        program = start_program(stack, ACME, folder, "orders")
        assert stack.settings.key_server_log is not None
        books = Books(stack, stack.settings.key_server_log, program)
        use_from_the_first_day_to_the_last(books, holders, folder)
        yield books
        program.hang_up()
    finally:
        stack.command("down")
        stack.close()


def use_from_the_first_day_to_the_last(books: Books, holders: Holders, folder: Path) -> None:
    """Use, rotate, change the root key, examine and offboard; the books must then agree.

    It precedes every attack of this module, because nothing is clean after one.
    """
    stack, program = books.stack, books.program
    program.probe()
    stack.command("key", "rotate", ACME)
    program.probe()
    stack.command("root-key", "change", ACME, *holders.hold("openbao").words(folder))
    program.probe()
    # What is missing beside a record is judged only when the log began long enough before it.
    begin = datetime.fromisoformat(json.loads(books.log.read_bytes().partition(b"\n")[0])["time"])
    time.sleep(max(0.0, (begin + SLACK - datetime.now(UTC)).total_seconds() + 1))
    stack.command("key", "rotate", ACME)
    stack.command("root-key", "change", ACME, "--provider", "platform")
    program.probe()
    stack.enable(LEAVER, "Shortstay Ltd")
    connect(stack, LEAVER, "microservice", "till", folder / "till")
    stack.command("tenant", "offboard", LEAVER, "--grace", "1s", "--confirm", LEAVER)
    stack.wait_for(LEAVER, "offboarded")
    assert stack.command("isolation", "check", "--all")["passed"]

    until, document = datetime.now(UTC) + timedelta(seconds=1), dict[str, Any]()

    def is_clean() -> bool:
        document.update(books.reconcile(until, "--all"))
        return bool(document["clean"])

    wait_until(is_clean, lambda: f"honest use has differences: {document}")
    assert [one for tenant in document["tenants"] for one in tenant["differences"]] == []
    assert {one["severity"] for one in document["platform"]} == {"notice"}
    acme = next(one for one in document["tenants"] if one["tenant_id"] == ACME)
    assert acme["requests"] > 40
    assert acme["records"] > 20


@contextmanager
def unchecked(books: Books) -> Iterator[None]:
    """Rename the records of boundary checks meanwhile: a refused request could otherwise be one of their attacks.

    Those attacks are differences meanwhile, and known.
    """
    renamed = "update okcm.audit_event set record = replace(record, %s, %s)"
    there, away = '"boundary.checked"', '"boundary.unheard_of"'
    known = books.known.copy()
    with books.stack.owner() as owner:
        owner.execute("alter table okcm.audit_event disable trigger append_only")
        owner.execute(renamed, [there, away])
    try:
        books.expect(lambda _: True)
        yield
    finally:
        books.known = known
        with books.stack.owner() as owner:
            owner.execute(renamed, [away, there])
            owner.execute("alter table okcm.audit_event enable trigger append_only")


def test_key_used_with_a_stolen_identity_is_reported(books: Books) -> None:
    books.program.probe()
    thief = Thief(books.stack, ACME)
    assert thief.opened()
    new = books.expect(lambda new: new.total() == len(thief.wraps))
    assert {(kind, lacks) for kind, lacks, _ in new} == {("unrecorded-use", "audit stream")}
    assert f"something was decrypted with {L2} (service-key orders 1)" in {what for _, _, what in new}


def test_keys_changed_with_the_workers_identity_are_reported(books: Books) -> None:
    stolen = books.stack.vault(Role.WORKER)
    stolen.write(f"transit/keys/{L2}/rotate")
    stolen.write(f"transit/keys/{ids.ca_key(ACME)}/rotate")
    stolen.write(f"transit/sign/{ids.ca_key(ACME)}/sha2-256", {"input": "AAAA"})
    new = books.expect(lambda new: {kind for kind, _, _ in new} == {"unrecorded-change"} and new.total() >= 3)
    shown = " ".join(what for _, _, what in new)
    assert f"{L2} was rotated, version" in shown
    assert f"{ids.ca_key(ACME)} was rotated, version" in shown
    assert f"something was signed with {ids.ca_key(ACME)}" in shown


def test_refused_request_with_another_tenants_token_is_reported(books: Books) -> None:
    tokens = TenantTokens(books.stack.vault(Role.WORKER), books.stack.secret(BOUNDARY_IDENTITY))
    tried = f"tenant:{NEIGHBOUR} tried transit/datakey/wrapped/{L2} and was refused"
    with unchecked(books):
        with pytest.raises(VaultRefused):
            tokens.session(NEIGHBOUR).write(f"transit/datakey/wrapped/{L2}", {"context": ""})
        books.expect(lambda new: [(kind, what) for kind, _, what in new.elements()] == [("foreign-token", tried)])


def test_identity_with_rights_it_gave_itself_is_reported(books: Books) -> None:
    """With the launcher's own identity, which has the most rights: there is no root token."""
    settings = books.stack.settings
    secret_id = (settings.state_dir / "openbao" / "setup-secret-id").read_text()
    setup = VaultSession(settings.vault_url, "setup", secret_id)
    policy = 'path "transit/keys/*" { capabilities = ["read"] }'
    setup.write("sys/policies/acl/openkcm-spy", {"policy": policy})
    setup.write(
        "auth/approle/role/openkcm-spy",
        {"role_id": "spy", "bind_secret_id": False, "secret_id_bound_cidrs": [], "token_policies": ["openkcm-spy"],
         "token_bound_cidrs": ["127.0.0.1/32"]},
    )  # fmt: skip
    answer = token_session(settings.vault_url, "").request("POST", "auth/approle/login", {"role_id": "spy"})
    assert token_session(settings.vault_url, answer["auth"]["client_token"]).read(f"transit/keys/{L2}")
    wanted = {
        ("administration", "sys/policies/acl/openkcm-spy was administered by setup, for whom it is not"),
        ("administration", "auth/approle/role/openkcm-spy was administered by setup, for whom it is not"),
        ("unknown-identity", f"{L2} was read by approle openkcm-spy, for whom it is not"),
    }
    books.expect(lambda new: {(kind, what) for kind, _, what in new} == wanted)


def test_record_that_a_superuser_deleted_is_reported(books: Books) -> None:
    books.program.probe()
    with books.stack.owner() as owner:
        owner.execute("alter table okcm.audit_event disable trigger append_only")
        (record,) = owner.execute(
            "delete from okcm.audit_event where tenant_id = %s and seq = (select min(seq) from okcm.audit_event"
            " where tenant_id = %s and record like '%%key.service_key_opened%%') returning record",
            [ACME, ACME],
        ).fetchall()
        owner.execute("alter table okcm.audit_event enable trigger append_only")
    version = json.loads(record[0])["details"]["version"]
    what = f"something was decrypted with {L2} (service-key orders {version})"
    books.expect(lambda new: new == Differences([("unrecorded-use", "audit stream", what)]))


def test_lines_that_were_cut_out_of_the_log_are_reported(books: Books, tmp_path: Path) -> None:
    *_, (retirement, at) = (
        (entry["request"]["id"], datetime.fromisoformat(entry["time"]))
        for entry in map(json.loads, books.log.read_bytes().splitlines())
        if entry["type"] == "response"
        and entry["request"].get("path") == f"transit/keys/{L2}/config"
        and not entry.get("error")
    )
    # A request near the end of a log may still be under way, which is no difference.
    time.sleep(max(0.0, (at + _UNDER_WAY + timedelta(seconds=1) - datetime.now(UTC)).total_seconds()))
    books.stack.vault(Role.WORKER).read(f"transit/keys/{L2}")
    lines = books.log.read_bytes().splitlines(keepends=True)
    retired = [number for number, line in enumerate(lines) if retirement.encode() in line]
    assert len(retired) == 2
    copy = tmp_path / "audit.log"
    copy.write_bytes(b"".join(lines[: retired[1]] + lines[retired[1] + 1 :]))
    books.expect(lambda new: {kind for kind, _, _ in new} == {"request-without-response", "missing-change"}, copy)
    copy.write_bytes(b"".join(line for number, line in enumerate(lines) if number not in retired))
    new = books.expect(lambda new: [one[:2] for one in new.elements()] == [("missing-change", "key server")], copy)
    assert "key.tenant_key_versions_retired" in next(iter(new))[2]
