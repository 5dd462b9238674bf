"""A customer holds the root key: preflight, change, disabling, enabling, and the change back to the platform's key."""

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
from tests.e2e.clients import Program, start_program
from tests.e2e.connected import rejection_code
from tests.e2e.isolation.attacker import InsiderAttacker
from tests.e2e.root_keys.holders import Holder, Holders
from tests.e2e.stack import Stack
from tests.kms.fault_proxy import answering, hanging
from vault.transit.root_keys import TransitRootKeys

PROVIDERS = ("aws-kms", "pkcs11", "openbao")
REVOKED_WITHIN_SECONDS = 30.0
"""A deadline for an effect that takes one second on an idle machine; it must be below the cache time of 60 s."""
SERVED_WITHIN_SECONDS = 15.0
"""As above; a scheduled run would remove the lock at the key server within 70 s."""


class KeyHolder:
    """A tenant of one test with a service that encrypted data before any change of the root key."""

    def __init__(self, stack: Stack, program: Program, folder: Path) -> None:
        self.stack, self.program, self.folder = stack, program, folder
        self.tenant = program.service.tenant_id

    def change(self, holder: Holder | None) -> dict[str, Any]:
        """Change the root key by the command; None changes to the platform's key."""
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
def customer(stack: Stack, program: Program, tmp_path: Path) -> KeyHolder:
    return KeyHolder(stack, program, tmp_path)


