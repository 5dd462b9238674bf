"""A customer holds the root key: tries it, uses it, takes it away, gives it back, and returns to the platform's."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from config.credential_encryption import decrypt_credentials
from config.secrets import INTAKE_KEY, Role
from core import names as ids
from core.errors.keys import RootKeyDisabled
from core.keys.encryption_context import EncryptionContext, Purpose
from core.keys.root_keys import Credentials, credentials_context, parse_place
from crypto_service.interfaces import ServiceKey
from kms.egress_policy import EgressPolicy
from kms.platform import PlatformRootKey
from kms.providers import RootKeyProviders
from openkcm.errors import OpenKcmError
from tests.concurrency import wait_until
from tests.kms.fault_proxy import answering, hanging
from tests.stories.clients import Program
from tests.stories.connected import refused
from tests.stories.holders import Holder, Holders
from tests.stories.stack import Stack
from tests.stories.thief import Thief
from vault.transit.root_keys import TransitRootKeys

PROVIDERS = ("aws-kms", "pkcs11", "openbao")
REVOKED_WITHIN_SECONDS = 30.0
"""A deadline for what takes a second on a quiet machine; after the cache time, 60 s, it would happen anyway."""


class KeyHolder:
    """A tenant of one test, with a service that has encrypted data before any change of the root key."""

    def __init__(self, stack: Stack, program: Program, folder: Path) -> None:
        self.stack, self.program, self.folder = stack, program, folder
        self.tenant = program.service.tenant_id

    def change(self, holder: Holder | None) -> dict[str, Any]:
        """Change the root key by the command; None: back to the platform's."""
        words = ("--provider", "platform") if holder is None else holder.words(self.folder)
        return self.stack.command("root-key", "change", self.tenant, *words)

    def shown(self) -> dict[str, Any]:
        return self.stack.command("root-key", "show", self.tenant)

    def state(self) -> tuple[str, tuple[str, ...]]:
        with self.stack.database(Role.OPERATOR).tenant_tx(self.tenant) as tx:
            row = tx.tenants.get()
        assert row is not None
        return row.state, row.locks

    def health(self) -> str:
        with self.stack.database(Role.OPERATOR).tenant_tx(self.tenant) as tx:
            key = tx.root_keys.current()
        return "" if key is None else key.health

    def wait_locked(self) -> None:
        locked = ("locked", ("root-key",))
        wait_until(lambda: self.state() == locked, lambda: f"not locked: {self.state()}")

    def wait_unlocked(self) -> None:
        wait_until(lambda: self.state() == ("active", ()), lambda: f"not unlocked: {self.state()}")
        wait_until(self.program.works, lambda: "what was encrypted before is not decrypted")


@pytest.fixture
def one(stack: Stack, program: Program, tmp_path: Path) -> KeyHolder:
    return KeyHolder(stack, program, tmp_path)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_customers_key_locks_the_tenant_while_it_is_taken_away_and_not_after_the_change_back(
    stack: Stack, holders: Holders, one: KeyHolder, provider: str
) -> None:
    holder = holders.hold(provider)
    assert stack.command("root-key", "preflight", one.tenant, *holder.words(one.folder))["problems"] == []
    assert one.change(holder)["root_key_mode"] == provider
    assert one.program.works()
    after = one.shown()
    assert (after["name"], after["health"]) == (holder.place.name, "ok")

    holder.take_away()
    wait_until(one.program.refuses_all, lambda: "requests succeed without the root key", REVOKED_WITHIN_SECONDS)
    one.wait_locked()
    assert one.health() == holder.taken
    wait_until(lambda: bool(stack.callback.about(one.tenant, "locked")), lambda: "no notification")
    refused(stack, "tenant", "unlock", one.tenant)
    holder.give_back()
    one.wait_unlocked()

    assert one.change(None)["root_key_mode"] == "platform"
    holder.take_away()
    time.sleep(2)  # the worker tries root keys every second: nothing may happen
    assert one.program.works()
    assert one.state() == ("active", ())


def test_a_former_root_key_is_not_needed_after_a_change_to_another(
    stack: Stack, holders: Holders, one: KeyHolder
) -> None:
    first, second = holders.hold("openbao"), holders.hold("aws-kms")
    one.change(first)
    one.change(second)
    first.take_away()
    time.sleep(2)  # the same
    assert one.program.works()
    with stack.database().tenant_tx(one.tenant) as tx:
        retired = [tx.root_keys.sealed(row.root_key_id or "") for row in tx.root_keys.changes()[1:2]]
    assert retired == [None]
    one.change(holders.hold("openbao"))
    assert one.program.works()


def test_expired_credentials_are_replaced_while_the_tenant_is_locked(holders: Holders, one: KeyHolder) -> None:
    holder = holders.hold("openbao")
    one.change(holder)
    holders.bao.revoke(holder.credentials)
    one.wait_locked()
    assert one.health() == "root_key_credentials_refused"
    renewed = replace(holder, credentials=holders.bao.token())
    assert one.change(renewed)["root_key_mode"] == "openbao"
    one.wait_unlocked()


def test_a_key_with_a_missing_permission_is_refused_by_its_name_and_changes_nothing(
    stack: Stack, holders: Holders, one: KeyHolder
) -> None:
    holder, before = holders.hold("openbao"), one.shown()
    holders.bao.allow(("decrypt", "keys"))
    try:
        for command in ("preflight", "change"):
            done = stack.run("root-key", command, one.tenant, *holder.words(one.folder), "--json")
            assert done.returncode == 1, done.stdout + done.stderr
            document = json.loads(done.stdout)
            assert [problem["code"] for problem in document["problems"]] == ["root_key_denied"]
            assert "transit/encrypt/" in document["problems"][0]["hint"]
    finally:
        holders.bao.allow()
    after = one.shown()
    assert all(after[name] == before[name] for name in ("root_key_mode", "name", "locks"))
    assert one.program.works()


