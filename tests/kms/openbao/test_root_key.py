"""A root key in a customer's own OpenBao under the contract of all root keys."""

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


def opened(place: OpenBaoKeyRef, credentials: Credentials, reach: EgressPolicy = REACH) -> RootKey:
    return RootKeyProviders(reach).open(TENANT, place, credentials)


@dataclass
class OpenBaoHolder:
    root_key: RootKey
    bao: CustomerOpenBao
    version = 1

    @property
    def another(self) -> RootKey:
        self.bao.make_key("another")
        return opened(self.bao.place("another"), self.bao.token())

    @property
    def missing(self) -> RootKey:
        return opened(self.bao.place("nothing"), self.bao.token())

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
    return OpenBaoHolder(opened(bao.place(), bao.token()), bao)


class TestOpenBaoRootKey(RootKeyContract):
    pass


@pytest.fixture
def quick(bao: CustomerOpenBao) -> Iterator[FaultProxy]:
    with FaultProxy.running(bao.url) as proxy:
        yield proxy


class TestWhatHappensToTheKey:
    @pytest.mark.parametrize("capability", ["update", "create"])
    def test_one_that_is_deleted_is_missed_and_not_made_anew(self, bao: CustomerOpenBao, capability: str) -> None:
        bao.make_key("gone")
        root_key = opened(bao.place("gone"), bao.token())
        wrapped = root_key.wrap(CONTEXT, INNER)
        bao.destroy_key("gone")
        with bao.allowing(encrypt=f'update", "{capability}'):
            with pytest.raises(RootKeyMissing):
                root_key.wrap(CONTEXT, INNER)
            with pytest.raises(RootKeyMissing):
                root_key.unwrap(CONTEXT, wrapped)
        assert bao.admin.read("transit/keys/gone") is None

    def test_another_under_the_same_name_does_not_open_what_the_former_wrapped(self, bao: CustomerOpenBao) -> None:
        bao.make_key("swapped")
        root_key = opened(bao.place("swapped"), bao.token())
        wrapped = root_key.wrap(CONTEXT, INNER)
        bao.destroy_key("swapped")
        bao.make_key("swapped")
        with pytest.raises(WrongContext):
            root_key.unwrap(CONTEXT, wrapped)
        assert root_key.unwrap(CONTEXT, root_key.wrap(CONTEXT, INNER)) == INNER

    def test_a_derived_key_binds_the_context_as_well(self, bao: CustomerOpenBao) -> None:
        bao.make_key("derived", derived=True)
        root_key = opened(bao.place("derived"), bao.token())
        wrapped = root_key.wrap(CONTEXT, INNER)
        assert root_key.unwrap(CONTEXT, wrapped) == INNER
        with pytest.raises(WrongContext):
            root_key.unwrap(replace(CONTEXT, object_id="2"), wrapped)
        assert root_key.validate() == []

    def test_a_ciphertext_below_the_least_version_is_not_opened(self, bao: CustomerOpenBao) -> None:
        bao.make_key("rotated")
        root_key = opened(bao.place("rotated"), bao.token())
        wrapped = root_key.wrap(CONTEXT, INNER)
        bao.admin.write("transit/keys/rotated/rotate")
        assert root_key.unwrap(CONTEXT, wrapped) == INNER
        bao.admin.write("transit/keys/rotated/config", {"min_decryption_version": 2})
        with pytest.raises(RootKeyDisabled):
            root_key.unwrap(CONTEXT, wrapped)

    def test_a_sealed_server_is_a_disabled_key(self, bao: CustomerOpenBao, holder: OpenBaoHolder) -> None:
        with bao.sealed():
            with pytest.raises(RootKeyDisabled, match="sealed"):
                holder.root_key.wrap(CONTEXT, INNER)
            (problem,) = holder.root_key.validate()
        assert (type(problem), problem.message) == (RootKeyDisabled, "the key server is sealed")

    def test_a_server_that_hangs_is_slow(self, bao: CustomerOpenBao) -> None:
        root_key = opened(bao.place(), bao.token(), replace(REACH, timeout_seconds=0.3))
        with bao.paused():
            with pytest.raises(RootKeyTimeout):
                root_key.wrap(CONTEXT, INNER)
            assert [type(problem) for problem in root_key.validate()] == [RootKeyTimeout]

    @pytest.mark.parametrize("place", [{"mount": "elsewhere"}, {"namespace": "nobody"}], ids=str)
    def test_a_place_that_is_not_there_is_missing(self, bao: CustomerOpenBao, place: dict[str, str]) -> None:
        root_key = opened(bao.place(**place), bao.token())
        problem = root_key.validate()[0]
        assert isinstance(problem, RootKeyDenied | RootKeyMissing)


