"""I hold my own root key: I try it, use it, take it away, give it back, and go back to the platform's."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.sealing import unseal
from config.secrets import BOUNDARY_IDENTITY, INTAKE_KEY, Role
from crypto.interfaces import ServiceKey
from tenancy import ids
from tenancy.binding import Context, Purpose
from tenancy.errors import OpenKcmError, WrongContext
from tenancy.root_key_errors import RootKeyDisabled
from tenancy.root_keys import Credentials, credentials_context, parse_place
from tests.keystores.fault_proxy import answering, hanging
from tests.stories.clients import OK, Program
from tests.stories.connected import connect
from tests.stories.holders import Holder, Holders
from tests.stories.stack import Stack, wait_until

TENANT = "keyholder-corp-5"
PROVIDERS = ("aws-kms", "pkcs11", "openbao")
REVOKED_WITHIN_SECONDS = 5.0


@pytest.fixture(scope="module")
def program(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A service of a tenant, with data of before any change."""
    stack.enable(TENANT, "Keyholder Corp")
    folder = tmp_path_factory.mktemp("keyholder")
    program = Program(connect(stack, TENANT, "microservice", "ledger", folder / "ledger"))
    program.settle()
    yield program
    program.hang_up()


@pytest.fixture
def change(stack: Stack, tmp_path: Path) -> Callable[[Holder | None], dict[str, Any]]:
    """Return what changes the root key by the command; None: back to the platform's."""

    def changed(holder: Holder | None) -> dict[str, Any]:
        words = ("--provider", "platform") if holder is None else holder.words(tmp_path)
        return stack.command("root-key", "change", TENANT, *words)

    return changed


def shown(stack: Stack) -> dict[str, Any]:
    return stack.command("root-key", "show", TENANT)


def standing(stack: Stack) -> tuple[str, tuple[str, ...]]:
    with stack.database(Role.OPERATOR).tenant_tx(TENANT) as tx:
        row = tx.tenants.get()
    assert row is not None
    return row.state, row.locks


def health(stack: Stack) -> str:
    with stack.database(Role.OPERATOR).tenant_tx(TENANT) as tx:
        key = tx.root_keys.current()
    return "" if key is None else key.health


def works(program: Program) -> bool:
    return set(program.probe().values()) == {OK}


def refuses_all(program: Program) -> bool:
    try:
        return OK not in program.probe().values()
    except (ConnectionError, EOFError, OSError):
        return False


@pytest.mark.parametrize("provider", PROVIDERS)
def test_i_bring_my_key_take_it_away_give_it_back_and_leave_it_again(  # noqa: PLR0917 - the scene
    stack: Stack, holders: Holders, program: Program, change: Any, tmp_path: Path, provider: str
) -> None:
    holder = holders.hold(provider)
    assert stack.command("root-key", "preflight", TENANT, *holder.words(tmp_path))["problems"] == []
    assert change(holder)["root_key_mode"] == provider
    assert works(program)
    after = shown(stack)
    assert (after["name"], after["health"]) == (holder.place.name, "ok")

    began = time.monotonic()
    holder.take_away()
    wait_until(lambda: refuses_all(program), lambda: "what was open stays open", REVOKED_WITHIN_SECONDS)
    wait_until(lambda: standing(stack) == ("locked", ("root-key",)), lambda: f"not locked: {standing(stack)}", 5)
    assert time.monotonic() - began < 2 * REVOKED_WITHIN_SECONDS
    assert health(stack) == holder.taken
    wait_until(lambda: bool(stack.callback.about(TENANT, "locked")), lambda: "nobody was told")
    refused = stack.run("tenant", "unlock", TENANT, "--json")
    assert refused.returncode == 1, refused.stdout

    holder.give_back()
    wait_until(lambda: standing(stack) == ("active", ()), lambda: "it does not unlock by itself")
    wait_until(lambda: works(program), lambda: "what was encrypted before does not open")

    assert change(None)["root_key_mode"] == "platform"
    holder.take_away()
    time.sleep(2)
    assert works(program)
    assert standing(stack) == ("active", ())


