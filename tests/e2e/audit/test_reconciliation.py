"""Reconciliation of the key server's log with the audit streams finds every attack and no discrepancy otherwise."""

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
from tests.e2e.clients import Program, start_program
from tests.e2e.connected import connect
from tests.e2e.isolation.attacker import InsiderAttacker
from tests.e2e.root_keys.holders import Holders
from tests.e2e.stack import ACME, Stack
from vault.auth.client import VaultSession, token_session
from vault.auth.tenant_tokens import TenantTokens

NEIGHBOUR = "neighbour-corp-8"
LEAVER = "shortstay-corp-8"
L2 = ids.l2_key(ACME)

Discrepancies = Counter[tuple[str, str, str]]
"""Kind, the side that lacks the event, and its description."""


@dataclass
class ReconciledInstallation:
    """A separate installation that no other test attacks, with the log of its key server."""

    stack: Stack
    log: Path
    program: Program
    known: Discrepancies = field(default_factory=Discrepancies)

    def reconcile(self, until: datetime, *words: str) -> dict[str, Any]:
        words = (*words, "--until", f"{until:%Y-%m-%dT%H:%M:%S}", "--json")
        done = self.stack.run("audit", "reconcile", *words)
        document: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if document["clean"] else 1), done.stderr
        return document

    def expect(self, right: Callable[[Discrepancies], bool], log: Path | None = None) -> Discrepancies:
        """Wait until the new discrepancies of ACME and the platform are `right`; return them.

        Legitimate uses are also discrepancies until the crypto service has shipped its write-ahead log.
        """
        until, found = datetime.now(UTC) + timedelta(seconds=1), Discrepancies()

        def is_right() -> bool:
            document = self.reconcile(until, ACME, *(() if log is None else ("--vault-log", str(log))))
            ones = [*document["platform"], *(one for tenant in document["tenants"] for one in tenant["differences"])]
            every = Discrepancies(
                (one["kind"], one["lacks"], one["what"]) for one in ones if one["severity"] != "notice"
            )
            found.clear()
            found.update(every - self.known)
            return right(found)

        wait_until(is_right, lambda: f"the discrepancies are {found}")
        if log is None:
            self.known += found
        return found


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, holders: Holders) -> Iterator[ReconciledInstallation]:
    stack = Stack(tmp_path_factory.mktemp("installation"), **holders.settings())
    stack.command("up")
    try:
        stack.enable(ACME, "ACME Corporation")
        stack.enable(NEIGHBOUR, "Neighbour Inc")
        folder = tmp_path_factory.mktemp("double")
        program = start_program(stack, ACME, folder, "orders")
        [log] = stack.settings.key_server_logs
        installation = ReconciledInstallation(stack, log, program)
        use_all_features(installation, holders, folder)
        yield installation
        program.hang_up()
    finally:
        stack.command("down")
        stack.close()


def use_all_features(installation: ReconciledInstallation, holders: Holders, folder: Path) -> None:
    """Use, rotate, change the root key, check the isolation and offboard; the reconciliation must find nothing.

    Runs before every attack of this module, because each attack leaves discrepancies.
    """
    stack, program = installation.stack, installation.program
    program.probe()
    stack.command("key", "rotate", ACME)
    program.probe()
    stack.command("root-key", "change", ACME, *holders.hold("openbao").words(folder))
    program.probe()
    # A missing request is a discrepancy only if the log began long enough before the record.
    begin = datetime.fromisoformat(json.loads(installation.log.read_bytes().partition(b"\n")[0])["time"])
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
        document.update(installation.reconcile(until, "--all"))
        return bool(document["clean"])

    wait_until(is_clean, lambda: f"legitimate use has discrepancies: {document}")
    assert [one for tenant in document["tenants"] for one in tenant["differences"]] == []
    assert {one["severity"] for one in document["platform"]} == {"notice"}
    acme = next(one for one in document["tenants"] if one["tenant_id"] == ACME)
    assert acme["requests"] > 40
    assert acme["records"] > 20


@contextmanager
def isolation_checks_hidden(installation: ReconciledInstallation) -> Iterator[None]:
    """Rename the records of isolation checks during the block, so that they do not explain a rejected request.

    The attacks of the isolation checks are then discrepancies, and known ones during the block.
    """
    renamed = "update okcm.audit_event set record = replace(record, %s, %s)"
    name, unknown = '"isolation.checked"', '"isolation.unheard_of"'
    of_checks = Discrepancies()
    with installation.stack.owner() as owner:
        owner.execute("alter table okcm.audit_event disable trigger append_only")
        owner.execute(renamed, [name, unknown])
    try:
        of_checks = installation.expect(lambda _: True)
        yield
    finally:
        # What the block has added stays known: the last check explains it only if it was within its time.
        installation.known -= of_checks
        with installation.stack.owner() as owner:
            owner.execute(renamed, [unknown, name])
            owner.execute("alter table okcm.audit_event enable trigger append_only")


