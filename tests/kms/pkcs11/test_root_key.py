"""The contract of root keys for PKCS #11 tokens, with changes to SoftHSM by other processes."""

import contextlib
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pkcs11.constants import TokenFlag

from core.errors.keys import (
    RootKeyCredentialsRefused,
    RootKeyDisabled,
    RootKeyMissing,
    RootKeyRefused,
    RootKeyThrottled,
    RootKeyTimeout,
    RootKeyUnreachable,
    RootKeyUnsuitable,
    WrongContext,
)
from kms.egress_policy import EgressPolicy
from kms.interfaces import RootKey
from kms.pkcs11.module import Module
from kms.pkcs11.worker_thread import ModuleThread
from kms.providers import RootKeyProviders
from openkcm.errors import OpenKcmError
from tests.concurrency import wait_until
from tests.contracts.root_keys import CONTEXT, INNER, TENANT, RootKeyContract
from tests.kms.softhsm import PIN, SoftHsm
from tests.kms.undoing import undone

TOKEN = "acme"

pytestmark = [
    pytest.mark.integration,
    # python-pkcs11 ends a search at garbage collection, which may follow a reset of the library and its sessions.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@dataclass
class Pkcs11Holder:
    root_keys: RootKeyProviders
    hsm: SoftHsm
    root_key: RootKey
    refusal = RootKeyCredentialsRefused

    @property
    def another(self) -> RootKey:
        name = f"another-{uuid.uuid4().hex[:8]}"
        self.hsm.make_key(TOKEN, name)
        return self.root_keys.open(TENANT, self.hsm.place(TOKEN, name), self.hsm.pin())

    @property
    def missing(self) -> RootKey:
        return self.root_keys.open(TENANT, self.hsm.place(TOKEN, "nothing"), self.hsm.pin())

    def disabled(self) -> AbstractContextManager[None]:
        return undone(lambda: self.hsm.switch(TOKEN, on=False), lambda: self.hsm.switch(TOKEN, on=True))

    @contextmanager
    def denied(self) -> Iterator[None]:
        # A token has no permissions, only a PIN, which each change of the PIN in use presents again.
        right, self.root_key = self.root_key, self.root_keys.open(TENANT, self.hsm.place(TOKEN), self.hsm.pin("wrong"))
        try:
            yield
        finally:
            self.root_key = right

    @contextmanager
    def down(self) -> Iterator[None]:
        self.hsm.take_away(TOKEN)
        try:
            yield
        finally:
            self.hsm.bring_back(TOKEN)
            until_reached(self.root_key)


def until_reached(root_key: RootKey) -> None:
    """Wait until the token is found: the module searches at most once a second, because that ends all logins."""

    def is_reached() -> bool:
        try:
            root_key.wrap(CONTEXT, INNER)
        except RootKeyUnreachable:
            return False
        return True

    wait_until(is_reached)


@pytest.fixture(scope="module")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> SoftHsm:
    hsm = SoftHsm.create(tmp_path_factory.mktemp("softhsm"))
    hsm.make_token(TOKEN)
    hsm.make_key(TOKEN)
    return hsm


@pytest.fixture(scope="module")
def root_keys(hsm: SoftHsm) -> RootKeyProviders:
    return providers(hsm, TOKEN)


def providers(hsm: SoftHsm, *labels: str) -> RootKeyProviders:
    """Return providers for which the operator assigned these tokens to TENANT."""
    return RootKeyProviders(EgressPolicy(pkcs11_module=hsm.module, pkcs11_tokens=dict.fromkeys(labels, TENANT)))


@pytest.fixture
def holder(hsm: SoftHsm, root_keys: RootKeyProviders) -> Pkcs11Holder:
    return Pkcs11Holder(root_keys, hsm, root_keys.open(TENANT, hsm.place(TOKEN), hsm.pin()))


class TestPkcs11RootKey(RootKeyContract):
    pass


@pytest.fixture
def key(hsm: SoftHsm) -> str:
    """Return a key that only this test uses."""
    name = f"key-{uuid.uuid4().hex[:8]}"
    hsm.make_key(TOKEN, name)
    return name


def new_token(hsm: SoftHsm) -> str:
    """Return the label of a new token with a key."""
    label = f"token-{uuid.uuid4().hex[:8]}"
    hsm.make_token(label)
    hsm.make_key(label)
    return label


def types(problems: Sequence[OpenKcmError]) -> list[type[OpenKcmError]]:
    return [type(problem) for problem in problems]


class TestChangesByOtherProcesses:
    @pytest.mark.parametrize("use", ["ENCRYPT", "DECRYPT"])
    def test_disabled_and_enabled_use_is_detected(self, hsm, root_keys, key, use) -> None:
        root_key = root_keys.open(TENANT, hsm.place(TOKEN, key), hsm.pin())
        wrapped = root_key.wrap(CONTEXT, INNER)
        hsm.switch(TOKEN, key, on=False, uses=(use,))
        with pytest.raises(RootKeyDisabled, match=f"CKA_{use} of the root key is off"):
            root_key.wrap(CONTEXT, INNER) if use == "ENCRYPT" else root_key.unwrap(CONTEXT, wrapped)
        (problem,) = root_key.validate()
        assert (type(problem), problem.message) == (RootKeyDisabled, f"CKA_{use} of the root key is off")
        hsm.switch(TOKEN, key, on=True, uses=(use,))
        assert root_key.unwrap(CONTEXT, wrapped) == INNER
        assert root_key.validate() == []

    def test_deleted_recreated_and_duplicated_key_is_detected(self, hsm, root_keys, key) -> None:
        root_key = root_keys.open(TENANT, hsm.place(TOKEN, key), hsm.pin())
        wrapped = root_key.wrap(CONTEXT, INNER)
        hsm.destroy_key(TOKEN, key)
        for use in (lambda: root_key.wrap(CONTEXT, INNER), lambda: root_key.unwrap(CONTEXT, wrapped)):
            with pytest.raises(RootKeyMissing):
                use()
        hsm.make_key(TOKEN, key)
        with pytest.raises(WrongContext):
            root_key.unwrap(CONTEXT, wrapped)
        assert root_key.unwrap(CONTEXT, root_key.wrap(CONTEXT, INNER)) == INNER
        hsm.make_key(TOKEN, key)
        with pytest.raises(RootKeyUnsuitable, match="2 keys"):
            root_key.wrap(CONTEXT, INNER)
        assert types(root_key.validate()) == [RootKeyUnsuitable]

    def test_token_created_while_the_process_runs_is_detected(self, hsm, holder) -> None:
        holder.root_key.wrap(CONTEXT, INNER)
        label = new_token(hsm)
        root_key = providers(hsm, label).open(TENANT, hsm.place(label), hsm.pin())
        until_reached(root_key)
        assert root_key.validate() == []
        assert holder.root_key.validate() == [], "other root keys log in again"

    def test_token_created_again_under_its_label_is_detected(self, hsm: SoftHsm) -> None:
        label = new_token(hsm)
        root_key = providers(hsm, label).open(TENANT, hsm.place(label), hsm.pin())
        until_reached(root_key)
        wrapped = root_key.wrap(CONTEXT, INNER)
        hsm.take_away(label)
        hsm.make_token(label)
        hsm.make_key(label)
        with pytest.raises(RootKeyUnreachable):
            root_key.unwrap(CONTEXT, wrapped)
        until_reached(root_key)
        with pytest.raises(WrongContext):
            root_key.unwrap(CONTEXT, wrapped)


class TestPins:
    def test_login_with_another_pin_grants_no_access(self, hsm, root_keys, holder) -> None:
        wrapped = holder.root_key.wrap(CONTEXT, INNER)
        intruder = root_keys.open(TENANT, hsm.place(TOKEN), hsm.pin("guess"))
        for use in (lambda: intruder.wrap(CONTEXT, INNER), lambda: intruder.unwrap(CONTEXT, wrapped)):
            with pytest.raises(RootKeyCredentialsRefused) as failed:
                use()
            assert "guess" not in f"{failed.value} {failed.value.hint} {failed.value.__context__!r}"
        assert holder.root_key.unwrap(CONTEXT, wrapped) == INNER

    def test_rejected_pin_is_used_again_only_by_a_preflight(self, hsm) -> None:
        label = new_token(hsm)
        root_keys = providers(hsm, label)
        root_key = root_keys.open(TENANT, hsm.place(label), hsm.pin("4321-other"))
        until_reached(root_keys.open(TENANT, hsm.place(label), hsm.pin()))
        assert types(root_key.validate()) == [RootKeyCredentialsRefused]
        hsm.change_pin(label, PIN, "4321-other")
        with pytest.raises(RootKeyCredentialsRefused, match="not accepted"):
            root_key.wrap(CONTEXT, INNER)
        wait_until(lambda: root_key.validate() == [])
        assert root_key.unwrap(CONTEXT, root_key.wrap(CONTEXT, INNER)) == INNER

    def test_changed_pin_is_rejected_within_five_minutes(self, hsm: SoftHsm) -> None:
        now = [1000.0]
        module = Module(hsm.module, lambda: now[0])
        with pytest.raises(RootKeyUnreachable):
            module.session("not there", PIN)  # it loads the library, which does not detect a token created later
        label = new_token(hsm)
        with pytest.raises(RootKeyUnreachable):
            module.session(label, PIN)
        now[0] += 2
        module.session(label, PIN)
        hsm.change_pin(label, PIN, "4321-other")
        module.session(label, PIN)
        now[0] += 301
        with pytest.raises(RootKeyCredentialsRefused):
            module.session(label, PIN)


class TestTokensOfTenants:
    def test_other_tenants_token_is_refused_like_an_unknown_one_and_never_gets_a_pin(self, hsm: SoftHsm) -> None:
        label = new_token(hsm)
        root_keys = providers(hsm, label)
        root_key = root_keys.open(TENANT, hsm.place(label), hsm.pin())
        until_reached(root_key)
        refusals = set()
        for named in (*[label] * 9, label.upper(), f"{label} ", "no-such-token"):
            with pytest.raises(RootKeyRefused) as refused:
                root_keys.open("other-corp", hsm.place(named), hsm.pin("wrong")).validate()
            refusals.add((refused.value.message, refused.value.hint))
        assert len(refusals) == 1
        assert not hsm.flags(label) & TokenFlag.USER_PIN_COUNT_LOW
        assert root_key.validate() == []

    def test_token_with_one_try_left_is_a_temporary_failure_unless_its_pin_was_rejected(self, hsm: SoftHsm) -> None:
        label, module, now = self.loaded(hsm)
        module.session(label, PIN)
        before = hsm.flags(label) | TokenFlag.USER_PIN_FINAL_TRY
        hsm.set_flags(label, before)
        module.session(label, PIN)  # the login is still in force
        now[0] += 301
        with pytest.raises(RootKeyUnreachable, match="no login is attempted"):
            module.session(label, PIN)
        with pytest.raises(RootKeyUnreachable, match="no login is attempted"):
            module.session(label, "another", verify_pin=True)
        assert hsm.flags(label) == before
        hsm.set_flags(label, before & ~TokenFlag.USER_PIN_FINAL_TRY)
        now[0] += 301
        with pytest.raises(RootKeyCredentialsRefused):
            module.session(label, "wrong", verify_pin=True)
        hsm.set_flags(label, before)
        now[0] += 301
        with pytest.raises(RootKeyCredentialsRefused, match="no login is attempted"):
            module.session(label, "wrong", verify_pin=True)
        hsm.set_flags(label, before | TokenFlag.USER_PIN_LOCKED)
        now[0] += 301
        with pytest.raises(RootKeyCredentialsRefused, match="locked"):
            module.session(label, PIN)

    def test_preflights_with_wrong_pins_are_limited_for_each_token(self, hsm: SoftHsm) -> None:
        label, module, now = self.loaded(hsm)
        untried = hsm.flags(label)
        for number in range(3):
            with pytest.raises(RootKeyCredentialsRefused):
                module.session(label, f"wrong-{number}", verify_pin=True)
            hsm.set_flags(label, untried)
            now[0] += 60
        for pin in ("wrong-0", "wrong-4", PIN):
            with pytest.raises(RootKeyThrottled):
                module.session(label, pin, verify_pin=True)
        assert hsm.flags(label) == untried, "no PIN was sent"
        assert module.session(label, PIN), "services of the tenant are not affected"
        now[0] += 541
        assert module.session(label, PIN, verify_pin=True)

    @staticmethod
    def loaded(hsm: SoftHsm) -> tuple[str, Module, list[float]]:
        """Return a new token, a module that has found it, and the module's clock."""
        label, now = new_token(hsm), [1000.0]
        module = Module(hsm.module, lambda: now[0])
        with contextlib.suppress(RootKeyUnreachable):
            module.session(label, PIN)  # a loaded library does not detect a token created later
        now[0] += 2
        module.session(label, PIN)
        return label, module, now


class TestPreflight:
    @pytest.mark.parametrize(
        ("made", "expected"),
        [
            ({"SENSITIVE": False, "EXTRACTABLE": True}, ["not sensitive", "extractable"]),
            ({"bits": 128}, ["256 bits"]),
        ],
        ids=str,
    )
    def test_preflight_reports_every_unsuitable_property_of_a_key(self, hsm, root_keys, made, expected) -> None:
        name = f"key-{uuid.uuid4().hex[:8]}"
        hsm.make_key(TOKEN, name, **made)
        problems = root_keys.open(TENANT, hsm.place(TOKEN, name), hsm.pin()).validate()
        assert set(types(problems)) == {RootKeyUnsuitable}
        assert all(part in problem.message for part, problem in zip(expected, problems, strict=True))

    def test_preflight_names_the_missing_mechanism_of_a_token(self, hsm: SoftHsm, tmp_path: Path) -> None:
        configuration = tmp_path / "softhsm2.conf"
        configuration.write_text(f"{hsm.configuration.read_text()}slots.mechanisms = CKM_AES_CBC\n")
        asked = subprocess.run(
            [sys.executable, "-c", _VALIDATE, str(hsm.module), TOKEN, PIN],
            env={**os.environ, "SOFTHSM2_CONF": str(configuration)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert asked.stdout.splitlines()[0] == "root_key_unsuitable the token lacks the mechanism CKM_AES_GCM"


_VALIDATE = """
import sys
from pathlib import Path
from pydantic import SecretStr
from kms.pkcs11.module import Module
from kms.pkcs11.worker_thread import ModuleThread
from kms.egress_policy import EgressPolicy
from kms.providers import RootKeyProviders
from core.keys.root_keys import Credentials, Pkcs11KeyRef
place = Pkcs11KeyRef(token=sys.argv[2], key="openkcm-root")
policy = EgressPolicy(pkcs11_module=Path(sys.argv[1]), pkcs11_tokens={sys.argv[2]: "acme-corp"})
root_keys = RootKeyProviders(policy)
for problem in root_keys.open("acme-corp", place, Credentials(pin=SecretStr(sys.argv[3]))).validate():
    print(problem.code, problem.message)
"""


class TestTheModule:
    def test_pkcs11_key_is_rejected_without_a_configured_module(self, hsm: SoftHsm) -> None:
        with pytest.raises(RootKeyRefused):
            RootKeyProviders(EgressPolicy()).open(TENANT, hsm.place(TOKEN), hsm.pin())

    def test_module_that_cannot_be_loaded_is_reported_as_unreachable(self, hsm: SoftHsm, tmp_path: Path) -> None:
        (tmp_path / "text.so").write_text("not a library")
        for path in (tmp_path / "nothing.so", tmp_path / "text.so"):
            policy = EgressPolicy(pkcs11_module=path, pkcs11_tokens={TOKEN: TENANT})
            root_key = RootKeyProviders(policy).open(TENANT, hsm.place(TOKEN), hsm.pin())
            with pytest.raises(RootKeyUnreachable, match="cannot be loaded"):
                root_key.wrap(CONTEXT, INNER)

    def test_hanging_module_blocks_its_thread_and_no_caller(self) -> None:
        thread, go_on = ModuleThread(), threading.Event()
        done: list[str] = []
        with pytest.raises(RootKeyTimeout):
            thread.run(go_on.wait, 0.1)
        with pytest.raises(RootKeyTimeout):
            thread.run(lambda: done.append("its caller has given up"), 0.1)
        go_on.set()
        assert thread.run(lambda: "well", 60) == "well"
        assert done == []

    @pytest.mark.parametrize("wrapped", [b"\x02" + bytes(60), b"\x01" + bytes(28)], ids=["version", "short"])
    def test_malformed_wrap_is_rejected_without_a_call_of_the_token(self, holder: Pkcs11Holder, wrapped: bytes) -> None:
        with pytest.raises(WrongContext):
            holder.root_key.unwrap(CONTEXT, wrapped)