@pytest.fixture
def customer_of(
    stack: Stack, holders: Holders, provider: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[KeyHolder]:
    """Return the tenant to which the operator assigned the token, or any tenant for another provider."""
    if provider != "pkcs11":
        yield request.getfixturevalue("customer")
        return
    stack.enable(holders.hsm_tenant, "HSM Corporation")
    program = start_program(stack, holders.hsm_tenant, tmp_path)
    yield KeyHolder(stack, program, tmp_path)
    program.hang_up()


def test_a_token_of_another_tenant_is_refused_like_an_unknown_one(
    stack: Stack, holders: Holders, customer: KeyHolder
) -> None:
    words = holders.hold("pkcs11").words(customer.folder)
    unknown = [word.replace("customer", "unknown") if word == "customer" else word for word in words]
    refusals = [
        json.loads(stack.run("root-key", "preflight", customer.tenant, *tried, "--json").stdout)["problems"]
        for tried in (words, unknown)
    ]
    assert refusals[0] == refusals[1]
    assert [problem["code"] for problem in refusals[0]] == ["root_key_rejected"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_disabled_customer_key_locks_the_tenant_but_not_after_the_change_back(
    stack: Stack, holders: Holders, customer_of: KeyHolder, provider: str
) -> None:
    holder, customer = holders.hold(provider), customer_of
    assert stack.command("root-key", "preflight", customer.tenant, *holder.words(customer.folder))["problems"] == []
    assert customer.change(holder)["root_key_mode"] == provider
    assert customer.program.works()
    after = customer.shown()
    assert (after["name"], after["health"]) == (holder.place.name, "ok")

    holder.take_away()
    wait_until(customer.program.refuses_all, lambda: "requests succeed without the root key", REVOKED_WITHIN_SECONDS)
    customer.wait_locked()
    assert customer.health() == holder.taken
    wait_until(lambda: bool(stack.callback.about(customer.tenant, "locked")), lambda: "no notification")
    rejection_code(stack, "tenant", "unlock", customer.tenant)
    holder.give_back()
    customer.wait_unlocked()

    assert customer.change(None)["root_key_mode"] == "platform"
    holder.take_away()
    time.sleep(2)  # the worker checks root keys every second; it must not react
    assert customer.program.works()
    assert customer.state() == ("active", ())


def test_a_former_root_key_is_not_needed_after_a_change_to_another(
    stack: Stack, holders: Holders, customer: KeyHolder
) -> None:
    first, second = holders.hold("openbao"), holders.hold("aws-kms")
    customer.change(first)
    customer.change(second)
    first.take_away()
    time.sleep(2)  # as above
    assert customer.program.works()
    with stack.database().tenant_tx(customer.tenant) as tx:
        retired = [tx.root_keys.sealed(row.root_key_id or "") for row in tx.root_keys.changes()[1:2]]
    assert retired == [None]
    customer.change(holders.hold("openbao"))
    assert customer.program.works()


def test_expired_credentials_are_replaced_while_the_tenant_is_locked(
    stack: Stack, holders: Holders, customer: KeyHolder
) -> None:
    holder = holders.hold("openbao")
    customer.change(holder)
    holders.bao.revoke(holder.credentials)
    customer.wait_locked()
    assert customer.health() == "root_key_credentials_refused"
    renewed = replace(holder, credentials=holders.bao.token())
    assert customer.change(renewed)["root_key_mode"] == "openbao"
    customer.wait_unlocked()
    wait_until(customer.program.works, lambda: "requests fail after the unlock", SERVED_WITHIN_SECONDS)
    wait_until(lambda: bool(stack.callback.about(customer.tenant, "unlocked")), lambda: "no notification")


def test_a_key_with_a_missing_permission_is_rejected_with_the_permission_and_changes_nothing(
    stack: Stack, holders: Holders, customer: KeyHolder
) -> None:
    holder, before = holders.hold("openbao"), customer.shown()
    holders.bao.allow(("decrypt", "keys"))
    try:
        for command in ("preflight", "change"):
            done = stack.run("root-key", command, customer.tenant, *holder.words(customer.folder), "--json")
            assert done.returncode == 1, done.stdout + done.stderr
            document = json.loads(done.stdout)
            assert [problem["code"] for problem in document["problems"]] == ["root_key_denied"]
            assert "transit/encrypt/" in document["problems"][0]["hint"]
    finally:
        holders.bao.allow()
    after = customer.shown()
    assert all(after[name] == before[name] for name in ("root_key_mode", "name", "locks"))
    assert customer.program.works()


# ── faults of the provider ───────────────────────────────────────────────────────────────────────────────────────────


def _aws(status: int, kind: str) -> Callable[[Holders], AbstractContextManager[None]]:
    fault = answering(status, {"__type": kind, "message": kind}, Content_Type="application/x-amz-json-1.1")
    return lambda holders: holders.aws_proxy.spoiling(fault, only="Decrypt")


@contextmanager
def _slow(holders: Holders) -> Iterator[None]:
    with holders.bao_proxy.spoiling(hanging(5.0), only="decrypt"):
        yield


FAULTS: dict[str, tuple[str, str, Callable[[Holders], AbstractContextManager[None]]]] = {
    "denied": ("aws-kms", "root_key_denied", _aws(400, "AccessDeniedException")),
    "key swapped": ("aws-kms", "root_key_mismatch", _aws(400, "IncorrectKeyException")),
    "5xx": ("aws-kms", "root_key_server_error", _aws(500, "KMSInternalException")),
    "5 s late": ("openbao", "root_key_timeout", _slow),
}
"""Further faults are in tests/kms, where each response of a provider has its code."""
LOCKING = {"denied", "key swapped"}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_the_provider_has_a_distinct_health(holders: Holders, customer: KeyHolder, fault: str) -> None:
    """No fault causes a fallback to the platform's key: the mode stays that of the customer."""
    provider, code, spoil = FAULTS[fault]
    customer.change(holders.hold(provider))
    assert customer.program.works()
    with spoil(holders):
        wait_until(lambda: customer.health() == code, lambda: f"{customer.health()} instead of {code}")
        if fault in LOCKING:
            wait_until(lambda: customer.state()[0] == "locked", lambda: "not locked")
            wait_until(customer.program.refuses_all, lambda: "requests succeed", REVOKED_WITHIN_SECONDS)
        else:  # not a decision of the customer: services work for the grace period, and users are notified
            assert customer.state() == ("active", ())
            assert customer.program.works()
        shown = customer.shown()
        assert (shown["health"], shown["root_key_mode"]) == (code, provider)
        assert shown["health_message"]
        assert shown["health_hint"]
    wait_until(lambda: customer.health() == "ok", lambda: f"{customer.health()} after the fault")
    customer.wait_unlocked()


# ── the attack ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_operator_with_everything_but_the_customers_key_decrypts_no_service_key(
    stack: Stack, holders: Holders, customer: KeyHolder
) -> None:
    """The operator has every row, every secret file, the database administrator and each identity of the key server."""
    holder = holders.hold("aws-kms")
    customer.change(holder)
    holder.take_away()
    customer.wait_locked()
    attempts = list(_operators_attempts(stack, holders, customer.tenant))
    assert len(attempts) >= 5
    for what, attempt in attempts:
        with pytest.raises((OpenKcmError, UnicodeDecodeError)):
            pytest.fail(f"{what} decrypted a service key: {attempt()!r}")
    holder.give_back()
    customer.wait_unlocked()


def _operators_attempts(
    stack: Stack, holders: Holders, tenant: str
) -> Iterator[tuple[str, Callable[[], ServiceKey | bytes]]]:
    attacker = InsiderAttacker(stack, tenant)
    with stack.owner() as owner:
        ((root_key_id, place, stored),) = owner.execute(
            "select root_key_id, place, credentials from okcm.root_key"
            " where tenant_id = %s and credentials is not null",
            [tenant],
        ).fetchall()
        sealed = owner.execute(
            "select request_id, sealed from okcm.root_key_request where tenant_id = %s and sealed is not null", [tenant]
        ).fetchall()
    assert attacker.wraps
    # The operator can read the credentials, and the customer's server accepts them, but the key is disabled.
    credentials = Credentials.load(attacker.keys.decrypt(credentials_context(tenant, root_key_id), stored))
    assert credentials == holders.user.credentials()
    theirs = RootKeyProviders(EgressPolicy(aws_endpoint=holders.aws.url)).open(tenant, parse_place(place), credentials)

    def with_their_key(context: EncryptionContext, wrapped: bytes) -> bytes:
        return attacker.keys.decrypt(context, theirs.unwrap(context, wrapped).decode("ascii"))

    for service, version, wrapped in attacker.wraps:
        context = EncryptionContext(tenant, ids.l2_key(tenant), service, Purpose.SERVICE_KEY, str(version))
        yield f"{service}: the stored credentials", partial(with_their_key, context, wrapped)
        for role in (Role.WORKER, Role.CRYPTO):
            platform = PlatformRootKey(TransitRootKeys(stack.vault(role)), "eu-west-1")
            yield f"{service}: the platform's root key as {role}", partial(platform.unwrap, context, wrapped)
        # The complete wrap, and each part of it, as a ciphertext of the tenant key.
        for text in (wrapped, *(b"vault:v1:" + wrapped[part:] for part in range(0, len(wrapped), 64))):
            yield f"{service}: the tenant key alone", partial(attacker.keys.decrypt, context, text.decode("latin-1"))
    intake = stack.secret(INTAKE_KEY)
    for request_id, text in sealed:
        yield (
            "credentials of a request",
            lambda args=(tenant, request_id, text): decrypt_credentials([intake], *args).dump(),
        )
    with pytest.raises(RootKeyDisabled):
        theirs.unwrap(EncryptionContext(tenant, "", "", Purpose.VERIFY, ""), b"x")