def test_i_change_between_keys_and_the_former_one_is_worth_nothing(
    stack: Stack, holders: Holders, program: Program, change: Any
) -> None:
    first, second = holders.hold("openbao"), holders.hold("aws-kms")
    change(first)
    change(second)
    first.take_away()
    time.sleep(2)
    assert works(program)
    with stack.database().tenant_tx(TENANT) as tx:
        retired = [tx.root_keys.sealed(row.root_key_id or "") for row in tx.root_keys.changes()[1:2]]
    assert retired == [None]
    third = holders.hold("openbao")
    change(third)
    assert works(program)
    change(None)


def test_credentials_that_ended_are_given_anew_while_the_tenant_is_locked(
    stack: Stack, holders: Holders, program: Program, change: Any
) -> None:
    holder = holders.hold("openbao")
    change(holder)
    holders.bao.revoke(holder.credentials)
    wait_until(lambda: standing(stack) == ("locked", ("root-key",)), lambda: f"not locked: {standing(stack)}")
    assert health(stack) == "root_key_credentials_refused"
    renewed = replace(holder, credentials=holders.bao.token())
    assert change(renewed)["root_key_mode"] == "openbao"
    wait_until(lambda: standing(stack) == ("active", ()), lambda: "it does not unlock")
    wait_until(lambda: works(program), lambda: "what was encrypted before does not open")
    change(None)


def test_a_key_that_cannot_do_it_is_refused_with_what_is_missing_and_changes_nothing(
    stack: Stack, holders: Holders, program: Program, tmp_path: Path
) -> None:
    before = shown(stack)
    holder = holders.hold("openbao")
    holders.bao.allow(("decrypt", "keys"))
    try:
        for command in ("preflight", "change"):
            done = stack.run("root-key", command, TENANT, *holder.words(tmp_path), "--json")
            assert done.returncode == 1, done.stdout + done.stderr
            document = json.loads(done.stdout)
            assert [problem["code"] for problem in document["problems"]] == ["root_key_denied"]
            assert "transit/encrypt/" in document["problems"][0]["hint"]
    finally:
        holders.bao.allow()
    after = shown(stack)
    assert [after[what] for what in ("root_key_mode", "name", "locks")] == [
        before[what] for what in ("root_key_mode", "name", "locks")
    ]
    assert works(program)


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
    "throttled": ("aws-kms", "root_key_throttled", _aws(400, "ThrottlingException")),
    "5 s late": ("openbao", "root_key_slow", _slow),
    "5xx": ("aws-kms", "root_key_failing", _aws(500, "KMSInternalException")),
    "wrong context": ("aws-kms", "root_key_swapped", _aws(400, "InvalidCiphertextException")),
    "clock skew": ("aws-kms", "root_key_clock_skew", _aws(400, "RequestExpired")),
    "key swapped": ("aws-kms", "root_key_swapped", _aws(400, "IncorrectKeyException")),
}
LOCKING = {"denied", "wrong context", "key swapped"}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_at_the_provider_has_a_state_of_its_own(
    stack: Stack, holders: Holders, program: Program, change: Any, fault: str
) -> None:
    """No fault is answered with the platform's key: the rows say which key they lie under, before and after."""
    provider, code, spoil = FAULTS[fault]
    change(holders.hold(provider))
    try:
        assert works(program)
        with spoil(holders):
            wait_until(lambda: health(stack) == code, lambda: f"{health(stack)} instead of {code}", 20)
            if fault in LOCKING:
                wait_until(lambda: standing(stack)[0] == "locked", lambda: "not locked", 10)
                wait_until(lambda: refuses_all(program), lambda: "still open", REVOKED_WITHIN_SECONDS)
            else:  # nobody's decision: what is open stays so for the grace, and people are told
                assert standing(stack) == ("active", ())
                assert works(program)
            told = shown(stack)
            assert told["health"] == code
            assert told["health_message"]
            assert told["health_hint"]
            assert told["root_key_mode"] == provider
        wait_until(lambda: health(stack) == "ok", lambda: f"{health(stack)} after the fault", 30)
        wait_until(lambda: standing(stack) == ("active", ()), lambda: "it does not unlock by itself")
        wait_until(lambda: works(program), lambda: "it does not work after the fault")
    finally:
        change(None)


