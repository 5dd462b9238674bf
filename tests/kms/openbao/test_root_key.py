"""The contract of root keys for a customer's OpenBao."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import pytest
from pydantic import SecretStr

from core.errors.keys import (
    RootKeyCredentialsRefused,
    RootKeyDenied,
    RootKeyDisabled,
    RootKeyMissing,
    RootKeyServerError,
    RootKeyThrottled,
    RootKeyTimeout,
    RootKeyUnsuitable,
    WrongContext,
)
from core.keys.root_keys import Credentials, OpenBaoKeyRef
from kms.egress_policy import EgressPolicy
from kms.interfaces import RootKey
from kms.providers import RootKeyProviders
from openkcm.errors import OpenKcmError
from tests.contracts.root_keys import CONTEXT, INNER, TENANT, RootKeyContract
from tests.kms.customer_openbao import ALL, KEY, LOOPBACK, CustomerOpenBao
from tests.kms.fault_proxy import COMMON, FaultProxy, answering

pytestmark = pytest.mark.integration

REACH = EgressPolicy(networks=LOOPBACK, timeout_seconds=60)


def open_root_key(place: OpenBaoKeyRef, credentials: Credentials, reach: EgressPolicy = REACH) -> RootKey:
    return RootKeyProviders(reach).open(TENANT, place, credentials)


@dataclass
class OpenBaoHolder:
    root_key: RootKey
    bao: CustomerOpenBao
    version = 1

    @property
    def another(self) -> RootKey:
        self.bao.make_key("another")
        return open_root_key(self.bao.place("another"), self.bao.token())

    @property
    def missing(self) -> RootKey:
        return open_root_key(self.bao.place("nothing"), self.bao.token())

    def disabled(self) -> AbstractContextManager[None]:
        return self.bao.disabled()

    def denied(self) -> AbstractContextManager[None]:
        return self.bao.allowing(())

    def down(self) -> AbstractContextManager[None]:
        return self.bao.down()


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CustomerOpenBao]:
    bao = CustomerOpenBao.start(tmp_path_factory.mktemp("customer"))
    yield bao
    bao.kill()


@pytest.fixture
def holder(bao: CustomerOpenBao) -> OpenBaoHolder:
    return OpenBaoHolder(open_root_key(bao.place(), bao.token()), bao)


class TestOpenBaoRootKey(RootKeyContract):
    pass


@pytest.fixture
def quick(bao: CustomerOpenBao) -> Iterator[FaultProxy]:
    with FaultProxy.running(bao.url) as proxy:
        yield proxy


class TestKeyChanges:
    @pytest.mark.parametrize("capability", ["update", "create"])
    def test_deleted_key_is_missing_and_not_created_again(self, bao: CustomerOpenBao, capability: str) -> None:
        bao.make_key("gone")
        root_key = open_root_key(bao.place("gone"), bao.token())
        wrapped = root_key.wrap(CONTEXT, INNER)
        bao.destroy_key("gone")
        with bao.allowing(encrypt=f'update", "{capability}'):
            with pytest.raises(RootKeyMissing):
                root_key.wrap(CONTEXT, INNER)
            with pytest.raises(RootKeyMissing):
                root_key.unwrap(CONTEXT, wrapped)
        assert bao.admin.read("transit/keys/gone") is None

    def test_new_key_of_the_same_name_rejects_ciphertexts_of_the_former_key(self, bao: CustomerOpenBao) -> None:
        bao.make_key("swapped")
        root_key = open_root_key(bao.place("swapped"), bao.token())
        wrapped = root_key.wrap(CONTEXT, INNER)
        bao.destroy_key("swapped")
        bao.make_key("swapped")
        with pytest.raises(WrongContext):
            root_key.unwrap(CONTEXT, wrapped)
        assert root_key.unwrap(CONTEXT, root_key.wrap(CONTEXT, INNER)) == INNER

    def test_derived_key_binds_the_context_too(self, bao: CustomerOpenBao) -> None:
        bao.make_key("derived", derived=True)
        root_key = open_root_key(bao.place("derived"), bao.token())
        wrapped = root_key.wrap(CONTEXT, INNER)
        assert root_key.unwrap(CONTEXT, wrapped) == INNER
        with pytest.raises(WrongContext):
            root_key.unwrap(CONTEXT._replace(object_id="2"), wrapped)
        assert root_key.validate() == []

    def test_ciphertext_below_the_minimum_version_is_rejected(self, bao: CustomerOpenBao) -> None:
        bao.make_key("rotated")
        root_key = open_root_key(bao.place("rotated"), bao.token())
        wrapped = root_key.wrap(CONTEXT, INNER)
        bao.admin.write("transit/keys/rotated/rotate")
        assert root_key.unwrap(CONTEXT, wrapped) == INNER
        bao.admin.write("transit/keys/rotated/config", {"min_decryption_version": 2})
        with pytest.raises(RootKeyDisabled):
            root_key.unwrap(CONTEXT, wrapped)

    def test_sealed_server_is_reported_as_a_disabled_key(self, bao: CustomerOpenBao, holder: OpenBaoHolder) -> None:
        with bao.sealed():
            with pytest.raises(RootKeyDisabled, match="sealed"):
                holder.root_key.wrap(CONTEXT, INNER)
            (problem,) = holder.root_key.validate()
        assert (type(problem), problem.message) == (RootKeyDisabled, "the key server is sealed")

    def test_hanging_server_times_out(self, bao: CustomerOpenBao) -> None:
        root_key = open_root_key(bao.place(), bao.token(), replace(REACH, timeout_seconds=0.3))
        with bao.paused():
            with pytest.raises(RootKeyTimeout):
                root_key.wrap(CONTEXT, INNER)
            assert [type(problem) for problem in root_key.validate()] == [RootKeyTimeout]

    @pytest.mark.parametrize("place", [{"mount": "elsewhere"}, {"namespace": "missing"}], ids=str)
    def test_missing_mount_or_namespace_is_reported_as_a_missing_key(
        self, bao: CustomerOpenBao, place: dict[str, str]
    ) -> None:
        root_key = open_root_key(bao.place(**place), bao.token())
        problem = root_key.validate()[0]
        assert isinstance(problem, RootKeyDenied | RootKeyMissing)


class TestCredentials:
    def test_revoked_token_is_distinguished_from_a_policy_denial(self, bao: CustomerOpenBao) -> None:
        token = bao.token()
        root_key = open_root_key(bao.place(), token)
        wrapped = root_key.wrap(CONTEXT, INNER)
        bao.revoke(token)
        for use in (lambda: root_key.wrap(CONTEXT, INNER), lambda: root_key.unwrap(CONTEXT, wrapped)):
            with pytest.raises(RootKeyCredentialsRefused):
                use()
        assert [type(problem) for problem in root_key.validate()] == [RootKeyCredentialsRefused]

    def test_invalid_token_is_rejected(self, bao: CustomerOpenBao) -> None:
        token = "s.invalid"
        root_key = open_root_key(bao.place(), Credentials(token=SecretStr(token)))
        with pytest.raises(RootKeyCredentialsRefused) as failed:
            root_key.wrap(CONTEXT, INNER)
        assert token not in str(failed.value) + repr(failed.value.__context__)

    @pytest.mark.full  # in real time; test_providers.TestSessions has a fake clock
    def test_periodic_token_is_renewed_before_its_end(self, bao: CustomerOpenBao, quick: FaultProxy) -> None:
        root_key = open_root_key(bao.place(address=quick.url), bao.token(period="5s"))
        wrapped = root_key.wrap(CONTEXT, INNER)
        began = time.monotonic()
        while time.monotonic() < began + 6:
            assert root_key.unwrap(CONTEXT, wrapped) == INNER
            time.sleep(0.1)
        assert 2 <= sum("renew-self" in seen.line for seen in quick.seen) <= 6

    def test_preflight_reports_a_token_that_expires(self, bao: CustomerOpenBao) -> None:
        for token in (bao.token(period="", ttl="1h"), bao.token(period="24h", renewable=False)):
            (problem,) = open_root_key(bao.place(), token).validate()
            assert type(problem) is RootKeyUnsuitable
            assert "the token expires on" in problem.message

    def test_approle_logs_in_once_for_many_requests(self, bao: CustomerOpenBao, quick: FaultProxy) -> None:
        place, secret_id = bao.place(address=quick.url, role_id="openkcm"), bao.secret_id()
        root_keys = RootKeyProviders(REACH)
        opened_keys = [root_keys.open(TENANT, place, secret_id) for _ in range(4)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: opened_keys[number % 4].wrap(CONTEXT, INNER), range(24)))
        assert sum("approle/login" in seen.line for seen in quick.seen) == 1

    def test_revoked_token_of_an_approle_is_replaced(self, bao: CustomerOpenBao) -> None:
        root_key = open_root_key(bao.place(role_id="openkcm"), bao.secret_id())
        wrapped = root_key.wrap(CONTEXT, INNER)
        bao.revoke_logins()
        assert root_key.unwrap(CONTEXT, wrapped) == INNER

    def test_wrong_secret_id_is_rejected(self, bao: CustomerOpenBao) -> None:
        root_key = open_root_key(bao.place(role_id="openkcm"), Credentials(secret_id=SecretStr("wrong")))
        with pytest.raises(RootKeyCredentialsRefused):
            root_key.wrap(CONTEXT, INNER)
        assert [type(problem) for problem in root_key.validate()] == [RootKeyCredentialsRefused]


class TestPreflight:
    @pytest.mark.parametrize("missing", [("encrypt",), ("decrypt",), ("keys",), ("encrypt", "decrypt")], ids=",".join)
    def test_preflight_names_the_denied_paths_and_its_hint_fixes_them(self, bao, holder, missing) -> None:
        with bao.allowing(tuple(path for path in ALL if path not in missing)):
            (denied,) = holder.root_key.validate()
            assert type(denied) is RootKeyDenied
            for path in ALL:
                assert (f"transit/{path}/{KEY}" in denied.message) is (path in missing)
            policy = denied.hint.removeprefix("add to the policy: ")
            before = (bao.admin.read("sys/policies/acl/openkcm") or {})["policy"]
            bao.admin.write("sys/policies/acl/openkcm", {"policy": f"{before}\n{policy}"})
            assert holder.root_key.validate() == []

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            (
                {"type": "ed25519"},
                ["the key is of type ed25519", "the key does not meet the requirements for a root key"],
            ),
            (
                {"type": "rsa-2048"},
                ["the key is of type rsa-2048", "the key does not meet the requirements for a root key"],
            ),
            ({"derived": True, "convergent_encryption": True}, ["the key is convergent"]),
            ({"exportable": True}, ["the key is exportable"]),
            (
                {"exportable": True, "allow_plaintext_backup": True},
                ["the key is exportable", "the key allows plaintext"],
            ),
            ({"type": "chacha20-poly1305"}, []),
        ],
        ids=str,
    )
    def test_preflight_reports_every_unsuitable_property_of_a_key(self, bao, fields, expected) -> None:
        name = "-".join(map(str, [*fields, *fields.values()])).lower()
        bao.make_key(name, **fields)
        problems = open_root_key(bao.place(name), bao.token()).validate()
        assert {type(problem) for problem in problems} <= {RootKeyUnsuitable}
        assert [problem.message[: len(start)] for problem, start in zip(problems, expected, strict=True)] == expected

    def test_preflight_reports_a_policy_that_permits_the_creation_of_a_key(self, bao, holder) -> None:
        with bao.allowing(encrypt='create", "update'):
            (problem,) = holder.root_key.validate()
        assert type(problem) is RootKeyUnsuitable
        assert f'path "transit/encrypt/{KEY}" {{ capabilities = ["update"] }}' in problem.hint


class TestConnectionFaults:
    @pytest.mark.parametrize(
        ("fault", "expected"),
        [
            (answering(429, {"errors": ["quota"]}), RootKeyThrottled),
            (answering(500, {"errors": ["internal"]}), RootKeyServerError),
            (answering(503, {"errors": ["Vault is sealed"]}), RootKeyDisabled),
            (answering(503, b"overloaded"), RootKeyServerError),
            (answering(200, {"data": None}), RootKeyServerError),
            (answering(200, [1]), RootKeyServerError),
            (answering(400, {"errors": ["an unknown error"]}), RootKeyServerError),
            *COMMON,
        ],
        ids=lambda value: getattr(value, "__name__", str(value)),
    )
    def test_each_fault_has_its_error(self, bao, quick, fault, expected) -> None:
        place, token = bao.place(address=quick.url), bao.token()
        patient, hasty = open_root_key(place, token), open_root_key(place, token, replace(REACH, timeout_seconds=1))
        wrapped = patient.wrap(CONTEXT, INNER)
        quick.seen.clear()
        with quick.spoiling(fault, only="/decrypt/"), pytest.raises(OpenKcmError) as failed:
            (hasty if expected is RootKeyTimeout else patient).unwrap(CONTEXT, wrapped)
        assert type(failed.value) is expected
        asked = [seen.line for seen in quick.seen if "renew-self" not in seen.line]
        assert len(asked) == 1, "no retry and no redirect"
        assert patient.unwrap(CONTEXT, wrapped) == INNER
