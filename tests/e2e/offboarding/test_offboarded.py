"""After an offboarding none of 10,000 attempts with everything the tenant had succeeds, and a certificate proves it.

A bystander, another tenant of the same stack, works all the time without problems.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from config.secrets import Role
from core import names as ids
from core.errors.keys import KeyUnavailable, WrongContext
from core.errors.platform import VaultRefused
from core.errors.services import ClientNotAuthorized
from core.errors.tenants import TenantOffboarded, TenantUnknown
from dashboard.auth.claims import FRESH
from tests.cli.audit.offline import verdict
from tests.concurrency import wait_until
from tests.e2e.audit.schedules import sign_to_the_end
from tests.e2e.busy import BusyService
from tests.e2e.clients import OK
from tests.e2e.connected import connect
from tests.e2e.dashboard.harness.sign_ons import cookie
from tests.e2e.isolation.attacker import InsiderAttacker
from tests.e2e.isolation.put_back import copy_rows, rows_restored
from tests.e2e.isolation.tries import AttackKind, RetainedAccess
from tests.e2e.stack import Stack
from vault.auth.client import VaultRejected
from vault.tenant_locks import TenantLocks
from vault.transit.key_destruction import TenantKeyKind, TransitDestroyer

TENANT, BYSTANDER = "departed-corp-6", "bystander-corp-6"
SERVICES = ("ledger", "billing", "archive")
NO_KEY = {KeyUnavailable.code, KeyUnavailable.message}
"""The results with restored rows: callers are known again over HTTPS and KMIP, but the key is missing."""
NOT_THAT_KEY = {KeyUnavailable.code, WrongContext.code}
REFUSALS = {
    *(
        ClientNotAuthorized.code,
        ClientNotAuthorized.message,
        KeyUnavailable.code,
        VaultRefused.code,
        VaultRejected.code,
    ),
    *("403", TenantUnknown.code, TenantOffboarded.code),
}
"""The results of all other attempts; another result fails the test and needs an analysis."""


@pytest.fixture(scope="module")
def bystander(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BusyService]:
    """A service of another tenant that works from before the offboarding until after the last attempt."""
    stack.enable(BYSTANDER, "Bystander Corp")
    busy = BusyService(
        connect(stack, BYSTANDER, "microservice", "ledger", tmp_path_factory.mktemp("bystander") / "ledger")
    )
    with busy.under_load():
        yield busy
    assert busy.problems == []


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of the export from before the offboarding."""
    return tmp_path_factory.mktemp("before") / "audit.jsonl"


@pytest.fixture(scope="module")
def retained_access(
    stack: Stack, bystander: BusyService, before: Path, tmp_path_factory: pytest.TempPathFactory
) -> RetainedAccess:
    """Everything that the tenant had before its offboarding, after a check that it works."""
    assert bystander
    stack.enable(TENANT, "Departed Corp")
    folder = tmp_path_factory.mktemp("departed")
    services = [BusyService(connect(stack, TENANT, "microservice", name, folder / name)) for name in SERVICES]
    for one in services:
        with one.under_load():
            wait_until(lambda one=one: bool(one.data_keys and one.sealed), lambda: "nothing is encrypted")
        assert one.problems == []
    stack.command("key", "rotate", TENANT, "--service", SERVICES[0])
    attacker = InsiderAttacker(stack, TENANT)
    payload = attacker.session.write(f"transit/datakey/plaintext/{ids.payload_key(TENANT)}", {"bits": 256})[
        "ciphertext"
    ]
    stale_at = datetime.now(UTC) + timedelta(seconds=30)
    cookies = cookie(stack, TENANT, iat=int((stale_at - FRESH).timestamp()))
    retained_access = RetainedAccess(stack, services, attacker, cookies, stale_at, list(attacker.inner()), payload)
    assert {one() for one in retained_access.by_cookie()} == {OK}
    copy_rows(stack, TENANT)
    sign_to_the_end(stack, TENANT)
    stack.command("audit", "export", TENANT, "--out", str(before))
    alive = retained_access.run_attempts(
        AttackKind(one.name, len(one.tries), one.tries)
        for one in attacks_with_retained_access(retained_access)
        if one.worked_before
    )
    assert {outcome for outcomes in alive.values() for outcome in outcomes} == {OK}, alive
    return retained_access


def attacks_with_retained_access(retained_access: RetainedAccess) -> list[AttackKind]:
    """Return the attacks with the retained access only."""
    return [
        AttackKind("HTTPS requests with each certificate", 3300, retained_access.over_https()),
        AttackKind("KMIP requests with each certificate", 1400, retained_access.over_kmip()),
        AttackKind("requests with each certificate that need no key", 300, retained_access.without_a_key()),
        AttackKind("handshakes, and a request on each", 300, retained_access.by_handshakes()),
        AttackKind("decryptions in Transit as the tenant", 1400, retained_access.decrypt_as_the_tenant()),
        AttackKind("encryptions in Transit as the tenant", 200, retained_access.encrypt_as_the_tenant()),
        AttackKind("decryptions of complete wraps", 300, retained_access.with_wraps()),
        AttackKind("uses of the tenant's keys as the worker", 600, retained_access.as_the_worker()),
        AttackKind("uses of the tenant's keys as others", 700, retained_access.as_others(), worked_before=False),
        AttackKind("downloads with an earlier session", 100, retained_access.by_cookie()),
        AttackKind("updates of the tenant's workflow", 150, retained_access.by_updates(), worked_before=False),
        AttackKind("events of the marketplace", 150, retained_access.by_events(), worked_before=False),
    ]