# ── what goes wrong at the provider ──────────────────────────────────────────────────────────────────────────────────


def _aws(status: int, kind: str) -> Callable[[Holders], AbstractContextManager[None]]:
    fault = answering(status, {"__type": kind, "message": kind}, Content_Type="application/x-amz-json-1.1")
    return lambda holders: holders.aws_proxy.spoiling(fault, only="Decrypt")


@contextmanager
def _slow(holders: Holders) -> Iterator[None]:
    with holders.bao_proxy.spoiling(hanging(5.0), only="decrypt"):
        yield


FAULTS: dict[str, tuple[str, str, Callable[[Holders], AbstractContextManager[None]]]] = {
    "denied": ("aws-kms", "root_key_denied", _aws(400, "AccessDeniedException")),
    "key swapped": ("aws-kms", "root_key_swapped", _aws(400, "IncorrectKeyException")),
    "5xx": ("aws-kms", "root_key_failing", _aws(500, "KMSInternalException")),
    "5 s late": ("openbao", "root_key_slow", _slow),
}
"""Others are in tests/kms, where each answer of a provider has its code."""
LOCKING = {"denied", "key swapped"}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_at_the_provider_has_a_health_of_its_own(holders: Holders, one: KeyHolder, fault: str) -> None:
    """No fault is answered with the platform's key: the mode is the customer's before and after."""
    provider, code, spoil = FAULTS[fault]
    one.change(holders.hold(provider))
    assert one.program.works()
    with spoil(holders):
        wait_until(lambda: one.health() == code, lambda: f"{one.health()} instead of {code}")
        if fault in LOCKING:
            wait_until(lambda: one.state()[0] == "locked", lambda: "not locked")
            wait_until(one.program.refuses_all, lambda: "requests succeed", REVOKED_WITHIN_SECONDS)
        else:  # no decision of the customer: services work for the grace period, and people are notified
            assert one.state() == ("active", ())
            assert one.program.works()
        shown = one.shown()
        assert (shown["health"], shown["root_key_mode"]) == (code, provider)
        assert shown["health_message"]
        assert shown["health_hint"]
    wait_until(lambda: one.health() == "ok", lambda: f"{one.health()} after the fault")
    one.wait_unlocked()


# ── the attack ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_operator_with_everything_but_the_customers_key_decrypts_no_service_key(
    stack: Stack, holders: Holders, one: KeyHolder
) -> None:
    """Every row, every secret file, both servers: the database's administrator, each identity at the key server."""
    holder = holders.hold("aws-kms")
    one.change(holder)
    holder.take_away()
    one.wait_locked()
    attempts = list(_operators_attempts(stack, holders, one.tenant))
    assert len(attempts) >= 5
    for what, attempt in attempts:
        with pytest.raises((OpenKcmError, UnicodeDecodeError)):
            pytest.fail(f"{what} decrypted a service key: {attempt()!r}")
    holder.give_back()
    one.wait_unlocked()


def _operators_attempts(
    stack: Stack, holders: Holders, tenant: str
) -> Iterator[tuple[str, Callable[[], ServiceKey | bytes]]]:
    thief = Thief(stack, tenant)
    with stack.owner() as owner:
        ((root_key_id, place, stored),) = owner.execute(
            "select root_key_id, place, credentials from okcm.root_key"
            " where tenant_id = %s and credentials is not null",
            [tenant],
        ).fetchall()
        sealed = owner.execute(
            "select request_id, sealed from okcm.root_key_request where tenant_id = %s and sealed is not null", [tenant]
        ).fetchall()
    assert thief.wraps
    # The operator can read the credentials; the customer's server accepts them, and the key is disabled.
    credentials = Credentials.load(thief.keys.decrypt(credentials_context(tenant, root_key_id), stored))
    assert credentials == holders.user.credentials()
    theirs = RootKeyProviders(EgressPolicy(aws_endpoint=holders.aws.url)).open(tenant, parse_place(place), credentials)

    def with_their_key(context: EncryptionContext, wrapped: bytes) -> bytes:
        return thief.keys.decrypt(context, theirs.unwrap(context, wrapped).decode("ascii"))

    for service, version, wrapped in thief.wraps:
        context = EncryptionContext(tenant, ids.l2_key(tenant), service, Purpose.SERVICE_KEY, str(version))
        yield f"{service}: the stored credentials", partial(with_their_key, context, wrapped)
        for role in (Role.WORKER, Role.CRYPTO):
            platform = PlatformRootKey(TransitRootKeys(stack.vault(role)), "eu-west-1")
            yield f"{service}: the platform's root key as {role}", partial(platform.unwrap, context, wrapped)
        # All of the wrap as a ciphertext of the tenant key, and each part of it.
        for text in (wrapped, *(b"vault:v1:" + wrapped[part:] for part in range(0, len(wrapped), 64))):
            yield f"{service}: the tenant key alone", partial(thief.keys.decrypt, context, text.decode("latin-1"))
    intake = stack.secret(INTAKE_KEY)
    for request_id, text in sealed:
        yield (
            "credentials of a request",
            lambda args=(tenant, request_id, text): decrypt_credentials(intake, *args).dump(),
        )
    with pytest.raises(RootKeyDisabled):
        theirs.unwrap(EncryptionContext(tenant, "", "", Purpose.VERIFY, ""), b"x")