class TestCredentials:
    def test_a_token_that_was_revoked_is_told_from_a_policy(self, bao: CustomerOpenBao) -> None:
        token = bao.token()
        root_key = opened(bao.place(), token)
        wrapped = root_key.wrap(CONTEXT, INNER)
        bao.revoke(token)
        for use in (lambda: root_key.wrap(CONTEXT, INNER), lambda: root_key.unwrap(CONTEXT, wrapped)):
            with pytest.raises(RootKeyCredentialsRefused):
                use()
        assert [type(problem) for problem in root_key.validate()] == [RootKeyCredentialsRefused]

    @pytest.mark.parametrize("token", ["s.nobodys", "with space", "line\nbreak", "ümlaut"])
    def test_nonsense_is_no_token(self, bao: CustomerOpenBao, token: str) -> None:
        root_key = opened(bao.place(), Credentials(token=SecretStr(token)))
        with pytest.raises(RootKeyCredentialsRefused) as failed:
            root_key.wrap(CONTEXT, INNER)
        assert token not in str(failed.value) + repr(failed.value.__context__)

    @pytest.mark.full  # in real time; the ordinary tier has the moment of a renewal in test_providers.TestSessions
    def test_periodic_token_is_renewed_before_its_end(self, bao: CustomerOpenBao, quick: FaultProxy) -> None:
        root_key = opened(bao.place(address=quick.url), bao.token(period="5s"))
        wrapped = root_key.wrap(CONTEXT, INNER)
        began = time.monotonic()
        while time.monotonic() < began + 6:
            assert root_key.unwrap(CONTEXT, wrapped) == INNER
            time.sleep(0.1)
        assert 2 <= sum("renew-self" in seen.line for seen in quick.seen) <= 6

    def test_the_preflight_tells_of_a_token_that_will_end(self, bao: CustomerOpenBao) -> None:
        for token in (bao.token(period="", ttl="1h"), bao.token(period="24h", renewable=False)):
            (problem,) = opened(bao.place(), token).validate()
            assert type(problem) is RootKeyUnsuitable
            assert "the token ends on" in problem.message

    def test_an_approle_logs_in_once_for_many(self, bao: CustomerOpenBao, quick: FaultProxy) -> None:
        place, secret_id = bao.place(address=quick.url, role_id="openkcm"), bao.secret_id()
        root_keys = RootKeyProviders(REACH)
        opened_keys = [root_keys.open(TENANT, place, secret_id) for _ in range(4)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: opened_keys[number % 4].wrap(CONTEXT, INNER), range(24)))
        assert sum("approle/login" in seen.line for seen in quick.seen) == 1

    def test_revoked_token_of_an_approle_is_replaced(self, bao: CustomerOpenBao) -> None:
        root_key = opened(bao.place(role_id="openkcm"), bao.secret_id())
        wrapped = root_key.wrap(CONTEXT, INNER)
        bao.revoke_logins()
        assert root_key.unwrap(CONTEXT, wrapped) == INNER

    def test_wrong_secret_id_is_rejected(self, bao: CustomerOpenBao) -> None:
        root_key = opened(bao.place(role_id="openkcm"), Credentials(secret_id=SecretStr("wrong")))
        with pytest.raises(RootKeyCredentialsRefused):
            root_key.wrap(CONTEXT, INNER)
        assert [type(problem) for problem in root_key.validate()] == [RootKeyCredentialsRefused]


class TestPreflight:
    @pytest.mark.parametrize("missing", [("encrypt",), ("decrypt",), ("keys",), ("encrypt", "decrypt")], ids=",".join)
    def test_it_names_the_paths_and_what_it_says_mends_them(self, bao, holder, missing) -> None:
        with bao.allowing(tuple(path for path in ALL if path not in missing)):
            (denied,) = holder.root_key.validate()
            assert type(denied) is RootKeyDenied
            for path in ALL:
                assert (f"transit/{path}/{KEY}" in denied.message) is (path in missing)
            policy = denied.hint.removeprefix("let the policy say: ")
            before = (bao.admin.read("sys/policies/acl/openkcm") or {})["policy"]
            bao.admin.write("sys/policies/acl/openkcm", {"policy": f"{before}\n{policy}"})
            assert holder.root_key.validate() == []

    @pytest.mark.parametrize(
        ("fields", "told"),
        [
            ({"type": "ed25519"}, ["the key is of type ed25519", "the root key cannot do what is needed"]),
            ({"type": "rsa-2048"}, ["the key is of type rsa-2048", "the root key cannot do what is needed"]),
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
    def test_it_tells_all_that_makes_a_key_unsuitable(self, bao, fields, told) -> None:
        name = "-".join(map(str, [*fields, *fields.values()])).lower()
        bao.make_key(name, **fields)
        problems = opened(bao.place(name), bao.token()).validate()
        assert {type(problem) for problem in problems} <= {RootKeyUnsuitable}
        assert [problem.message[: len(start)] for problem, start in zip(problems, told, strict=True)] == told

    def test_it_warns_of_a_policy_by_which_a_key_would_be_made_unasked(self, bao, holder) -> None:
        with bao.allowing(encrypt='create", "update'):
            (problem,) = holder.root_key.validate()
        assert type(problem) is RootKeyUnsuitable
        assert f'path "transit/encrypt/{KEY}" {{ capabilities = ["update"] }}' in problem.hint


class TestFaultsOnTheWay:
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
    def test_each_is_its_own_error(self, bao, quick, fault, expected) -> None:
        place, token = bao.place(address=quick.url), bao.token()
        patient, hasty = opened(place, token), opened(place, token, replace(REACH, timeout_seconds=1))
        wrapped = patient.wrap(CONTEXT, INNER)
        quick.seen.clear()
        with quick.spoiling(fault, only="/decrypt/"), pytest.raises(OpenKcmError) as failed:
            (hasty if expected is RootKeyTimeout else patient).unwrap(CONTEXT, wrapped)
        assert type(failed.value) is expected
        asked = [seen.line for seen in quick.seen if "renew-self" not in seen.line]
        assert len(asked) == 1, "nothing is tried again or followed"
        assert patient.unwrap(CONTEXT, wrapped) == INNER