def attacks_with_restored_rows(retained_access: RetainedAccess) -> list[AttackKind]:
    """Return the attacks after a database administrator has restored every row."""
    return [
        AttackKind("HTTPS requests, rows restored", 550, retained_access.over_https()),
        AttackKind("KMIP requests, rows restored", 200, retained_access.over_kmip()),
        AttackKind("handshakes, rows restored", 50, retained_access.by_handshakes()),
    ]


def attacks_with_a_new_key(retained_access: RetainedAccess) -> list[AttackKind]:
    """Return the attacks after the worker has also created a tenant key of the same name."""
    return [
        AttackKind("HTTPS requests, rows restored and a new tenant key", 200, retained_access.over_https()),
        AttackKind(
            "decryptions in Transit as the tenant, with a new tenant key", 100, retained_access.decrypt_as_the_tenant()
        ),
    ]


@dataclass
class AttackResults:
    """The counted results by kind of attack, for each of the three phases."""

    retained: dict[str, Counter[str]] = field(default_factory=dict)
    restored_rows: dict[str, Counter[str]] = field(default_factory=dict)
    new_key: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def total(self) -> dict[str, Counter[str]]:
        return self.retained | self.restored_rows | self.new_key


@pytest.fixture(scope="module")
def attack_results(stack: Stack, retained_access: RetainedAccess) -> AttackResults:
    """Offboard the tenant at once and run all attacks."""
    stack.command("tenant", "offboard", TENANT, "--now", "--confirm", TENANT)
    stack.wait_for(TENANT, "offboarded")
    wait_until(lambda: datetime.now(UTC) > retained_access.stale_at, lambda: "the cookie can still start a session")
    found = AttackResults()
    found.retained = retained_access.run_attempts(attacks_with_retained_access(retained_access))
    # Without the second copy of the lock, which alone rejects each request: tests/production/restore attacks with it.
    TenantLocks(stack.vault()).remove(TENANT)
    with rows_restored(stack, TENANT):
        found.restored_rows = retained_access.run_attempts(attacks_with_restored_rows(retained_access))
        stack.vault().write(f"transit/keys/{ids.l2_key(TENANT)}", {"type": "aes256-gcm96", "derived": True})
        try:
            found.new_key = retained_access.run_attempts(attacks_with_a_new_key(retained_access))
        finally:
            TransitDestroyer(stack.vault(Role.OFFBOARDING), stack.vault()).destroy(TenantKeyKind.TENANT, TENANT)
    return found


def test_none_of_ten_thousand_attempts_succeeds(attack_results: AttackResults) -> None:
    assert sum(outcomes.total() for outcomes in attack_results.total.values()) == 10_000
    assert {name: outcomes[OK] for name, outcomes in attack_results.total.items() if outcomes[OK]} == {}
    for of_phase, refusals in (
        (attack_results.retained, REFUSALS),
        (attack_results.restored_rows, NO_KEY),
        (attack_results.new_key, NOT_THAT_KEY),
    ):
        assert {outcome for outcomes in of_phase.values() for outcome in outcomes} == refusals


def test_service_of_another_tenant_is_not_affected(attack_results: AttackResults, bystander: BusyService) -> None:
    assert attack_results.total
    assert bystander.problems == []
    assert bystander.decrypt_all() > 100


# ── erasure certificate ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def auditor_folder(
    stack: Stack, attack_results: AttackResults, before: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of the auditor: certificate, public key, and the exports before and after the offboarding."""
    assert attack_results.total
    auditor_folder = tmp_path_factory.mktemp("auditor")
    sign_to_the_end(stack, TENANT)
    (auditor_folder / "before.jsonl").write_bytes(before.read_bytes())
    stack.command("audit", "export", TENANT, "--out", str(auditor_folder / "after.jsonl"))
    stack.command("audit", "erasure-certificate", TENANT, "--out", str(auditor_folder / "certificate.json"))
    stack.command("audit", "public-key", "--out", str(auditor_folder / "key.pem"))
    return auditor_folder


def test_certificate_and_stream_verify_with_the_files_and_the_public_key_only(auditor_folder: Path) -> None:
    found = verdict(auditor_folder, "certificate.json", "--public-key", "key.pem", "--against", "after.jsonl")
    assert (found["intact"], found["problem"], found["signature"]) == (True, None, "verified")
    assert (found["kind"], found["tenant_id"], found["against"]["same"]) == ("erasure certificate", TENANT, 1)
    statement = json.loads(json.loads((auditor_folder / "certificate.json").read_text())["statement"])
    kinds = Counter(one["kind"] for one in statement["destroyed"])
    assert kinds == {
        "L2 tenant key": 1,
        "payload key": 1,
        "certificate authority key": 1,
        "service key": len(SERVICES) + 1,
        "service certificate": len(SERVICES),
    }
    named = json.loads((auditor_folder / "after.jsonl").read_text().splitlines()[statement["audit_seq"]])
    assert named["chain_hash"] == statement["audit_hash"]
    after = verdict(auditor_folder, "after.jsonl", "--public-key", "key.pem", "--against", "before.jsonl")
    assert (after["intact"], after["problem"], after["signature"]) == (True, None, "verified")
    assert after["against"]["only_there"] == 0
    assert after["against"]["same"] == verdict(auditor_folder, "before.jsonl")["events"]