def test_use_of_a_key_with_a_stolen_identity_is_reported(installation: ReconciledInstallation) -> None:
    installation.program.probe()
    attacker = InsiderAttacker(installation.stack, ACME)
    assert attacker.unwrap_keys()
    new = installation.expect(lambda new: new.total() == len(attacker.wraps))
    assert {(kind, lacks) for kind, lacks, _ in new} == {("unrecorded-use", "audit stream")}
    assert f"data was decrypted with {L2} (service-key orders 1)" in {what for _, _, what in new}


def test_changes_of_keys_with_the_workers_identity_are_reported(installation: ReconciledInstallation) -> None:
    stolen_session = installation.stack.vault(Role.WORKER)
    stolen_session.write(f"transit/keys/{L2}/rotate")
    stolen_session.write(f"transit/keys/{ids.ca_key(ACME)}/rotate")
    stolen_session.write(f"transit/sign/{ids.ca_key(ACME)}/sha2-256", {"input": "AAAA"})
    new = installation.expect(lambda new: {kind for kind, _, _ in new} == {"unrecorded-change"} and new.total() >= 3)
    shown = " ".join(what for _, _, what in new)
    assert f"{L2} was rotated, version" in shown
    assert f"{ids.ca_key(ACME)} was rotated, version" in shown
    assert f"data was signed with {ids.ca_key(ACME)}" in shown


def test_a_rejected_request_with_another_tenants_token_is_reported(installation: ReconciledInstallation) -> None:
    tokens = TenantTokens(installation.stack.vault(Role.WORKER), installation.stack.secret(BOUNDARY_IDENTITY))
    rejected_request = f"request of tenant:{NEIGHBOUR} for transit/datakey/wrapped/{L2} was rejected"
    with isolation_checks_hidden(installation):
        with pytest.raises(VaultRefused):
            tokens.session(NEIGHBOUR).write(f"transit/datakey/wrapped/{L2}", {"context": ""})
        installation.expect(
            lambda new: [(kind, what) for kind, _, what in new.elements()] == [("foreign-token", rejected_request)]
        )


def test_an_identity_that_extended_its_own_rights_is_reported(installation: ReconciledInstallation) -> None:
    """Uses the identity of the launcher, which has the most rights, because no root token exists."""
    settings = installation.stack.settings
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
        ("administration", "sys/policies/acl/openkcm-spy was administered by setup, which is not authorized"),
        ("administration", "auth/approle/role/openkcm-spy was administered by setup, which is not authorized"),
        ("unknown-identity", f"{L2} was read by approle openkcm-spy, which is not authorized"),
    }
    installation.expect(lambda new: {(kind, what) for kind, _, what in new} == wanted)


def test_a_record_deleted_by_a_superuser_is_reported(installation: ReconciledInstallation) -> None:
    installation.program.probe()
    with installation.stack.owner() as owner:
        owner.execute("alter table okcm.audit_event disable trigger append_only")
        (record,) = owner.execute(
            "delete from okcm.audit_event where tenant_id = %s and seq = (select min(seq) from okcm.audit_event"
            " where tenant_id = %s and record like '%%key.service_key_unwrapped%%') returning record",
            [ACME, ACME],
        ).fetchall()
        owner.execute("alter table okcm.audit_event enable trigger append_only")
    version = json.loads(record[0])["details"]["version"]
    what = f"data was decrypted with {L2} (service-key orders {version})"
    installation.expect(lambda new: new == Discrepancies([("unrecorded-use", "audit stream", what)]))


def test_lines_removed_from_the_log_are_reported(installation: ReconciledInstallation, tmp_path: Path) -> None:
    *_, (retirement, at) = (
        (entry["request"]["id"], datetime.fromisoformat(entry["time"]))
        for entry in map(json.loads, installation.log.read_bytes().splitlines())
        if entry["type"] == "response"
        and entry["request"].get("path") == f"transit/keys/{L2}/config"
        and not entry.get("error")
    )
    # A request near the end of a log may still be running, which is not a discrepancy.
    time.sleep(max(0.0, (at + _UNDER_WAY + timedelta(seconds=1) - datetime.now(UTC)).total_seconds()))
    installation.stack.vault(Role.WORKER).read(f"transit/keys/{L2}")
    lines = installation.log.read_bytes().splitlines(keepends=True)
    retired = [number for number, line in enumerate(lines) if retirement.encode() in line]
    assert len(retired) == 2
    copy = tmp_path / "audit.log"
    copy.write_bytes(b"".join(lines[: retired[1]] + lines[retired[1] + 1 :]))
    installation.expect(
        lambda new: {kind for kind, _, _ in new} == {"request-without-response", "missing-change"}, copy
    )
    copy.write_bytes(b"".join(line for number, line in enumerate(lines) if number not in retired))
    new = installation.expect(
        lambda new: [one[:2] for one in new.elements()] == [("missing-change", "key server")], copy
    )
    assert "key.tenant_key_versions_retired" in next(iter(new))[2]