# ── the attack ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_operator_with_everything_but_the_customers_key_opens_no_service_key(
    stack: Stack, holders: Holders, program: Program, change: Any
) -> None:
    """Every row, every secret file, both servers: the database's administrator, each identity at the key server."""
    holder = holders.hold("aws-kms")
    change(holder)
    holder.take_away()
    wait_until(lambda: standing(stack)[0] == "locked", lambda: "not locked")
    try:
        attempts = list(_operators_attempts(stack, holders))
        assert len(attempts) >= 5
        for what, attempt in attempts:
            with pytest.raises((OpenKcmError, UnicodeDecodeError)):
                pytest.fail(f"{what} opened a service key: {attempt()!r}")
    finally:
        holder.give_back()
        wait_until(lambda: standing(stack) == ("active", ()), lambda: "it does not unlock")
    wait_until(lambda: works(program), lambda: "nothing opens after it was given back")
    change(None)


def _operators_attempts(stack: Stack, holders: Holders) -> Iterator[tuple[str, Callable[[], ServiceKey | bytes]]]:
    from keystores.platform import PlatformRootKey  # noqa: PLC0415 - the attacker's tools
    from keystores.providers import CustomerRootKeys, Reach  # noqa: PLC0415 - the same
    from vault.root_keys import TransitRootKeys  # noqa: PLC0415 - the same
    from vault.tokens import TenantTokens  # noqa: PLC0415 - the same
    from vault.transit import TransitTenantKeys  # noqa: PLC0415 - the same

    with stack.owner() as owner:
        owner.execute("set row_security = off")
        rows = owner.execute(
            "select service, version, wrapped from okcm.service_key where tenant_id = %s", [TENANT]
        ).fetchall()
        keys = owner.execute(
            "select root_key_id, place, credentials, probe from okcm.root_key"
            " where tenant_id = %s and credentials is not null",
            [TENANT],
        ).fetchall()
        sealed = owner.execute(
            "select request_id, sealed from okcm.root_key_request where tenant_id = %s and sealed is not null", [TENANT]
        ).fetchall()
    assert rows
    (root_key_id, place, stored, _probe) = keys[0]
    vault = stack.vault(Role.WORKER)
    tenant_keys = TransitTenantKeys(vault, TenantTokens(vault, stack.secret(BOUNDARY_IDENTITY)))
    # The credentials are ours to read: they open the door at the customer's server, which is shut.
    credentials = Credentials.load(tenant_keys.decrypt(credentials_context(TENANT, root_key_id), stored))
    assert credentials == holders.user.credentials()
    theirs = CustomerRootKeys(Reach(aws_endpoint=holders.aws.url)).open(TENANT, parse_place(place), credentials)

    for service, version, wrapped in rows:
        context = Context(TENANT, ids.l2_key(TENANT), service, Purpose.SERVICE_KEY, str(version))

        def through_their_key(context: Context = context, wrapped: bytes = wrapped) -> bytes:
            return tenant_keys.decrypt(context, theirs.unwrap(context, wrapped).decode("ascii"))

        yield f"{service}: the stored credentials", through_their_key
        for role in (Role.WORKER, Role.CRYPTO):
            platform = PlatformRootKey(TransitRootKeys(stack.vault(role)), "eu-west-1")
            yield (
                f"{service}: the platform's root key as {role}",
                lambda platform=platform, context=context, wrapped=wrapped: platform.unwrap(context, wrapped),
            )
        yield (
            f"{service}: the tenant key alone",
            lambda context=context, wrapped=wrapped: tenant_keys.decrypt(context, wrapped.decode("ascii")),
        )
        for part in range(0, len(wrapped), 64):
            text = b"vault:v1:" + wrapped[part:]
            yield (
                f"{service}: a part of it as a ciphertext of the tenant key",
                lambda context=context, text=text: tenant_keys.decrypt(context, text.decode("latin-1")),
            )
    for request_id, text in sealed:
        yield (
            "credentials of a request that is not taken",
            lambda request_id=request_id, text=text: unseal(stack.secret(INTAKE_KEY), TENANT, request_id, text).dump(),
        )
    with pytest.raises(RootKeyDisabled):
        theirs.unwrap(Context(TENANT, "", "", Purpose.VERIFY, ""), b"x")
    assert WrongContext.code
